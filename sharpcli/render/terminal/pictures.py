"""Charts and maps of `interpolate` and `landscape` results in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from sharpcli.documents.labels import clean
from sharpcli.documents.statuses import Outcome
from sharpcli.render.numbers import format_scalar
from sharpcli.render.terminal.axes import beside
from sharpcli.render.terminal.chart import Chart, Dash, Rise, Series, chart_lines
from sharpcli.render.terminal.heatmap import HeatMap, colour_scale, heat_map_lines

__all__ = ["SYMBOLS", "Way", "barrier_place", "picture_lines", "ways"]

SYMBOLS = {"alpha": "α", "beta": "β", "t": "t"}

_STYLES: dict[str, tuple[str, Dash]] = {"train": ("cyan", "solid"), "test": ("magenta", "dashed")}
_WIDE = 110  # columns from which two pictures are side by side
_NARROWEST_PAIR = 72  # the same for small pictures
_GAP = 4
_TALL, _LOW = 13, 9  # lines of a chart
_LOW_MAP, _TALL_MAP = 25, 32  # lines of a map, on a normal and a wide screen


@dataclass(frozen=True)
class Way:
    """One way from A to B, or one line through a landscape: coordinates, values and barriers."""

    name: str
    coordinate: str
    x: Sequence[float]
    curves: Mapping[str, Mapping[str, Sequence[float | None]]]
    barrier: Mapping[str, Mapping[str, Any]]
    marks: Sequence[tuple[float, str]]


def ways(result: Mapping[str, Any]) -> list[Way]:
    """The line, then the aligned line and the trained path if there are any."""
    x = [point["alpha"] for point in result["coordinates"]]
    marks = [
        (c["coordinates"]["alpha"], clean(c["name"]))
        for c in result["checkpoints"]
        if c["coordinates"]["alpha"] is not None
    ]
    found = [Way("line", "alpha", x, result["curves"], result.get("barrier") or {}, marks)]
    if aligned := result.get("aligned"):
        ends = [(0.0, "A"), (1.0, "B′")]
        found.append(Way("aligned", "alpha", x, aligned["curves"], aligned["barrier"], ends))
    if path := result.get("path"):
        t = [point["t"] for point in path["coordinates"]]
        name = {"bezier": "Bézier path", "chain": "chain"}.get(path["kind"], clean(path["kind"]))
        ends = [(0.0, "A"), (1.0, "B")]
        found.append(Way(name, "t", t, path["curves"], path["barrier"], ends))
    return found


def barrier_place(barrier: Mapping[str, Any], coordinate: str) -> str:
    """Where a barrier is: `α = 0.5`."""
    at = barrier.get(coordinate)
    return "–" if at is None else f"{SYMBOLS[coordinate]} = {at:.3g}"


def picture_lines(
    result: Mapping[str, Any], width: int, *, colour: bool, metric: str | None = None
) -> Iterator[Text]:
    """Charts of a line or heat maps of a plane; no line is wider than `width`.

    A plane's maps show `metric`, by default the loss. A run that was interrupted before its first
    point has no pictures.
    """
    if not result["curves"]:
        return
    missing = _missing(result)
    if result["dimensions"] == 1:
        yield from _charts(ways(result), width, missing)
    else:
        yield from _maps(result, width, colour, metric or "loss", missing)


def _missing(result: Mapping[str, Any]) -> str:
    """What a curve's null means."""
    return "not finite" if result.get("status") == Outcome.OK else "not reached"


