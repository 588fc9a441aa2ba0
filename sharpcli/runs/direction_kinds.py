"""The kinds of axes around a checkpoint: what the directions of a landscape may be.

A new kind needs a module with a function that makes its directions, and an entry here. Modules are
imported when they are used, so that the command line reads this table without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from sharpcli.errors import UsageError, did_you_mean, setting

if TYPE_CHECKING:
    from torch import Tensor

    from sharpcli.documents.scalars import Scalar
    from sharpcli.runs.exploration import Exploration
    from sharpcli.settings.exploring import DirectionSettings

__all__ = ["DIRECTION_KINDS", "Direction", "DirectionKind", "direction_kind"]


@dataclass(frozen=True)
class Direction:
    """An axis around a checkpoint: its vector (n,), its meaning, and its eigenvalue if any."""

    vector: Tensor
    meaning: str
    eigenvalue: Scalar | None = None


@dataclass(frozen=True)
class DirectionKind:
    """One way of choosing the axes.

    `made_by` names the module in `runs` whose `directions(exploration, settings, normalize)` makes
    them. `normalize` is the default scaling. `reads` names the settings that only this kind uses.
    With `needs_path`, the default range covers the path.
    """

    name: str
    meaning: str
    made_by: str
    normalize: str = "none"
    reads: tuple[str, ...] = ()
    needs_path: bool = False

    def directions(
        self, this: Exploration, settings: DirectionSettings, normalize: str
    ) -> list[Direction]:
        """One or two directions around the exploration's center, scaled by `normalize`."""
        module = import_module(f"sharpcli.runs.{self.made_by}")
        found: list[Direction] = module.directions(this, settings, normalize)
        return found


DIRECTION_KINDS = {
    kind.name: kind
    for kind in (
        DirectionKind("random", "normal draws", "random_axes", normalize="filter"),
        DirectionKind(
            "hessian",
            "the Hessian's top eigenvectors",
            "hessian_axes",
            reads=("tol", "max_products"),
        ),
        DirectionKind(
            "trajectory", "the principal axes of a path about its end", "path_axes", needs_path=True
        ),
    )
}


def direction_kind(name: str) -> DirectionKind:
    """The kind with this name; raises `UsageError` for an unknown one."""
    if name not in DIRECTION_KINDS:
        raise UsageError(
            f"{setting('directions.kind', name)}: there are no such directions",
            did_you_mean(name, DIRECTION_KINDS),
        )
    return DIRECTION_KINDS[name]
