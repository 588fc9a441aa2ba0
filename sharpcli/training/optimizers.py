"""The optimizers and their hyperparameters.

`OPTIMIZERS` are those with defaults of sharp's own. Every other one is looked up in `catalogue`,
with what its constructor says. A setting that many optimizers share, such as the momentum, is an
entry in `HYPERPARAMETERS` and a field of `TrainSettings`; its option and its help follow. Torch is
imported when an optimizer is built or its options are read, not before.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpcli.errors import UsageError, setting
from sharpcli.training.catalogue import (
    BASE,
    IMPLEMENTATION,
    Argument,
    arguments_of,
    class_of,
    options_text,
    place_of,
)

if TYPE_CHECKING:
    import torch

    from sharpcli.training.train_settings import TrainSettings

__all__ = [
    "HYPERPARAMETERS",
    "OPTIMIZERS",
    "Hyperparameter",
    "Optimizer",
    "find_optimizer",
]


@dataclass(frozen=True)
class Hyperparameter:
    """A setting that many optimizers share: its values, in words and as a test; sharp's default."""

    range: str
    accepts: Callable[[Any], bool]
    default: Any


HYPERPARAMETERS: Mapping[str, Hyperparameter] = {
    "momentum": Hyperparameter("momentum is at least 0 and below 1", lambda x: 0 <= x < 1, 0.0),
    "betas": Hyperparameter(
        "each beta is at least 0 and below 1",
        lambda x: all(0 <= beta < 1 for beta in x),
        (0.9, 0.999),
    ),
    "weight_decay": Hyperparameter("weight decay is at least 0", lambda x: x >= 0, 0.0),
}


@dataclass(frozen=True)
class Optimizer:
    """An optimizer: its class as `module:name`, its usual learning rate, and what it takes.

    `roles` says what each of `HYPERPARAMETERS` does in an optimizer of `OPTIMIZERS`. It is None for
    all others: their constructor has the defaults. `base` is the name of the optimizer that takes
    the steps of one that changes gradients, such as SAM.
    """

    kind: str
    default_lr: float | None
    roles: Mapping[str, str] | None
    base: str | None = None

    @functools.cached_property
    def type(self) -> Callable[..., torch.optim.Optimizer]:
        """The class."""
        found: Callable[..., torch.optim.Optimizer] = pkgutil.resolve_name(self.kind)
        return found

    @functools.cached_property
    def arguments(self) -> Mapping[str, Argument]:
        """What its constructor takes, and that of its base."""
        own = arguments_of(self.type)
        return own if self.base is None else {**find_optimizer(self.base).arguments, **own}

    def takes(self, name: str) -> bool:
        """Whether it has this argument."""
        return name in (self.arguments if self.roles is None else (*self.roles, "lr"))

    def values(self, settings: TrainSettings) -> dict[str, Any]:
        """The values of the shared settings that it uses, by name."""
        given = {
            name: getattr(settings, name)
            for name in (HYPERPARAMETERS if self.roles is None else self.roles)
        }
        if self.roles is None:
            return {name: value for name, value in given.items() if value is not None}
        return {
            name: HYPERPARAMETERS[name].default if value is None else value
            for name, value in given.items()
        }

    def metadata(self, settings: TrainSettings) -> dict[str, Any]:
        """The optimizer's own fields as a checkpoint keeps them: `betas` are `beta1` and `beta2`.

        Of an optimizer of `OPTIMIZERS`, the shared settings and the options that were given; of
        every other one, all that its constructor takes.
        """
        values = {**self.values(settings), **settings.optimizer_options}
        if self.roles is None:
            left_out = {*IMPLEMENTATION, "lr", *values}
            values |= {
                name: each.default
                for name, each in self.arguments.items()
                if name not in left_out and not each.needed
            }
        kept: dict[str, Any] = {}
        for name, value in values.items():
            if name == "betas":
                kept |= {f"beta{i}": each for i, each in enumerate(value, start=1)}
            else:
                kept[name] = value
        return kept

    def build(
        self, parameters: Iterable[torch.Tensor], settings: TrainSettings
    ) -> torch.optim.Optimizer:
        """The optimizer over `parameters`; raises `UsageError` for values that it refuses."""
        from sharpcli.training.build import build_optimizer

        values = {**self.values(settings), **settings.optimizer_options}
        if settings.step_size is not None:
            values["lr"] = settings.step_size
        base = None if self.base is None else find_optimizer(self.base).type
        try:
            return build_optimizer(self.type, list(parameters), values, base)
        except (ValueError, TypeError, AssertionError) as error:
            raise UsageError(
                f"{settings.optimizer}: {error}", f"its options: {options_text(self.arguments)}"
            ) from error


_MEMORY = "memory of the gradient and of its square"
OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer("torch.optim:SGD", 0.1, {"momentum": "momentum", "weight_decay": "L2"}),
    "adam": Optimizer("torch.optim:Adam", 1e-3, {"betas": _MEMORY, "weight_decay": "L2"}),
    "adamw": Optimizer("torch.optim:AdamW", 1e-3, {"betas": _MEMORY, "weight_decay": "decoupled"}),
}


def find_optimizer(name: str, base: str | None = None) -> Optimizer:
    """The optimizer of a name in any case.

    Args:
        name: one of `OPTIMIZERS`, or a class of torch.optim, pytorch-optimizer or sharp's own.
        base: the optimizer that takes the steps, where the named one only changes gradients.

    Raises:
        UsageError: for a name that does not exist or work here, or a base that takes no steps.
    """
    if name.lower() in OPTIMIZERS:
        return OPTIMIZERS[name.lower()]
    own = arguments_of(class_of(name))
    if BASE not in own:
        rate = own["lr"].default if "lr" in own else None
        return Optimizer(place_of(name), rate, None)
    stepping = find_optimizer(base or "sgd")
    if stepping.base is not None:
        raise UsageError(
            f"{setting(f'optimizer_options.{BASE}', base)}: it needs an optimizer that takes its "
            "steps itself",
            "take one that takes steps, such as sgd or adamw",
        )
    return Optimizer(place_of(name), stepping.default_lr, None, (base or "sgd").lower())
