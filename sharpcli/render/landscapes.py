"""What an `interpolate` or `landscape` document looks like to a person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from ..labels import clean, pairs, short_labels
from ..results import NOT_CONVERGED, flat_scalars
from .axes import finite
from .chart import sparkline
from .measurements import column_titles, legend
from .numbers import NOT_FINITE, format_number, format_scalar
from .pictures import SYMBOLS, barrier_place, picture_lines, ways
from .table import Column, Page, Row, Sheet, page_lines

__all__ = ["landscape_lines", "landscape_page"]

_BATCH_NORM = {
    "recalibrate": "batch norm statistics re-estimated at each point",
    "interpolate": "batch norm statistics interpolated",
    "batch": "batch norm on each batch's own statistics",
}
_DIRECTIONS = {
    "random": "random directions",
    "hessian": "eigenvectors of the Hessian",
    "trajectory": "principal axes of the trajectory",
}
_NORMALIZE = {"filter": "filter-normalised", "layer": "layer-normalised", "none": "not normalised"}
_SEEN = 1e-4  # a smaller share off the plane is rounding
_MOST_POINTS = 20  # of a trajectory in a table
_LEGEND = {
    "above line": "above line: max over [0, 1] of L(α) − ((1−α)·L(A) + α·L(B)), the "
    "barrier of Entezari et al. 2022",
    "above mean": "above mean: max over [0, 1] of L(α) − (L(A) + L(B))/2, as in Frankle "
    "et al. 2020",
    "curve": "curve: the loss along the way; all rows of one split are on one scale",
    "unseen": "unseen: the share of the distance from the origin that is off the {shape}",
}


def landscape_lines(document: Mapping[str, Any], width: int, *, colour: bool) -> Iterator[Text]:
    """The page with its charts or maps below the context, as lines of at most `width` cells.

    `colour`: whether the terminal shows colours enough for a heat map (256 or more).
    """
    page = landscape_page(document)
    yield from page_lines(Page(page.context, []), width)
    yield from picture_lines(document["results"][0], width, colour=colour)
    yield from page_lines(Page([], page.sheets, page.footnotes, page.legend), width)


def landscape_page(document: Mapping[str, Any]) -> Page:
    """What was looked at, the checkpoints with their places, then barriers, extremes and paths."""
    result = document["results"][0]
    sheets = [_checkpoints(result), *_barriers(result)]
    if len(sheets) == 1:
        sheets.append(_extremes(result))
    sheets += [_trajectory(result, each) for each in result.get("trajectories") or ()]
    columns = [column for sheet in sheets for column in sheet.columns]
    headers = [column.header for column in columns]
    shape = "line" if result["dimensions"] == 1 else "plane"
    return Page(
        context=[*_context(document), *_axes(result)],
        sheets=sheets,
        footnotes=_footnotes(result),
        legend=[
            *(text.format(shape=shape) for key, text in _LEGEND.items() if key in headers),
            *_ways(result),
            *legend(columns),
        ],
    )


def _context(document: Mapping[str, Any]) -> list[str]:
    task, run = document.get("task") or {}, (document.get("settings") or {}).get("run") or {}
    result = document["results"][0]
    options, splits = pairs(task.get("options") or {}), list(result["curves"])
    examples = task.get("examples") or {}
    if run.get("samples"):
        data = f"a sample of {run['samples']} {' and '.join(splits)} examples"
    else:
        data = " and ".join(f"{examples.get(split) or 'all'} {split}" for split in splits)
        data += " examples"
    device = (document.get("environment") or {}).get("device")
    where = " on ".join(str(x) for x in (run.get("dtype"), device) if x)
    name = clean(task["name"]) + (f" ({options})" if options else "") if task.get("name") else ""
    points = " × ".join(map(str, result["shape"])) + (
        " point" if result["shape"] == [1] else " points"
    )
    how = [_what(document), points, _BATCH_NORM.get(result.get("batch_norm") or "", "")]
    if result.get("cosine") is not None:
        how.append(f"cosine of the axes {_tidy(result['cosine'])}")
    return [" · ".join(filter(None, pieces)) for pieces in ((name, data, where), how)]


def _what(document: Mapping[str, Any]) -> str:
    result = document["results"][0]
    own = [c["name"] for c in result["checkpoints"] if c.get("role") in ("anchor", "center")]
    if document["kind"] == "interpolate":
        if result["dimensions"] == 1:
            return f"line from {' to '.join(own)}"
        return f"plane through {', '.join(own)}"
    directions, normalize = result.get("directions"), result.get("normalize")
    pieces = [f"around {', '.join(own)}", _DIRECTIONS.get(directions, directions)]
    if directions == "random":
        pieces.append(_NORMALIZE.get(normalize, normalize))
    return ", ".join(filter(None, pieces))


def _axes(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for axis in result["axes"]:
        said = [axis["meaning"]] if axis.get("meaning") else []
        if axis.get("explained_variance") is not None:
            said.append(f"{_percent(axis['explained_variance'])} of the path's variance")
        if axis.get("eigenvalue") is not None:
            said.append(f"eigenvalue {format_scalar(axis['eigenvalue'])}")
        if axis.get("norm") is not None:
            unit = _tidy(axis["norm"])
            said.append(
                "in units of weight distance"
                if unit == "1"
                else f"one unit is a weight distance of {unit}"
            )
        lines.append(f"{SYMBOLS[axis['name']]}: {', '.join(said)}")
    return lines


def _checkpoints(result: Mapping[str, Any]) -> Sheet:
    checkpoints = result["checkpoints"]
    labels = short_labels([str(c["path"]) for c in checkpoints])
    scalars = [flat_scalars(c.get("measures") or {}) for c in checkpoints]
    titles = column_titles(key for row in scalars for key in row)
    return Sheet(
        [Row(f"{c['name']} {label}") for c, label in zip(checkpoints, labels, strict=True)],
        [
            *_places(checkpoints, result),
            *(
                Column(title, [format_scalar(row[key]) if key in row else "–" for row in scalars])
                for key, title in titles.items()
            ),
        ],
    )


def _places(points: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> list[Column]:
    """Coordinates, and where any of it is, what the line or plane does not show."""
    columns = [
        Column(SYMBOLS[axis["name"]], [_coordinate(p, axis) for p in points])
        for axis in result["axes"]
    ]
    if any((p.get("unseen") or 0) > _SEEN for p in points):
        columns.append(Column("unseen", [_percent(p.get("unseen")) for p in points]))
    return columns


def _barriers(result: Mapping[str, Any]) -> list[Sheet]:
    """A row for each way and split; none where no barrier was asked for."""
    found = [(way, split) for way in ways(result) for split in way.barrier]
    if not found:
        return []
    several = len(ways(result)) > 1
    losses = [
        [y for x, y in zip(way.x, way.curves[split]["loss"], strict=True) if -1e-9 <= x <= 1 + 1e-9]
        for way, split in found
    ]
    sparklines = [
        sparkline(
            y,
            [
                v
                for (_, same), values in zip(found, losses, strict=True)
                if same == split
                for v in values
            ],
            most=max(8, len(losses[0])),
        )
        for (_, split), y in zip(found, losses, strict=True)
    ]
    barriers = [way.barrier[split] for way, split in found]
    return [
        Sheet(
            [Row(f"{way.name}, {split}" if several else split) for way, split in found],
            [
                Column("above line", [format_scalar(b) for b in barriers]),
                Column("at", [barrier_place(way.barrier[s], way.coordinate) for way, s in found]),
                Column(
                    "above mean",
                    [
                        format_scalar(b["above_mean"]) if b.get("above_mean") else "–"
                        for b in barriers
                    ],
                ),
                Column("curve", sparklines, numeric=False),
            ],
            title="barrier between A and B",
            caption="loss",
        )
    ]


def _extremes(result: Mapping[str, Any]) -> Sheet:
    """The lowest and the highest loss of the grid, and how many points have none."""
    curves = {split: both["loss"] for split, both in result["curves"].items()}
    columns = []
    for header, best in (("lowest", min), ("highest", max)):
        values = [best(finite(y), default=None) for y in curves.values()]
        columns += [
            Column(header, [NOT_FINITE if v is None else format_number(v) for v in values]),
            Column("at", [_at(result, y, v) for y, v in zip(curves.values(), values, strict=True)]),
        ]
    missing = [len(y) - len(finite(y)) for y in curves.values()]
    if any(missing):
        count = len(result["coordinates"])
        columns.append(Column("not finite", [f"{n} of {count}" for n in missing]))
    if result["dimensions"] == 1:
        lines = [sparkline(y) for y in curves.values()]
        columns.append(Column("curve", lines, numeric=False))
    return Sheet([Row(split) for split in curves], columns, caption="loss")


def _at(result: Mapping[str, Any], values: Sequence[float | None], value: float | None) -> str:
    if value is None:
        return "–"
    point = {"coordinates": result["coordinates"][list(values).index(value)]}
    return ", ".join(_coordinate(point, axis) for axis in result["axes"])


def _trajectory(result: Mapping[str, Any], trajectory: Mapping[str, Any]) -> Sheet:
    """Where the points of a path are; of a long one every few, and the last."""
    points = trajectory["points"]
    labels = short_labels([str(point["path"]) for point in points])
    every = -(-len(points) // _MOST_POINTS)
    shown = sorted({*range(0, len(points), every), len(points) - 1}) if points else []
    title = f"trajectory {clean(trajectory['name'])}"
    if every > 1:
        title += f" ({len(shown)} of {len(points)} points; the JSON has all)"
    return Sheet(
        [Row(labels[index]) for index in shown],
        _places([points[index] for index in shown], result),
        title=title,
    )


def _ways(result: Mapping[str, Any]) -> list[str]:
    """What was done for the aligned line and the path."""
    lines = []
    if aligned := result.get("aligned"):
        change = aligned.get("function_difference")
        lines.append(
            f"aligned: {aligned.get('moved')} units of B permuted, in {aligned.get('groups')} "
            "groups, to match A"
            + (f"; its outputs change by {format_number(change, 2)}" if change is not None else "")
        )
    if path := result.get("path"):
        shape = {"bezier": "quadratic Bézier curve", "chain": "chain of two straight lines"}
        steps = f" in {path['steps']} steps" if path.get("steps") is not None else ""
        lines.append(
            f"{ways(result)[-1].name}: a {shape.get(path['kind'], clean(path['kind']))} whose bend "
            f"is trained{steps}; t from A (0) to B (1)"
        )
    return lines


def _footnotes(result: Mapping[str, Any]) -> list[str]:
    """What to do about each number that did not come out; which checkpoints are off the picture."""
    found = [
        *((f"of {c['name']}", c.get("measures") or {}) for c in result["checkpoints"]),
        *((f"of the {way.name}", {"barrier": way.barrier}) for way in ways(result)),
    ]
    advice: dict[str, list[str]] = {}
    for about, measures in found:
        for key, scalar in flat_scalars(measures).items():
            if scalar["status"] in NOT_CONVERGED:
                text = scalar.get("advice") or NOT_FINITE
                advice.setdefault(text, []).append(f"{key} {about}")
    notes = [f"! {', '.join(places)}: {text}" for text, places in advice.items()]
    for axis in result["axes"]:
        low, high = min(axis["values"]), max(axis["values"])
        slack = 1e-6 * (high - low)
        outside = [
            c["name"]
            for c in result["checkpoints"]
            if not low - slack <= c["coordinates"][axis["name"]] <= high + slack
        ]
        if outside:
            notes.append(f"outside the range of {SYMBOLS[axis['name']]}: {', '.join(outside)}")
    return notes


def _coordinate(point: Mapping[str, Any], axis: Mapping[str, Any]) -> str:
    """To a thousandth of the axis' range."""
    range_ = max(map(abs, axis["values"])) or 1.0
    value = round(point["coordinates"][axis["name"]], 3 - math.floor(math.log10(range_)))
    return f"{value + 0.0:.6g}"  # never -0


def _tidy(value: float) -> str:
    return f"{value:.4g}"


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return "0 %" if share <= _SEEN else f"{100 * share:.3g} %"
