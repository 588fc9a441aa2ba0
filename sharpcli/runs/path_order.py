"""The order of the checkpoints on an optimizer's path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharpcli.documents.labels import natural_order
from sharpcli.settings.training_names import epoch_of, step_of

__all__ = ["PathPoint", "in_order"]


@dataclass(frozen=True, eq=False)
class PathPoint:
    """A checkpoint on a path: its metadata, θ (n,) and its digest."""

    path: str
    metadata: Mapping[str, Any]
    theta: Tensor
    sha256: str


def in_order(points: Sequence[PathPoint]) -> tuple[list[PathPoint], str]:
    """The points in the order of the training, and a note on what decided it.

    That is the order of their steps or epochs if all have one of their own. Else names sort by the
    numbers in them if they come as a shell sorts them, `checkpoint-1000` before `checkpoint-900`;
    any other order was chosen by the user.
    """
    for read, name in ((step_of, "steps"), (epoch_of, "epochs")):
        places = {place: each for each in points if (place := read(each.metadata)) is not None}
        if len(places) == len(points):
            known = sorted(places)
            said = f"ordered by the {name} in the metadata, {known[0]:g} to {known[-1]:g}"
            return [places[place] for place in known], said
    paths = [each.path for each in points]
    natural = sorted(points, key=lambda each: natural_order(each.path))
    lacking = "since not each checkpoint's metadata have a step of its own"
    if paths == sorted(paths) or paths == [each.path for each in natural]:
        return natural, f"ordered by the numbers in the names, {lacking}"
    return [*points], f"in the order given, {lacking}"
