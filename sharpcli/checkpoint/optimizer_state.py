"""What an optimizer remembers of each parameter, in terms of a network's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import Checkpoint, quoted
from sharpcli.checkpoint.optimizer_files import entries_beside, read_entries
from sharpcli.errors import SharpError

__all__ = ["OptimizerState", "find_optimizer_state"]

_MOST_BETAS = 9


@dataclass(frozen=True)
class OptimizerState:
    """The memory of an optimizer by parameter, each with its group's settings.

    Attributes:
        path: the file that it was read from.
        name: `adam`, `adamw`, `rmsprop`, `adagrad` or `sgd`; None for any other optimizer.
        slots: by parameter, such as `exp_avg`, in the parameter's shape; empty if no step has
            moved it.
        groups: by parameter, the settings of its group, such as `lr` and `betas`.
    """

    path: Path
    name: str | None
    slots: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, Mapping[str, Any]]

    def steps(self, parameter: str) -> float:
        """How many steps moved a parameter.

        Raises:
            SharpError: the state does not have the count.
        """
        slots, group = self.slots[parameter], self.groups[parameter]
        count = slots.get("step", group.get("step"))
        if isinstance(count, Tensor) and count.numel() == 1:
            count = float(count)
        if not isinstance(count, int | float) or count < 1:
            raise SharpError(
                f"{self.path}: has no number of steps for {quoted(parameter)}",
                "save the optimizer's whole state dict",
            )
        return float(count)

    def common(self, name: str) -> Any:
        """A setting that all groups share; None if they differ or lack it."""
        values = [group.get(name) for group in self.groups.values()]
        plain = [_comparable(each) for each in values]
        return values[0] if values and all(each == plain[0] for each in plain) else None


def _comparable(value: Any) -> Any:
    """A setting as scalars; of anything else, which may never end to compare, the object's id."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    parts = list(value) if isinstance(value, list | tuple) and len(value) <= _MOST_BETAS else [[]]
    scalars = all(isinstance(each, bool | int | float | str) for each in parts)
    return parts if scalars else ("object", id(value))


def find_optimizer_state(
    checkpoint: Checkpoint,
    parameters: Mapping[str, Tensor],
    given: str | Path | None = None,
) -> OptimizerState:
    """The state of the optimizer that trained a checkpoint.

    It is read from the file `given`, else from the checkpoint itself, else from a file beside it:
    `FILE.optimizer` of `sharp train`, or `optimizer.pt` in the weights' folder.

    Args:
        checkpoint: the weights.
        parameters: all of the model's by name, in `named_parameters()` order; only shapes and
            `requires_grad` are used.
        given: a file, or a folder that holds it.

    Raises:
        SharpError: there is none, or it does not fit the parameters in exactly one way.

    Cost: one pass over the file; torch files are mapped from disk.
    """
    entries = read_entries(checkpoint, Path(given)) if given else entries_beside(checkpoint)
    names = entries.parameter_names(parameters)
    slots, groups = {}, {}
    for group, members in zip(entries.groups, entries.order, strict=True):
        for entry in members:
            slots[names[entry]] = entries.slots.get(entry, {})
            groups[names[entry]] = group
    found = OptimizerState(entries.path, entries.name, slots, groups)
    for name, remembered in slots.items():
        for slot, value in remembered.items():
            shaped = isinstance(value, Tensor) and value.ndim
            if shaped and value.shape != parameters[name].shape:
                raise SharpError(
                    f"{found.path}: '{slot}' of {quoted(name)} has the shape {tuple(value.shape)}, "
                    f"the parameter {tuple(parameters[name].shape)}",
                    "name the state that belongs to this checkpoint",
                )
    return found
