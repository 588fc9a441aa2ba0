"""Loss and metrics at points between checkpoints, stored on disk as they are computed."""
