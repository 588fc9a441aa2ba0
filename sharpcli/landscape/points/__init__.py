"""Loss and metrics at points between checkpoints, kept on disk as they are found."""
