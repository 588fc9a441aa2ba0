"""Minima to compare: optimizers and one plain training loop.

This module holds the settings only and imports no torch; `loop` has the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpcli.errors import UsageError, setting

__all__ = ["OPTIMIZERS", "TrainSettings"]

OptimizerName = Literal["sgd", "adam", "adamw"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "adam", "adamw")
DEFAULT_LR: dict[OptimizerName, float] = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}


@dataclass(frozen=True)
class TrainSettings:
    """How to train. What a setting does not apply to (momentum for Adam) is not used.

    `lr` None is the optimizer's usual one. `until_loss` ends the training after the first epoch
    at whose end the loss on all training data, in eval mode, is at most this; `epochs` ends it in
    any case. `fixed_batch`, if given, is the `batch_size`: the loss couples the examples of a batch
    and is defined on batches of so many. `weight_decay` is the optimizer's own: L2 for sgd and
    adam, decoupled for adamw.
    """

    optimizer: OptimizerName = "sgd"
    lr: float | None = None
    batch_size: int = 32
    epochs: int = 20
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    until_loss: float | None = None
    seed: int = 0
    fixed_batch: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no optimizer can use; raises `UsageError` naming the setting."""
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(
                f"there is no optimizer '{self.optimizer}'", f"there are: {', '.join(OPTIMIZERS)}"
            )
        limits = {
            "lr": self.lr is None or self.lr > 0,
            "batch_size": self.batch_size >= 1,
            "fixed_batch": self.fixed_batch in (None, self.batch_size),
            "epochs": self.epochs >= 1,
            "momentum": 0 <= self.momentum < 1,
            "betas": all(0 <= beta < 1 for beta in self.betas),
            "weight_decay": self.weight_decay >= 0,
            "until_loss": self.until_loss is None or self.until_loss > 0,
        }
        for name, holds in limits.items():
            if not holds:
                hint = _RANGES[name].format(batch_size=setting("batch_size"))
                written = setting(name, getattr(self, name))
                raise UsageError(f"{written}: is out of range", hint)

    @property
    def step_size(self) -> float:
        """The learning rate that is used."""
        return DEFAULT_LR[self.optimizer] if self.lr is None else self.lr


_RANGES = {
    "lr": "a learning rate is above 0",
    "batch_size": "a batch has at least one example",
    "fixed_batch": "it is what each step takes, so {batch_size} is the same",
    "epochs": "train for at least one epoch",
    "momentum": "momentum is at least 0 and below 1",
    "betas": "each beta is at least 0 and below 1",
    "weight_decay": "weight decay is at least 0",
    "until_loss": "the loss to reach is above 0",
}
