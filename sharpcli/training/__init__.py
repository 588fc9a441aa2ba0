"""Train models to get minima to compare: the optimizers and the training loop.

The settings and the descriptions of the optimizers import no torch; `loop` does.
"""

from sharpcli.training.optimizers import OPTIMIZERS
from sharpcli.training.train_settings import TrainSettings

__all__ = ["OPTIMIZERS", "TrainSettings"]
