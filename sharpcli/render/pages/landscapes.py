"""The page of an `interpolate` or `landscape` document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from sharpcli.documents.labels import clean
from sharpcli.documents.scalars import flat_scalars
from sharpcli.errors import counted
from sharpcli.render.numbers import format_number, format_scalar
from sharpcli.render.pages.context import run_lines
from sharpcli.render.pages.landscape_sheets import (
    barrier_sheets,
    checkpoint_sheet,
    extreme_sheet,
    map_sheet,
    percent,
    shape_of,
    tidy,
    trajectory_sheet,
)
from sharpcli.render.pages.measurements import footnotes, legend
from sharpcli.render.terminal.pictures import SYMBOLS, picture_lines, ways
from sharpcli.render.terminal.table import Page, page_lines

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
_LEGEND = {
    "above line": "above line: max over [0, 1] of L(α) − ((1−α)·L(A) + α·L(B)), the "
    "barrier of Entezari et al. 2022",
    "above mean": "above mean: max over [0, 1] of L(α) − (L(A) + L(B))/2, as in Frankle "
    "et al. 2020",
    "curve": "curve: the loss along the way; all rows of one split are on one scale",
    "on {shape}": "on {shape}: the loss as drawn, at the checkpoint's place on the {shape}{norm}",
    "unseen": "unseen: the share of the distance from the origin that is off the {shape}",
}


def landscape_lines(
    document: Mapping[str, Any], width: int, *, colour: bool, metric: str | None = None
) -> Iterator[Text]:
    """The page with charts or maps below the context, as lines of at most `width` cells.

    `colour`: whether the terminal has enough colours for a heat map (256 or more). A plane's maps
    show `metric` instead of the loss.
    """
    page = landscape_page(document, metric)
    yield from page_lines(Page(page.context, []), width)
    yield from picture_lines(document["results"][0], width, colour=colour, metric=metric)
    yield from page_lines(Page([], page.sheets, page.footnotes, page.legend), width)


def landscape_page(document: Mapping[str, Any], metric: str | None = None) -> Page:
    """Context, the checkpoints with their places, then barriers, extremes and paths.

    The extremes are those of the loss, or on a plane those of `metric` if it is given.
    """
    result = document["results"][0]
    sheets = [checkpoint_sheet(result), *barrier_sheets(result)]
    if len(sheets) == 1 and result["curves"]:
        plane = result["dimensions"] == 2
        sheets.append(extreme_sheet(result, metric if metric and plane else "loss"))
    if result.get("hessian"):
        sheets.append(map_sheet(result))
    sheets += [trajectory_sheet(result, each) for each in result.get("trajectories") or ()]
    columns = [column for sheet in sheets for column in sheet.columns]
    headers = [column.header for column in columns]
    shape = shape_of(result)
    norm = " and with batch norm statistics as there" if result.get("batch_norm") else ""
    return Page(
        context=[*_context(document), *_axes(result)],
        sheets=sheets,
        footnotes=_footnotes(result),
        legend=[
            *(
                text.format(shape=shape, norm=norm)
                for key, text in _LEGEND.items()
                if key.format(shape=shape) in " ".join(headers)
            ),
            *_ways(result),
            *legend(columns),
        ],
    )


def _context(document: Mapping[str, Any]) -> list[str]:
    result = document["results"][0]
    points = " × ".join(map(str, result["shape"])) + (
        " point" if result["shape"] == [1] else " points"
    )
    how = [_what(document), points, _BATCH_NORM.get(result.get("batch_norm") or "", "")]
    if result.get("cosine") is not None:
        how.append(f"cosine of the axes {tidy(result['cosine'])}")
    return [*run_lines(document, list(result["curves"])), " · ".join(filter(None, how))]


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
            said.append(f"{percent(axis['explained_variance'])} of the path's variance")
        if axis.get("eigenvalue") is not None:
            said.append(f"eigenvalue {format_scalar(axis['eigenvalue'])}")
        if axis.get("norm") is not None:
            unit = tidy(axis["norm"])
            said.append(
                "in units of weight distance"
                if unit == "1"
                else f"one unit is a weight distance of {unit}"
            )
        lines.append(f"{SYMBOLS[axis['name']]}: {', '.join(said)}")
    if result.get("explained_variance") is not None and len(result["axes"]) > 1:
        lines.append(f"together {percent(result['explained_variance'])} of the path's variance")
    return lines


def _ways(result: Mapping[str, Any]) -> list[str]:
    """How the aligned line and the path were made."""
    lines = []
    if aligned := result.get("aligned"):
        change = aligned.get("function_difference")
        lines.append(
            f"aligned: {counted(aligned.get('moved'), 'unit')} of B permuted, in "
            f"{counted(aligned.get('groups'), 'group')}, to match A"
            + (f"; its outputs change by {format_number(change, 2)}" if change is not None else "")
        )
    if path := result.get("path"):
        shape = {"bezier": "quadratic Bézier curve", "chain": "chain of two straight lines"}
        steps = f" in {counted(path['steps'], 'step')}" if path.get("steps") is not None else ""
        lines.append(
            f"{ways(result)[-1].name}: a {shape.get(path['kind'], clean(path['kind']))} whose bend "
            f"is trained{steps}; t from A (0) to B (1)"
        )
    return lines


def _footnotes(result: Mapping[str, Any]) -> list[str]:
    """Advice for numbers that did not converge, and checkpoints outside the picture."""
    found = [
        *((c["name"], flat_scalars(c.get("measures") or {})) for c in result["checkpoints"]),
        *((f"the {way.name}", flat_scalars({"barrier": way.barrier})) for way in ways(result)),
    ]
    names, scalars = [name for name, _ in found], [row for _, row in found]
    notes = footnotes(names, scalars, {key: key for row in scalars for key in row})
    for axis in result["axes"]:
        low, high = min(axis["values"]), max(axis["values"])
        slack = 1e-6 * (high - low)
        outside = [
            c["name"]
            for c in result["checkpoints"]
            for place in [c["coordinates"][axis["name"]]]
            if place is not None and not low - slack <= place <= high + slack
        ]
        if outside:
            notes.append(f"outside the range of {SYMBOLS[axis['name']]}: {', '.join(outside)}")
    return notes
