"""The tables of a line or plane: its checkpoints, barriers, extremes and paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.documents.grids import MAP_TITLES
from sharpcli.documents.labels import clean, short_labels
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.statuses import NOT_CONVERGED, Outcome
from sharpcli.errors import counted
from sharpcli.render.numbers import NOT_FINITE, format_cells, format_number, format_scalar
from sharpcli.render.pages.measurements import column_titles
from sharpcli.render.terminal.axes import finite
from sharpcli.render.terminal.chart import sparkline
from sharpcli.render.terminal.pictures import SYMBOLS, barrier_place, ways
from sharpcli.render.terminal.table import Column, Row, Sheet

__all__ = [
    "barrier_sheets",
    "checkpoint_sheet",
    "extreme_sheet",
    "map_sheet",
    "percent",
    "shape_of",
    "tidy",
    "trajectory_sheet",
]

_SEEN = 1e-4  # a smaller fraction off the plane is rounding
_MOST_POINTS = 20  # of a trajectory in a table


def checkpoint_sheet(result: Mapping[str, Any]) -> Sheet:
    """Each checkpoint's place and own values, and if they differ, the values at its place here."""
    checkpoints = result["checkpoints"]
    labels = short_labels([str(c["path"]) for c in checkpoints])
    own = [flat_scalars(c.get("measures") or {}) for c in checkpoints]
    here = [flat_scalars(c.get("on_surface") or {}) for c in checkpoints]
    titles = column_titles(key for row in own for key in row)
    differ = {
        f"{key.removeprefix('loss.')} on {shape_of(result)}": key
        for key in titles
        if key.startswith("loss.") and any(map(_differ, own, here, [key] * len(own)))
    }
    return Sheet(
        [Row(f"{c['name']} {label}") for c, label in zip(checkpoints, labels, strict=True)],
        [
            *_places(checkpoints, result),
            *(Column(title, format_cells(own, key)) for key, title in titles.items()),
            *(Column(title, format_cells(here, key)) for title, key in differ.items()),
        ],
    )


