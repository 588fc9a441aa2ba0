"""The figures of an experiment for a paper: one panel each, in rows of two."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sharpcli.errors import SharpError
from sharpcli.render.scene import drawable, on_scale
from sharpcli.runtime.text import figure_text
from sharpcli.settings.output import FigureSettings

__all__ = ["read_reproduction", "reproduction_figure", "reproduction_file"]

_PANEL = 3.3  # inches; a column of most papers
_TALL = 0.72  # the height of a panel as a share of its width
_BAND = 0.18  # opacity: bands may lie on each other
_DASHES: tuple[Any, ...] = ("-", (0, (3.5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_MARKS = "os^Dv"
_SMALL = 6  # points; of titles and legends
_DECADES = 500.0  # range of an axis with plain numbers
_MOST_TICKS = 8
_LONG = 56  # letters of this size in the width of a panel
_INSIDE = 5  # series in a legend that has room inside a panel of curves
_LINE = 0.12  # inches; of a legend below it
_UNDER = 5.5  # letters' heights between the panel and a legend below its axis

Panel = Mapping[str, Any]


def read_reproduction(document: Mapping[str, Any]) -> list[Panel]:
    """The panels of a `reproduce` document; raises `SharpError` where it has none."""
    panels = [each for each in document.get("figures", ()) if each["series"]]
    if not panels:
        raise SharpError("this experiment has no figure", "add a [[figure]] to its file")
    return panels


def reproduction_file(panels: list[Panel], suffix: str, settings: FigureSettings) -> bytes:
    """The bytes of a ".png", ".svg", ".pdf" or ".npz" file of an experiment's figures."""
    if suffix == ".npz":
        return _arrays(panels)
    from sharpcli.render.files.figure import written

    return written(lambda: reproduction_figure(panels, settings), suffix, inline=settings.inline)


