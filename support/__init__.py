"""What every file needs and no paper mentions: checks, files on disk, settings on the command line."""
