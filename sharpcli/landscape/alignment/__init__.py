"""Permute one network to match another: hidden units are matched by their weights."""