def _charts(found: Sequence[Way], width: int, missing: str) -> Iterator[Text]:
    """A row of charts for each way: the loss, and next to it the task's first metric."""
    known = dict.fromkeys(name for curves in found[0].curves.values() for name in curves)
    quantities = ["loss", *(name for name in known if name != "loss")][:2]
    pairs = width >= (_NARROWEST_PAIR if len(found) > 1 else _WIDE) and len(quantities) > 1
    size = (width - _GAP) // 2 if pairs else width
    for way in found:
        charts = [_chart(way, quantity, found, missing) for quantity in quantities]
        heights = [_LOW if len(found) > 1 else _TALL] * len(charts)
        if not pairs:
            heights[1:] = [_LOW for _ in heights[1:]]
        blocks = [chart_lines(c, size, h) for c, h in zip(charts, heights, strict=True)]
        if pairs:
            deepest = max(len(b) - h - 3 for b, h in zip(blocks, heights, strict=True))
            both = zip(charts, heights, strict=True)
            blocks = [chart_lines(c, size, h, header=deepest) for c, h in both]
            blocks = [beside(blocks, size + _GAP)]
        for block in blocks:
            yield Text()
            yield from block


def _chart(way: Way, quantity: str, among: Sequence[Way], missing: str) -> Chart:
    """The chart of one quantity along one way; all ways share the same range."""
    alone, loss = len(among) == 1, quantity == "loss"
    series = [
        Series(split, way.x, curves[quantity], *_STYLES.get(split, ("", "dashed")))
        for split, curves in way.curves.items()
        if quantity in curves
    ]
    return Chart(
        title=clean(quantity) if alone else f"{clean(quantity)}, {way.name}",
        series=series,
        x_name=SYMBOLS[way.coordinate],
        marks=way.marks,
        rise=_rise(way) if loss else None,
        log=loss,
        also=[y for w in among for c in w.curves.values() for y in c.get(quantity, ())],
        keys=way is among[0],
        missing=missing,
    )


def _rise(way: Way) -> Rise | None:
    """The barrier of the first split with one, from the straight line up to the curve."""
    for split, barrier in way.barrier.items():
        at, value = barrier.get(way.coordinate), barrier.get("value")
        if at is None or not value or value <= 0:
            continue
        index = min(range(len(way.x)), key=lambda i: abs(way.x[i] - at))
        top = way.curves[split]["loss"][index]
        if top is not None:
            whose = "barrier" if split == "train" else f"barrier {split}"
            label = f"{whose} {format_scalar(barrier)} at {barrier_place(barrier, way.coordinate)}"
            return Rise(at, top - value, top, label)
    return None


def _maps(
    result: Mapping[str, Any], width: int, colour: bool, quantity: str, missing: str
) -> Iterator[Text]:
    """A map for each split on one colour scale, side by side if there is room."""
    splits = [split for split, curves in result["curves"].items() if quantity in curves]
    wide = width >= _WIDE
    pairs, rows = wide and len(splits) > 1, _TALL_MAP if wide else _LOW_MAP
    size = (width - _GAP) // 2 if pairs else width
    scale = colour_scale([y for s in splits for y in result["curves"][s][quantity]], rows)
    blocks = [
        heat_map_lines(
            _map(result, split, quantity, missing), size, rows, scale=scale, colour=colour
        )
        for split in splits
    ]
    if pairs:
        widest = max(line.cell_len for block in blocks for line in block)
        blocks = [beside(blocks, widest + _GAP)]
    for block in blocks:
        yield Text()
        yield from block


def _map(result: Mapping[str, Any], split: str, quantity: str, missing: str) -> HeatMap:
    alphas, betas = (axis["values"] for axis in result["axes"])
    return HeatMap(
        title=f"{clean(quantity)} {split}",
        alphas=alphas,
        betas=betas,
        values=result["curves"][split][quantity],
        marks=[(p, clean(c["name"])) for c in result["checkpoints"] for p in _places(c)],
        path=[
            place
            for way in result.get("trajectories") or ()
            for point in way["points"]
            for place in _places(point)
        ],
        missing=missing,
    )


def _places(point: Mapping[str, Any]) -> list[tuple[float, float]]:
    """A checkpoint's place, in a list; empty if its weights are not finite."""
    alpha, beta = point["coordinates"]["alpha"], point["coordinates"]["beta"]
    return [] if alpha is None or beta is None else [(alpha, beta)]
