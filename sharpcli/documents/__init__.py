"""Results as JSON documents: types, labels, environment, comparison. Does not import torch."""
