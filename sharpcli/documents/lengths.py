"""Check that lists of a saved result have the same length, which JSON Schema cannot require."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sharpcli.documents.misfit import Misfit, shortened
from sharpcli.documents.statuses import Outcome

__all__ = ["lengths"]


def lengths(document: Mapping[str, Any]) -> Iterator[Misfit]:
    """Problems of lists with different lengths, and of unknown names, in one document."""
    check = {
        "interpolate": _lengths_of_grid,
        "landscape": _lengths_of_grid,
        "schedule": _lengths_of_schedule,
        "spectrum": _lengths_of_spectrum,
        "train": _lengths_of_training,
        "compare": _lengths_of_scores,
    }.get(document["kind"])
    if check is None:
        return
    for index, result in enumerate(document["results"]):
        for misfit in check(result):
            yield misfit.at(index).at("results")


def _lengths_of_grid(result: Mapping[str, Any]) -> Iterator[Misfit]:
    axes, shape, points = result["axes"], result["shape"], result["coordinates"]
    names = ["alpha", "beta"][: result["dimensions"]]
    if len(names) != result["dimensions"] or [axis["name"] for axis in axes] != names:
        yield Misfit(f"expected {' and '.join(names)}, as many axes as dimensions").at("axes")
        return
    if len(shape) != len(axes):
        yield _counted(len(axes), "axes", shape).at("shape")
        return
    for index, (axis, count) in enumerate(zip(axes, shape, strict=True)):
        if len(axis["values"]) != count:
            yield _counted(count, "shape", axis["values"]).at("values").at(index).at("axes")
        elif not _increase(axis["values"]):
            yield Misfit("expected increasing numbers").at("values").at(index).at("axes")
    if len(points) != math.prod(shape):
        yield _counted(math.prod(shape), "shape", points).at("coordinates")
    yield from _places(points, names, "coordinates")
    yield from _curves(result, len(points))
    yield from _barriers(result, "alpha")
    yield from _placed(result["checkpoints"], names, "checkpoints")
    for index, run in enumerate(result.get("trajectories", ())):
        for misfit in _placed(run["points"], names, "points"):
            yield misfit.at(index).at("trajectories")
    if "aligned" in result:
        for misfit in (
            *_curves(result["aligned"], len(points)),
            *_barriers(result["aligned"], "alpha"),
        ):
            yield misfit.at("aligned")
    if "path" in result:
        path = result["path"]
        for misfit in (*_curves(path, len(path["coordinates"])), *_barriers(path, "t")):
            yield misfit.at("path")


def _curves(found: Mapping[str, Any], points: int) -> Iterator[Misfit]:
    """Problems of curves or errors without one value per point, and of errors without a curve."""
    metrics: dict[str, None] = {}
    for split, curves in found["curves"].items():
        metrics = metrics or dict.fromkeys(curves)
        for name in metrics:
            if name not in curves:
                yield Misfit(f'lacks "{shortened(name)}"').at(split).at("curves")
    for key in ("curves", "sampling_errors"):
        for split, curves in found.get(key, {}).items():
            for name, values in curves.items():
                if len(values) != points:
                    yield _counted(points, "coordinates", values).at(name).at(split).at(key)


def _barriers(found: Mapping[str, Any], place: str) -> Iterator[Misfit]:
    """Problems of barriers without a curve of their split, or without a place."""
    for split, barrier in found.get("barrier", {}).items():
        if split not in found["curves"]:
            yield Misfit("expected a curve of this split").at(split).at("barrier")
        if place not in barrier:
            yield Misfit(f'lacks "{place}"').at(split).at("barrier")
        if place not in barrier["above_mean"]:
            yield Misfit(f'lacks "{place}"').at("above_mean").at(split).at("barrier")


def _placed(found: Sequence[Mapping[str, Any]], names: Sequence[str], key: str) -> Any:
    for misfit in _places([each["coordinates"] for each in found], names, ""):
        index = misfit.inside.pop()
        yield misfit.at("coordinates").at(index).at(key)


def _places(found: Sequence[Mapping[str, Any]], names: Sequence[str], key: str) -> Any:
    """Problems of coordinates that lack one of the axes."""
    for index, place in enumerate(found):
        for name in names:
            if name not in place:
                misfit = Misfit(f'lacks "{name}"').at(index)
                yield misfit.at(key) if key else misfit


def _lengths_of_spectrum(result: Mapping[str, Any]) -> Iterator[Misfit]:
    if result["status"] != Outcome.OK:
        return
    for places, values in (("nodes", "weights"), ("grid", "density")):
        if len(result[places]) != len(result[values]):
            yield _counted(len(result[places]), places, result[values]).at(values)
        elif not _increase(result[places], to_a_width=False):
            yield Misfit("expected increasing numbers").at(places)
    if len(result["grid"]) < 2:
        yield Misfit(f"expected at least 2 entries, found {len(result['grid'])}").at("grid")


def _lengths_of_schedule(result: Mapping[str, Any]) -> Iterator[Misfit]:
    steps = len(result["steps"])
    if not steps:
        yield Misfit("expected at least 1 entries, found 0").at("steps")
    for key in ("lr", "batch_size", "noise_scale"):
        if result[key] is not None and len(result[key]) != steps:
            yield _counted(steps, "steps", result[key]).at(key)


def _lengths_of_training(result: Mapping[str, Any]) -> Iterator[Misfit]:
    for part in ("curves", "evaluations"):
        for misfit in _like_first(result.get(part, {}), "step"):
            yield misfit.at(part)


def _lengths_of_scores(result: Mapping[str, Any]) -> Iterator[Misfit]:
    for misfit in _like_first(result.get("scores", {}).get("curve", {}), "steps"):
        yield misfit.at("curve").at("scores")


def _like_first(found: Mapping[str, Any], first: str) -> Iterator[Misfit]:
    """Problems of lists that do not have the length of one of them; also one level below."""
    for key, value in found.items():
        lists = value.items() if isinstance(value, Mapping) else [(None, value)]
        for name, values in lists:
            if isinstance(values, list) and len(values) != len(found[first]):
                misfit = _counted(len(found[first]), first, values)
                yield (misfit if name is None else misfit.at(name)).at(key)


def _increase(values: Sequence[float], *, to_a_width: bool = True) -> bool:
    """Whether numbers increase; places that a drawing spans also have to have a width."""
    in_order = all(a <= b for a, b in itertools.pairwise(values))
    return in_order and (not to_a_width or len(values) < 2 or values[0] < values[-1])


def _counted(count: int, like: str, found: Sequence[Any]) -> Misfit:
    return Misfit(f"expected {count} entries, as {like} says, found {len(found)}")
