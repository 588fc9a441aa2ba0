"""The principal axes of an optimizer's path around its end."""

from __future__ import annotations

import torch

from sharpcli.landscape.directions import normalize_direction
from sharpcli.landscape.trajectory import principal_axes
from sharpcli.runs.direction_kinds import Direction
from sharpcli.runs.exploration import Exploration
from sharpcli.settings.exploring import DirectionSettings

__all__ = ["directions"]


def directions(this: Exploration, settings: DirectionSettings, normalize: str) -> list[Direction]:
    """Principal axes of all paths together; warns if none of them ends at the checkpoint."""
    theta = this.anchors[0].theta
    points = [point for path in this.trajectories for _, point in path]
    principal = principal_axes(points, theta, settings.dimensions)
    if not any(path and torch.equal(path[-1][1], theta) for path in this.trajectories):
        said = "the path does not end" if len(this.trajectories) == 1 else "no path ends"
        this.warnings.append(
            f"{said} at A: its axes are still taken about A (name the path's last checkpoint "
            "as A, or A as the path's last)"
        )
    return [
        Direction(
            normalize_direction(this.study.network, theta, vector, normalize),
            f"principal axis {rank} of the path",
        )
        for rank, vector in enumerate(principal.directions, 1)
    ]
