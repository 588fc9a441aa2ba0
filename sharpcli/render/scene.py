"""Read a document for figures and exports: arrays on a line or plane, and the checkpoints there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpcli.documents.grids import MAP_TITLES
from sharpcli.documents.labels import clean
from sharpcli.documents.results import Document
from sharpcli.errors import SharpError
from sharpcli.render.numbers import format_scalar

__all__ = [
    "Axis",
    "Curve",
    "Mark",
    "Scene",
    "Trajectory",
    "drawable",
    "is_log",
    "is_true_to_scale",
    "line_label",
    "named_curve",
    "named_metric",
    "on_scale",
    "read_scene",
    "shown_marks",
]

Array = NDArray[np.float64]
Values = Mapping[str, Mapping[str, Array]]  # by split, then by metric

_SYMBOLS = {"alpha": "α", "beta": "β"}
_MOST_UNEQUAL = {"interpolate": 4.0, "landscape": 2.0}  # ratio of sides; beyond it, stretch
# The next tick of a logarithmic axis may lie as many decades beyond the data as the data span.
_LARGEST, _SMALLEST = 1e100, 1e-100
_FARTHEST = 1e100
_UNIT = 1e-6  # relative to a distance; smaller differences are rounding
_NORMALIZED = ("filter", "layer")
_STRAIGHT, _ALIGNED = "straight line", "aligned"
_FIRST = (MAP_TITLES["ratio"], "loss")  # of a map the ratio, else the loss
_PATHS = {"bezier": "Bézier path", "chain": "chain"}


@dataclass(frozen=True)
class Axis:
    """One coordinate: its grid values, and a long and a short label."""

    name: str
    values: Array
    label: str
    short: str
    norm: float | None


@dataclass(frozen=True)
class Curve:
    """Values on a line (n,) or a plane (n_beta, n_alpha); NaN where not finite.

    `barriers` maps a split to its scalar in the document, with the place of the maximum. A `bent`
    curve leaves the line; its places are its own t from 0 to 1.
    """

    name: str
    at: Array
    values: Values
    errors: Values
    barriers: Mapping[str, Mapping[str, Any]]
    bent: bool = False


@dataclass(frozen=True)
class Mark:
    """A checkpoint: its place (d,), the fraction of its distance not shown, its own values."""

    name: str
    path: str
    role: str
    at: Array
    unseen: float
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Trajectory:
    """Places (n, d) of the checkpoints of one run, in order."""

    name: str
    at: Array


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn: `grid` is the line or plane, `others` are more curves."""

    kind: str
    axes: tuple[Axis, ...]
    grid: Curve
    others: tuple[Curve, ...]
    marks: tuple[Mark, ...]
    trajectories: tuple[Trajectory, ...]

    @property
    def splits(self) -> list[str]:
        """The splits that were measured, train first."""
        return list(self.grid.values)

    @property
    def metrics(self) -> list[str]:
        """The names of the measured quantities, the loss first."""
        return list(next(iter(self.grid.values.values())))

    @property
    def is_plane(self) -> bool:
        """Whether both coordinates vary; a grid of one row or column is a line."""
        return len(self.axes) == 2 and all(len(axis.values) > 1 for axis in self.axes)

    @property
    def along(self) -> int:
        """The index of the axis that a line runs along."""
        return 1 if len(self.axes) == 2 and len(self.axes[0].values) == 1 else 0


def drawable(values: Array) -> Array:
    """Values clipped for drawing libraries, whose arithmetic overflows near the largest double."""
    return np.where(np.abs(values) < _SMALLEST, 0.0, np.clip(values, -_LARGEST, _LARGEST))


def shown_marks(scene: Scene) -> list[Mark]:
    """The checkpoints within the measured part of the line or plane."""
    shown = []
    for mark in scene.marks:
        slack = [1e-6 * (float(np.ptp(axis.values)) or 1.0) for axis in scene.axes]
        inside = [
            axis.values.min() - more <= place <= axis.values.max() + more
            for axis, place, more in zip(scene.axes, mark.at, slack, strict=True)
        ]
        if all(inside):
            shown.append(mark)
    return shown


def read_scene(document: Document) -> Scene:
    """Read an `interpolate` or `landscape` document; raises `SharpError` if it has no point."""
    kind, results = document["kind"], document["results"]
    if not results or not results[0].get("curves"):
        raise SharpError(
            f"this {kind} result has no point: there is nothing to draw",
            "run the command again: it continues where it was interrupted",
        )
    return _scene(kind, results[0])


def is_log(metric: str, values: Array, scale: str, *, plane: bool = False) -> bool:
    """Whether values are drawn on a logarithmic scale, by `scale` or, for "auto", by their range.

    "auto" is logarithmic if no value is negative and the largest is 30 times the smallest positive
    one; on a plane, where levels must be distinguishable, 4 times. A metric such as the accuracy is
    always linear.
    """
    ratio = 4.0 if plane else 30.0
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if scale != "auto" or not positive.size:
        return scale == "log" and bool(positive.size)
    wide = finite.min() >= 0 and positive.max() >= ratio * positive.min()
    return bool(wide and (metric == "loss" or positive.max() > 1))


def is_true_to_scale(scene: Scene) -> bool:
    """Whether a plane is drawn with the same unit length on both axes.

    This needs units of equal weight distance, and sides that are not too different.
    """
    first, second = (float(np.ptp(axis.values)) for axis in scene.axes)
    near = max(first, second) <= _MOST_UNEQUAL[scene.kind] * min(first, second)
    norms = [axis.norm for axis in scene.axes if axis.norm is not None]
    return near and (len(norms) < 2 or max(norms) - min(norms) <= 1e-3 * max(norms))


