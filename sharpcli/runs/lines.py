"""The line through two checkpoints, and beside it B aligned with A and a curved path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import SharpError, setting
from sharpcli.landscape.alignment.permutations import TRACED_EXAMPLES
from sharpcli.landscape.alignment.weight_matching import align
from sharpcli.landscape.curves import path_weights, train_path
from sharpcli.landscape.findings import barriers, curves_of
from sharpcli.landscape.frame import line
from sharpcli.landscape.grid import fewest_points, line_values
from sharpcli.landscape.points.evaluator import Anchors
from sharpcli.runs.exploration import Exploration, explore_grid
from sharpcli.settings import GridSettings, InterpolateSettings, PathSettings

__all__ = ["explore_line"]

# Keskar et al. 2017, figures 3 and 4; and where there are too few points for all of it.
_LINE, _BETWEEN = (-1.0, 2.0), (0.0, 1.0)
# Examples on which an aligned network must compute what it did.
_COMPARED_EXAMPLES = 64


def explore_line(this: Exploration, settings: InterpolateSettings) -> None:
    """Evaluate the line from A to B and what `settings` ask for beside it; fills `this.found`.

    Raises `SharpError` where no hidden units can be permuted, and where a path has no training
    data.
    """
    a, b = this.anchors
    frame = line(a.theta, b.theta)
    alphas = _alphas(this, settings.grid)
    distance = float((b.theta - a.theta).double().norm())
    axis = {"name": "alpha", "values": alphas, "meaning": "from A (0) to B (1)", "norm": distance}
    if distance == 0:
        this.notes.append("A and B hold the same parameters: the line between them is one point")
    anchors = Anchors(frame.anchors, [this.buffers(a), this.buffers(b)])
    explore_grid(this, frame, anchors, [axis], "line")
    this.found["barrier"] = barriers(
        this.surface, anchors, frame.weights, alphas, this.found["curves"], "alpha"
    )
    if not this.found["barrier"] and not this.walk.interrupted:
        why = "the loss is not finite at A or B"
        if not {0.0, 1.0} <= {*alphas}:
            option = setting("ranges" if settings.grid.ranges else "points")
            why = f"0 or 1 is not on the line ({option})"
        this.notes.append(f"no barrier can be told: {why}")
    if this.walk.interrupted:
        return
    begun = "alignment"
    try:
        if settings.align:
            this.found["aligned"] = _aligned(this, alphas)
        if settings.path is not None and not this.walk.interrupted:
            begun = "path's training"
            this.found["path"] = _curved(this, settings.path, len(alphas))
    except KeyboardInterrupt:
        this.walk.interrupted = f"interrupted before the {begun} was finished"


def _alphas(this: Exploration, grid: GridSettings) -> list[float]:
    """Where on the line the loss is drawn; says so where the points are too few for all of it."""
    (points,) = grid.shape(1)
    ((low, high),) = grid.limits((_LINE,))
    fewest = fewest_points(low, high)
    if points >= fewest:
        return line_values(low, high, points)
    alphas = line_values(*_BETWEEN, points)  # an own range was refused
    this.notes.append(
        f"{setting('points', points)} is too few for the line from α = {low:g} to {high:g}, which "
        f"takes {fewest}: drawn at {', '.join(f'{alpha:g}' for alpha in alphas)}"
    )
    return alphas


def _aligned(this: Exploration, alphas: Sequence[float]) -> dict[str, Any]:
    """The line from A to B with its hidden units permuted to match A's."""
    a, b = this.anchors
    rows = next(iter(this.surface.objectives.values())).rows
    matched = align(
        this.study.network,
        rows.head(_COMPARED_EXAMPLES).batch,
        a.match.tensors,
        b.match.tensors,
        few=rows.head(TRACED_EXAMPLES).batch,
        seed=this.study.run.seed,
    )
    network = this.study.network
    frame = line(a.theta, network.flatten(matched.tensors))
    anchors = Anchors(frame.anchors, [this.buffers(a), network.fixed(matched.tensors)])
    values = this.walk.values("aligned line", anchors, [(t,) for t in alphas], frame.weights)
    curves = curves_of(values)
    return {
        "curves": curves,
        "barrier": barriers(this.surface, anchors, frame.weights, alphas, curves, "alpha"),
        "norm": float((frame.anchors[1] - frame.anchors[0]).double().norm()),
        "groups": matched.groups,
        "moved": matched.moved,
        "function_difference": matched.function_difference,
    }


def _curved(this: Exploration, settings: PathSettings, points: int) -> dict[str, Any]:
    """A trained path from A to B."""
    if this.train is None:
        raise SharpError("a path is trained on the training data, and there are none", "")
    a, b = this.anchors
    path = train_path(
        this.train, a.theta, b.theta, settings, this.walk.watch.begin("training the path: steps")
    )
    ends = Anchors(torch.stack([a.theta, b.theta]), [this.buffers(a), this.buffers(b)])
    middle = ends.buffers(torch.tensor([0.5, 0.5]))
    anchors = Anchors(
        torch.stack([a.theta, path.bend, b.theta]), [this.buffers(a), middle, this.buffers(b)]
    )

    def weights(point: Sequence[float]) -> Tensor:
        return torch.tensor(path_weights(path.kind, point[0]), dtype=torch.float64)

    places = line_values(0.0, 1.0, max(points, 2))
    values = this.walk.values("path", anchors, [(t,) for t in places], weights)
    curves = curves_of(values)
    return {
        "kind": path.kind,
        "coordinates": [{"t": t} for t in places],
        "curves": curves,
        "barrier": barriers(this.surface, anchors, weights, places, curves, "t"),
        "steps": path.steps,
    }
