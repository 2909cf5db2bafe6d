"""What the program builds: what all systems share, PeVL's rivals, its lesser parts and readings."""
