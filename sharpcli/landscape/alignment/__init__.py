"""One network permuted to match another: hidden units are matched by their weights."""