def line_label(scene: Scene) -> str:
    """The label of a line's axis, also for a curve that does not run along it."""
    bent = [curve.name for curve in scene.others if curve.bent]
    return scene.axes[scene.along].label + (f"; t along the {bent[0]}" if bent else "")


def named_curve(name: str, curve: Curve, split: str) -> str:
    """`aligned, train: barrier ≥0.12`, without a barrier if none was measured."""
    barrier = curve.barriers.get(split)
    return f"{name}, {split}" + (f": barrier {format_scalar(barrier)}" if barrier else "")


def named_metric(metric: str, split: str) -> str:
    """`training loss`, `λ1 of the test loss`: what a panel with one split draws."""
    name = "training" if split == "train" else split
    return f"{metric} of the {name} loss" if metric in MAP_TITLES.values() else f"{name} {metric}"


def on_scale(name: str, *, logarithmic: bool) -> str:
    """The label of an axis or a colour bar: `loss`, or `loss (log scale)`."""
    return f"{name} (log scale)" if logarithmic else name


def _scene(kind: str, result: Mapping[str, Any]) -> Scene:
    line = len(result["axes"]) == 1
    of_path = kind == "interpolate" and line
    axes = tuple(_axis(axis, result, ", " if of_path else ": ") for axis in result["axes"])
    shape = tuple(len(axis.values) for axis in reversed(axes))  # alpha runs fastest
    grid = _curve(_STRAIGHT if line else kind, axes[0].values, _with_map(result), shape)
    others = []
    if line and "aligned" in result:
        others.append(_curve(_ALIGNED, axes[0].values, result["aligned"], shape))
    if line and "path" in result:
        path = result["path"]
        at = _array([place["t"] for place in path["coordinates"]])
        name = _PATHS.get(path["kind"], str(path["kind"]))
        others.append(replace(_curve(name, at, path, at.shape), bent=True))
    names = [axis.name for axis in axes]
    return Scene(
        kind,
        axes,
        grid,
        tuple(others),
        tuple(_mark(found, names) for found in result.get("checkpoints", ())),
        tuple(
            Trajectory(clean(found["name"]), _places(found["points"], names))
            for found in result.get("trajectories", ())
        ),
    )


def _axis(axis: Mapping[str, Any], result: Mapping[str, Any], separator: str) -> Axis:
    name = str(axis["name"])
    label = short = _SYMBOLS.get(name, name)
    if axis.get("meaning"):
        label += separator + clean(axis["meaning"])
    if result.get("normalize") in _NORMALIZED:
        label += f", normalised by {result['normalize']}"
    facts = ""
    if axis.get("explained_variance") is not None:
        facts += f" ({100 * axis['explained_variance']:.1f} % of variance)"
    if axis.get("eigenvalue") is not None:
        facts += f" (λ = {format_scalar(axis['eigenvalue'])})"
    norm = axis.get("norm")
    norm = None if norm is None else float(norm)
    plane = "directions" not in result and len(result["axes"]) == 2
    if plane and norm is not None and abs(norm - 1) <= 1e-3:
        facts += " (in weight distance)"
    return Axis(name, _drawn(_array(axis["values"])), label + facts, short + facts, norm)


def _with_map(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result with the Hessian's map, if it has one, as metrics of its one split."""
    found = result.get("hessian")
    if not found:
        return result
    metrics = {
        title: [None if each is None else each["value"] for each in found[key]]
        for key, title in MAP_TITLES.items()
    }
    return {**result, "curves": {s: {**metrics, **own} for s, own in result["curves"].items()}}


def _curve(name: str, at: Array, found: Mapping[str, Any], shape: tuple[int, ...]) -> Curve:
    return Curve(
        name,
        at,
        _values(found["curves"], shape),
        _values(found.get("sampling_errors") or {}, shape),
        {
            split: barrier
            for split, barrier in (found.get("barrier") or {}).items()
            if barrier.get("value") is not None
        },
    )


def _values(found: Mapping[str, Any], shape: tuple[int, ...]) -> Values:
    """Every split's metrics as arrays, with train and the loss first."""
    return {
        split: {
            metric: _array(found[split][metric]).reshape(shape)
            for metric in _with_first(_FIRST, found[split])
        }
        for split in _with_first(("train",), found)
    }


def _with_first(first: Sequence[str], names: Mapping[str, Any]) -> list[str]:
    return sorted(names, key=lambda each: first.index(each) if each in first else len(first))


def _mark(found: Mapping[str, Any], names: Sequence[str]) -> Mark:
    measures = found.get("measures") or {}
    values: dict[str, dict[str, float]] = {}
    for metric, by_split in measures.items():
        for split in ("train", "test"):
            if split in by_split and by_split[split].get("value") is not None:
                values.setdefault(split, {})[metric] = float(by_split[split]["value"])
    return Mark(
        clean(found["name"]),
        str(found.get("path", "")),
        str(found.get("role", "marked")),
        _places([found], names)[0],
        float(found.get("unseen") or 0.0),
        values,
    )


def _places(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Array:
    """Coordinates (n, d); NaN for a checkpoint whose weights are not finite."""
    places = [_array([point["coordinates"][name] for name in names]) for point in points]
    return _drawn(np.array(places, dtype=np.float64).reshape(len(points), len(names)))


def _drawn(places: Array) -> Array:
    """Places clipped so that distances between them, and their squares, are finite."""
    return np.clip(places, -_FARTHEST, _FARTHEST)


def _array(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)