def _differ(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    pair = [row[key]["value"] for row in (one, other) if key in row]
    if len(pair) < 2 or None in pair:
        return len(pair) == 2 and pair[0] is not pair[1]
    return not math.isclose(*pair, rel_tol=1e-4)


def shape_of(result: Mapping[str, Any]) -> str:
    """`line` or `plane`."""
    return "line" if result["dimensions"] == 1 else "plane"


def _places(points: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> list[Column]:
    """Coordinates, and the fraction off the line or plane if there is any."""
    columns = [
        Column(SYMBOLS[axis["name"]], [_coordinate(p, axis) for p in points])
        for axis in result["axes"]
    ]
    if any((p.get("unseen") or 0) > _SEEN for p in points):
        columns.append(Column("unseen", [percent(p.get("unseen")) for p in points]))
    return columns


def barrier_sheets(result: Mapping[str, Any]) -> list[Sheet]:
    """A row for each way and split; no sheet without a barrier."""
    found = [(way, split) for way in ways(result) for split in way.barrier]
    if not found:
        return []
    several = len(ways(result)) > 1
    losses = [
        [y for x, y in zip(way.x, way.curves[split]["loss"], strict=True) if -1e-9 <= x <= 1 + 1e-9]
        for way, split in found
    ]
    of_split: dict[str, list[float | None]] = {}
    for (_, split), values in zip(found, losses, strict=True):
        of_split.setdefault(split, []).extend(values)
    most = max(8, len(losses[0]))
    sparklines = [
        sparkline(values, of_split[split], most)
        for (_, split), values in zip(found, losses, strict=True)
    ]
    barriers = [way.barrier[split] for way, split in found]
    return [
        Sheet(
            [Row(f"{way.name}, {split}" if several else split) for way, split in found],
            [
                Column("above line", [format_scalar(b) for b in barriers]),
                Column("at", [barrier_place(way.barrier[s], way.coordinate) for way, s in found]),
                Column("above mean", [format_scalar(b["above_mean"]) for b in barriers]),
                Column("curve", sparklines, numeric=False),
            ],
            title="barrier between A and B",
            caption="loss",
        )
    ]


def extreme_sheet(result: Mapping[str, Any], quantity: str) -> Sheet:
    """The lowest and highest value on the grid, and the number of points without one."""
    found = result["curves"].items()
    curves = {split: known[quantity] for split, known in found if quantity in known}
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
        header = "not finite" if result.get("status") == Outcome.OK else "not reached"
        columns.append(Column(header, [f"{n} of {count}" for n in missing]))
    if result["dimensions"] == 1:
        lines = [sparkline(y) for y in curves.values()]
        columns.append(Column("curve", lines, numeric=False))
    return Sheet([Row(split) for split in curves], columns, caption=clean(quantity))


def map_sheet(result: Mapping[str, Any]) -> Sheet:
    """The lowest and highest of each quantity of a Hessian's map, and what did not converge."""
    found = {key: result["hessian"][key] for key in MAP_TITLES}
    columns = []
    for header, best in (("lowest", min), ("highest", max)):
        chosen = []
        for scalars in found.values():
            known = [s for s in scalars if s is not None and s["value"] is not None]
            chosen.append(best(known, key=lambda s: float(s["value"]), default=None))
        places = [
            "–" if one is None else _place(result, scalars.index(one))
            for scalars, one in zip(found.values(), chosen, strict=True)
        ]
        shown = [NOT_FINITE if one is None else format_scalar(one) for one in chosen]
        columns += [Column(header, shown), Column("at", places)]
    count = len(result["coordinates"])
    doubtful = [
        sum(s is None or s["status"] in NOT_CONVERGED for s in scalars)
        for scalars in found.values()
    ]
    if any(doubtful):
        columns.append(Column("not converged", [f"{n} of {count}" for n in doubtful]))
    return Sheet([Row(title) for title in MAP_TITLES.values()], columns, caption="Hessian")


def _place(result: Mapping[str, Any], index: int) -> str:
    point = {"coordinates": result["coordinates"][index]}
    return ", ".join(_coordinate(point, axis) for axis in result["axes"])


def _at(result: Mapping[str, Any], values: Sequence[float | None], value: float | None) -> str:
    if value is None:
        return "–"
    return _place(result, list(values).index(value))


def trajectory_sheet(result: Mapping[str, Any], trajectory: Mapping[str, Any]) -> Sheet:
    """The places of a path's points; for a long path a selection, with the last."""
    points = trajectory["points"]
    labels = short_labels([str(point["path"]) for point in points])
    every = -(-len(points) // _MOST_POINTS)
    shown = sorted({*range(0, len(points), every), len(points) - 1}) if points else []
    title = f"{clean(trajectory['name'])} on these axes"
    if every > 1:
        title += f" ({len(shown)} of {counted(len(points), 'point')}; the JSON has all)"
    return Sheet(
        [Row(labels[index]) for index in shown],
        _places([points[index] for index in shown], result),
        title=title,
    )


def _coordinate(point: Mapping[str, Any], axis: Mapping[str, Any]) -> str:
    """A coordinate, rounded to a thousandth of the axis range."""
    exact, range_ = point["coordinates"][axis["name"]], max(map(abs, axis["values"])) or 1.0
    if exact is None:  # the checkpoint's weights are not finite
        return "–"
    value = round(exact, 3 - math.floor(math.log10(range_)))
    return f"{value + 0.0:.6g}"  # never -0


def tidy(value: float) -> str:
    """At most four digits, and no more than needed."""
    return f"{value:.4g}"


def percent(share: float | None) -> str:
    """A fraction as `41.2 %`."""
    if share is None:
        return "–"
    return "0 %" if share <= _SEEN else f"{100 * share:.3g} %"
