"""What a torch file says beside the weights of how they were trained."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from sharpcli.checkpoint.contents import Metadata, is_text, listed, plain_scalar, quoted
from sharpcli.checkpoint.optimizer import add_optimizer, is_optimizer
from sharpcli.checkpoint.settings_beside import flat_settings

__all__ = ["OPTIMIZER_KEYS", "optimizers_in", "training_facts"]

OPTIMIZER_KEYS = (
    "optimizer",
    "optimizer_state_dict",
    "optimizer_state",
    "optimizer_states",
    "optim",
    "optimizers",
)
_SETTINGS_KEYS = ("hyper_parameters", "hparams", "hyperparameters", "args", "config", "cfg")


def training_facts(
    around: list[Mapping[Any, Any]],
    notes: list[str],
    holds_tensors: Callable[[object], bool],
    others: Container[str],
) -> tuple[Metadata, Mapping[str, Any] | None]:
    """The scalars stored with the weights, and the optimizer's state.

    Args:
        around: what is around the weights, the outermost level first.
        notes: gets what is left out.
        holds_tensors: whether a value is a mapping of tensors.
        others: keys of further weights, which are read elsewhere.
    """
    metadata: Metadata = {}
    optimizer: Mapping[str, Any] | None = None
    aside: list[str] = []
    for level in around:
        for key, value in level.items():
            named = isinstance(key, str | int) and is_text(str(key))
            if named and (scalar := plain_scalar(value)) is not None:
                metadata.setdefault(str(key), scalar)
            elif key in OPTIMIZER_KEYS or is_optimizer(value):
                found = [each for each in _each(value) if is_optimizer(each)]
                if optimizer is None and found:
                    optimizer = found[0]
                if len(found) > 1:
                    many = f"{quoted(str(key))} has {len(found)} optimizers"
                    notes.append(f"{many}; the first is used")
            elif holds_tensors(value) and key not in others:
                aside.append(str(key))
    for level in around:
        for key in _SETTINGS_KEYS:
            for name, value in flat_settings(level.get(key)):
                metadata.setdefault(name, value)
    if optimizer is not None:
        add_optimizer(metadata, optimizer)
    if aside:
        notes.append(f"not read: {listed(aside)}")
    return metadata, optimizer


def optimizers_in(loaded: object) -> Iterator[Mapping[str, Any]]:
    """The optimizers' state dicts under the usual keys of a training's file."""
    table = loaded if isinstance(loaded, Mapping) else {}
    for key in OPTIMIZER_KEYS:
        yield from (each for each in _each(table.get(key)) if is_optimizer(each))


def _each(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    else:
        yield value
