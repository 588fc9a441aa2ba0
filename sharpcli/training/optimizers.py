"""The optimizers, their hyperparameters, and the settings of a training.

To add an optimizer, add it to `OPTIMIZERS`. To add a hyperparameter, add it to `HYPERPARAMETERS`
and to the fields of `TrainSettings`. Options, their help and ranges, and the metadata of
checkpoints follow from these. Torch is only imported when an optimizer is built.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpcli.errors import UsageError, setting

if TYPE_CHECKING:
    import torch

__all__ = ["HYPERPARAMETERS", "OPTIMIZERS", "Hyperparameter", "Optimizer", "TrainSettings"]


@dataclass(frozen=True)
class Hyperparameter:
    """A setting of optimizers other than the learning rate: its range, as text and as a test."""

    range: str
    accepts: Callable[[Any], bool]


HYPERPARAMETERS: Mapping[str, Hyperparameter] = {
    "momentum": Hyperparameter("momentum is at least 0 and below 1", lambda x: 0 <= x < 1),
    "betas": Hyperparameter(
        "each beta is at least 0 and below 1", lambda x: all(0 <= beta < 1 for beta in x)
    ),
    "weight_decay": Hyperparameter("weight decay is at least 0", lambda x: x >= 0),
}


@dataclass(frozen=True)
class Optimizer:
    """An optimizer: its class as `module:name`, and the hyperparameters that it uses.

    `roles` maps the class's arguments to what each one does in this optimizer.
    """

    kind: str
    default_lr: float
    roles: Mapping[str, str]

    def values(self, settings: TrainSettings) -> dict[str, Any]:
        """The values of the hyperparameters that it uses, by name."""
        return {name: getattr(settings, name) for name in self.roles}

    def metadata(self, settings: TrainSettings) -> dict[str, Any]:
        """These values as stored in a checkpoint: `betas` become `beta1` and `beta2`."""
        kept: dict[str, Any] = {}
        for name, value in self.values(settings).items():
            if isinstance(value, tuple):
                singular = name.removesuffix("s")
                kept |= {f"{singular}{i}": each for i, each in enumerate(value, start=1)}
            else:
                kept[name] = value
        return kept

    def build(
        self, parameters: Iterable[torch.Tensor], settings: TrainSettings
    ) -> torch.optim.Optimizer:
        """PyTorch's optimizer over `parameters`."""
        kind: Callable[..., torch.optim.Optimizer] = pkgutil.resolve_name(self.kind)
        return kind(parameters, lr=settings.step_size, **self.values(settings))


_MEMORY = "memory of the gradient and of its square"
OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer("torch.optim:SGD", 0.1, {"momentum": "momentum", "weight_decay": "L2"}),
    "adam": Optimizer("torch.optim:Adam", 1e-3, {"betas": _MEMORY, "weight_decay": "L2"}),
    "adamw": Optimizer("torch.optim:AdamW", 1e-3, {"betas": _MEMORY, "weight_decay": "decoupled"}),
}


@dataclass(frozen=True)
class TrainSettings:
    """How to train. A hyperparameter that the optimizer does not have is not used.

    `lr=None` uses the optimizer's default. `until_loss` ends the training after the first epoch
    with at most this loss on all training data, in eval mode; `epochs` ends it in any case.
    `fixed_batch` says that the loss couples the examples of a batch and is defined on batches of
    this size; it must equal `batch_size`.
    """

    optimizer: str = "sgd"
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
        """Check the ranges; raises `UsageError` naming the setting."""
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(
                f"there is no optimizer '{self.optimizer}'", f"there are: {', '.join(OPTIMIZERS)}"
            )
        limits = {
            "lr": (self.lr is None or self.lr > 0, "a learning rate is above 0"),
            "batch_size": (self.batch_size >= 1, "a batch has at least one example"),
            "fixed_batch": (
                self.fixed_batch in (None, self.batch_size),
                f"it is what each step takes, so {setting('batch_size')} is the same",
            ),
            "epochs": (self.epochs >= 1, "train for at least one epoch"),
            "until_loss": (
                self.until_loss is None or self.until_loss > 0,
                "the loss to reach is above 0",
            ),
        }
        for name, each in HYPERPARAMETERS.items():
            limits[name] = each.accepts(getattr(self, name)), each.range
        for name, (holds, range_) in limits.items():
            if not holds:
                raise UsageError(f"{setting(name, getattr(self, name))}: is out of range", range_)

    @property
    def step_size(self) -> float:
        """The learning rate that is used."""
        return OPTIMIZERS[self.optimizer].default_lr if self.lr is None else self.lr
