"""Files of other people, read safely: nothing in them is executed, every fault is named."""
