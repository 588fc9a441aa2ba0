"""Minima to compare: optimizers and one plain training loop.

The settings and the optimizers' descriptions import no torch; `loop` has the loop.
"""

from sharpcli.training.optimizers import OPTIMIZERS, TrainSettings

__all__ = ["OPTIMIZERS", "TrainSettings"]
