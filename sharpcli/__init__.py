"""How sharp is a trained network's minimum, and what lies between two of them."""

__version__ = "0.1.0"