def reproduction_figure(panels: list[Panel], settings: FigureSettings) -> Any:
    """All panels; a single one fills a column of a paper, several are in rows of two."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = settings.width or _PANEL * columns
    below = [max(map(_lines_below, panels[r * columns : (r + 1) * columns])) for r in range(rows)]
    tall = [width / columns * _TALL + _LINE * lines for lines in below]
    figure = Figure((width, sum(tall)), layout="constrained")
    grid = figure.add_gridspec(rows, columns, height_ratios=tall)
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(grid[index // columns, index % columns]), panel)
    return figure


def _draw(axes: Any, panel: Panel) -> None:
    from sharpcli.render.files.figure import COLORS

    if panel["style"] == "rows":
        _draw_rows(axes, panel)
        return
    xs = [each for series in panel["series"] for each in series["x"]]
    ys = [each for series in panel["series"] for each in series["y"]]
    # A logarithm has no place for what is not above 0: it would be missing without a word.
    y_log = panel["y_log"] and all(each is None or each > 0 for each in ys)
    x_zero = panel["x_log"] and any(each is not None and each <= 0 for each in xs)
    for index, series in enumerate(panel["series"]):
        look = {"color": COLORS[index % len(COLORS)], "label": figure_text(series["name"]) or None}
        x, y = (drawable(np.array(series[key], dtype=np.float64)) for key in ("x", "y"))
        if panel["style"] == "scatter":
            mark = _MARKS[index % len(_MARKS)]
            axes.plot(x, y, mark, markersize=2.8, markeredgewidth=0, alpha=0.8, **look)
            continue
        dash = _DASHES[index // len(COLORS) % len(_DASHES)]
        low, high = (drawable(np.array(series[key], dtype=np.float64)) for key in ("low", "high"))
        if panel["style"] == "points":
            # Intervals of neighbouring series at one x would hide each other.
            x = _shifted(
                x, _beside(panel["series"], index), xs, logarithmic=panel["x_log"] and not x_zero
            )
            ends = np.maximum([y - low, high - y], 0)
            axes.errorbar(
                x,
                y,
                ends,
                fmt=_MARKS[index % len(_MARKS)],
                linestyle=dash,
                linewidth=0.9,
                elinewidth=0.7,
                capsize=1.5,
                markersize=2.8,
                **look,
            )
        else:
            axes.plot(x, y, linestyle=dash, linewidth=0.9, **look)
            axes.fill_between(x, low, high, color=look["color"], alpha=_BAND, linewidth=0)
    if panel.get("level") is not None:
        axes.axhline(panel["level"], color="0.45", linewidth=0.6, linestyle=":", zorder=0.5)
    if x_zero:
        least = min((abs(each) for each in xs if each), default=1.0)
        axes.set_xscale("symlog", linthresh=least)
    elif panel["x_log"]:
        axes.set_xscale("log")
        _tick(axes.xaxis)
    if y_log:
        axes.set_yscale("log", nonpositive="clip")
        _tick(axes.yaxis)
    if panel["style"] == "points":
        _tick_at(axes.xaxis, {x for x in xs if x is not None})
    axes.set_title(textwrap.fill(figure_text(panel["title"]), _LONG), fontsize=_SMALL + 1)
    axes.set_xlabel(on_scale(figure_text(panel["x_name"]), logarithmic=panel["x_log"]))
    axes.set_ylabel(on_scale(figure_text(panel["y_name"]), logarithmic=y_log))
    axes.margins(x=0.03)
    if not any(series["name"] for series in panel["series"]):
        return
    if _lines_below(panel):  # it would hide the data
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": _UNDER}
        place["ncols"] = _columns(panel)
    else:
        place = {"loc": "best"}
    axes.legend(fontsize=_SMALL, handlelength=2.2, **place)


def _columns(panel: Panel) -> int:
    """How many columns a legend below the panel has."""
    longest = max(len(figure_text(series["name"])) for series in panel["series"])
    return max(1, min(3, _LONG // (longest + 8)))


def _lines_below(panel: Panel) -> int:
    """The lines of the legend below the panel; 0 where it has room inside."""
    if panel["style"] == "rows":
        return 0
    count = len(panel["series"])
    longest = max(len(figure_text(series["name"])) for series in panel["series"])
    # Among points it would hide intervals.
    inside = 1 if panel["style"] == "points" else _INSIDE
    return -(-count // _columns(panel)) if count > inside or longest > _LONG // 2 else 0


def _draw_rows(axes: Any, panel: Panel) -> None:
    """A row for each series, the first one on top, its number and interval along x."""
    from sharpcli.render.files.figure import COLORS

    series = panel["series"]
    places = np.arange(len(series))[::-1]
    y, low, high = (
        np.array([each[key][0] for each in series], dtype=np.float64)
        for key in ("y", "low", "high")
    )
    ends = np.maximum([y - low, high - y], 0)
    look = {"elinewidth": 0.8, "capsize": 1.5, "markersize": 3, "color": COLORS[0]}
    axes.errorbar(y, places, xerr=ends, fmt="o", **look)
    if panel.get("level") is not None:
        axes.axvline(panel["level"], color="0.45", linewidth=0.6, linestyle=":", zorder=0.5)
    if panel["x_log"]:
        axes.set_xscale("log")
        _tick(axes.xaxis)
    axes.set_yticks(places, [figure_text(each["name"]) for each in series], fontsize=_SMALL)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(series) - 0.4)
    axes.set_title(figure_text(panel["title"]), fontsize=_SMALL + 1)
    axes.set_xlabel(on_scale(figure_text(panel["x_name"]), logarithmic=panel["x_log"]))


def _tick(axis: Any) -> None:
    """Plain numbers on a logarithmic axis of few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    if not 0 < low < high or high / low > _DECADES:
        return
    axis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if high / low > 5 else (1, 1.5, 2, 3, 4, 5, 7))
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _tick_at(axis: Any, places: set[float]) -> None:
    """The places themselves as ticks, where they are few."""
    from matplotlib.ticker import NullLocator

    if len(places) <= _MOST_TICKS and axis.get_scale() == "log":
        axis.set_ticks(sorted(places), [f"{round(each, 1):g}" for each in sorted(places)])
        axis.set_minor_locator(NullLocator())


def _beside(series: Sequence[Mapping[str, Any]], index: int) -> float:
    """The place of a series among those that have a point at an x of its own; 0 in the middle."""
    own = {*series[index]["x"]}
    sharing = [place for place, each in enumerate(series) if own & {*each["x"]}]
    return sharing.index(index) - (len(sharing) - 1) / 2 if sharing else 0.0


def _shifted(x: Any, beside: float, every: Sequence[float | None], *, logarithmic: bool) -> Any:
    """The places of a series, moved by `beside` hundredths of the range of all series."""
    known = np.array([each for each in every if each is not None], dtype=np.float64)
    scale, back = (np.log, np.exp) if logarithmic else (np.positive, np.positive)
    return back(scale(x) + beside * 0.01 * np.ptp(scale(known))) if known.size else x


def _arrays(panels: list[Panel]) -> bytes:
    """Each series' lists, under `0_1_x` for panel 0 and series 1, and their names."""
    arrays: dict[str, Any] = {}
    names = []
    for number, panel in enumerate(panels):
        for index, series in enumerate(panel["series"]):
            names.append(f"{number}_{index}: {panel['title']}: {series['name']}")
            for key in ("x", "y", "low", "high"):
                if key in series:
                    arrays[f"{number}_{index}_{key}"] = np.array(series[key], dtype=np.float64)
    arrays["names"] = np.array(names, dtype=np.str_)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
