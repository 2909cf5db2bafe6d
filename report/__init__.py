"""What people look at: pictures of results and of what a model attended to."""
