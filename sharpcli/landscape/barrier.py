"""The loss barrier between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Barrier", "barrier"]


@dataclass(frozen=True)
class Barrier:
    """The highest rise of a curve above its ends, and its place."""

    value: float
    place: float


def barrier(
    places: Sequence[float], losses: Sequence[float], *, convention: str = "line"
) -> Barrier | None:
    """Max over t∈[0,1] of L(t) − ends(t) on the given points; None without finite ends.

    This is a lower bound, since the loss may rise higher between points.

    Args:
        places: The values of t.
        losses: L(t). A loss that is not finite counts as +∞ between finite ends.
        convention: "line": ends(t) = (1−t)L(0) + tL(1), the straight line between the ends' losses
            (Entezari et al. 2022); the rise is never below 0. "mean": ends = (L(0)+L(1))/2 (Frankle
            et al. 2020, section 2).
    """
    ends = {place: loss for place, loss in zip(places, losses, strict=True) if place in (0.0, 1.0)}
    if len(ends) < 2 or not all(map(math.isfinite, ends.values())):
        return None
    start, stop = ends[0.0], ends[1.0]
    rises = []
    for place, loss in zip(places, losses, strict=True):
        if not 0 <= place <= 1:
            continue
        level = (1 - place) * start + place * stop if convention == "line" else (start + stop) / 2
        rises.append((math.inf if math.isnan(loss) else loss - level, place))
    # The first of equal rises, so that a flat line has its barrier of 0 at 0.
    value, place = max(rises, key=lambda rise: (rise[0], -rise[1]))
    return Barrier(value, place)
