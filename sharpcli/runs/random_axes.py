"""Random axes around a checkpoint."""

from __future__ import annotations

from sharpcli.landscape.directions import cosine, random_directions
from sharpcli.runs.direction_kinds import Direction
from sharpcli.runs.exploration import Exploration
from sharpcli.settings.exploring import DirectionSettings

__all__ = ["directions"]

# |cosine| above which axes are called not orthogonal; rounding in float32 leaves 1e-7.
_ORTHOGONAL = 1e-3


def directions(this: Exploration, settings: DirectionSettings, normalize: str) -> list[Direction]:
    """Normal draws from the run's seed; warns if two are not orthogonal."""
    drawn = random_directions(
        this.study.network,
        this.anchors[0].theta,
        settings.dimensions,
        seed=this.study.run.seed,
        normalize=normalize,
    )
    between = cosine(*drawn) if len(drawn) == 2 else 0.0
    if abs(between) > _ORTHOGONAL:
        this.warnings.append(
            f"the axes are not orthogonal (cosine {between:.3g}): nearly all of the weights' "
            "norm is in a filter of a single weight, which has only one direction"
        )
    return [Direction(vector, "a random direction") for vector in drawn]
