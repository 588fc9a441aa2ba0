"""Options that several commands share; a command gets each group as one value."""
