"""Figures of a comparison for a paper: a scatter with the gap, or a heat map over two factors."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from sharpcli.render.numbers import format_number
from sharpcli.render.pages.scores import DrawnScores
from sharpcli.render.relations import DrawnHeat, DrawnScatter
from sharpcli.render.scene import is_log, on_scale
from sharpcli.runtime.text import figure_text
from sharpcli.settings.output import FigureSettings

__all__ = ["GAP", "comparison_figure", "comparison_file", "is_wide"]

GAP = "generalization gap"
_WIDTH, _HEIGHT = 3.6, 0.72  # inches; the height as a share of it
_LINE = 0.14  # inches: height of a line of the legend
_CELL, _LOWEST, _MARGIN = 0.36, 1.1, 0.7  # inches: height of a row of the map; least height
_MARKERS = "osD^vPX"
_MOST_NUMBERS = 9  # columns of a map whose cells have room for their numbers
_DARK = 0.55  # share of the colour scale below which the ground is dark


def comparison_file(
    drawn: DrawnScores | DrawnScatter | DrawnHeat, suffix: str, settings: FigureSettings
) -> bytes:
    """The bytes of a ".png", ".svg", ".pdf" or ".npz" file of a comparison."""
    if isinstance(drawn, DrawnScores):
        from sharpcli.render.files.score_figure import score_file

        return score_file(drawn, suffix, settings)
    if suffix == ".npz":
        return _arrays(drawn)
    from sharpcli.render.files.figure import written

    return written(lambda: comparison_figure(drawn, settings), suffix, inline=settings.inline)


def comparison_figure(
    drawn: DrawnScores | DrawnScatter | DrawnHeat, settings: FigureSettings
) -> Any:
    """The scatter, the map or the curves of scores."""
    if isinstance(drawn, DrawnScores):
        from sharpcli.render.files.score_figure import score_figure

        return score_figure(drawn, settings)
    return _scatter(drawn, settings) if isinstance(drawn, DrawnScatter) else _heat(drawn, settings)


def is_wide(values: Any, settings: FigureSettings) -> bool:
    """Whether the measure is drawn on a logarithmic scale; never with values of 0 or below."""
    known = np.array(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return bool(known.size and known.min() > 0) and is_log("", known, settings.scale)


def _scatter(drawn: DrawnScatter, settings: FigureSettings) -> Any:
    from matplotlib.figure import Figure

    from sharpcli.render.files.figure import COLORS

    width = settings.width or _WIDTH
    named = [each for each in drawn.points if each.name]
    lines = -(-len(named) // 4)
    figure = Figure((width, width * _HEIGHT + _LINE * lines), layout="constrained")
    axes = figure.add_subplot()
    for index, each in enumerate(drawn.points):
        axes.scatter(
            each.x,
            each.y,
            s=16,
            marker=_MARKERS[index % len(_MARKERS)],
            color=COLORS[index % len(COLORS)],
            alpha=0.8,
            linewidths=0,
            label=figure_text(each.name),
        )
    log = is_wide([x for each in drawn.points for x in each.x], settings)
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(on_scale(figure_text(drawn.measure), logarithmic=log))
    axes.set_ylabel(GAP)
    axes.margins(0.05)
    if drawn.tau is not None:
        axes.set_title(f"Kendall's τ = {drawn.tau:+.2f}".replace("-", "\u2212"), loc="right")
    if named:
        figure.legend(
            loc="outside lower center",
            ncols=min(4, len(named)),
            title=figure_text(drawn.factor),
            title_fontsize=7,
            handletextpad=0.1,
            columnspacing=1.0,
        )
    return figure


def _heat(drawn: DrawnHeat, settings: FigureSettings) -> Any:
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    values = _matrix(drawn)
    width = settings.width or _WIDTH
    figure = Figure((width, max(_LOWEST, _CELL * len(drawn.rows)) + _MARGIN), layout="constrained")
    axes = figure.add_subplot()
    known = values[np.isfinite(values)]
    wide = bool(known.size and known.min() > 0) and is_log("", known, settings.scale, plane=True)
    norm = (LogNorm if wide else Normalize)(*((known.min(), known.max()) if known.size else ()))
    image = axes.imshow(values, cmap="viridis", norm=norm, aspect="auto")
    axes.set_facecolor("0.85")
    axes.set_xticks(range(len(drawn.columns)), [figure_text(each) for each in drawn.columns])
    axes.set_yticks(range(len(drawn.rows)), [figure_text(each) for each in drawn.rows])
    axes.tick_params(length=0)
    axes.set_xlabel(figure_text(drawn.across))
    axes.set_ylabel(figure_text(drawn.down))
    if len(drawn.columns) <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            finite = bool(np.isfinite(value))
            ink = "white" if finite and norm(value) < _DARK else "black"
            text = format_number(float(value), 3) if finite else "–"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
    label = on_scale(figure_text(f"{drawn.measure}, mean of the group"), logarithmic=wide)
    figure.colorbar(image, ax=axes, label=label)
    return figure


def _matrix(drawn: DrawnHeat) -> Any:
    return np.array(
        [[np.nan if x is None else x for x in row] for row in drawn.values], dtype=np.float64
    )


def _arrays(drawn: DrawnScatter | DrawnHeat) -> bytes:
    """The numbers of a figure: `x`, `y` and `name` of each point, or the map with its levels."""
    content = io.BytesIO()
    if isinstance(drawn, DrawnHeat):
        np.savez(
            content,
            rows=np.array(drawn.rows, np.str_),
            columns=np.array(drawn.columns, np.str_),
            values=_matrix(drawn),
        )
    else:
        np.savez(
            content,
            x=np.array([x for each in drawn.points for x in each.x], dtype=np.float64),
            y=np.array([y for each in drawn.points for y in each.y], dtype=np.float64),
            name=np.array([each.name for each in drawn.points for _ in each.x], np.str_),
        )
    return content.getvalue()
