"""The toy world, and all that is only for it."""
