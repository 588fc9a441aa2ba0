"""Results as JSON documents: their types, labels, environment and comparison. Knows no torch."""
