"""Curves of groups of runs for a paper: the median of each as a line, its quartiles as a band."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from sharpcli.render.pages.scores import OVER, DrawnScores
from sharpcli.render.scene import drawable, is_log, on_scale
from sharpcli.runtime.text import figure_text
from sharpcli.settings.output import FigureSettings

__all__ = ["score_figure", "score_file"]

_WIDTH, _HEIGHT = 4.6, 0.62  # inches; the height as a share of it
_LINE = 0.14  # inches: height of a line of the legend
_BAND = 0.18  # opacity: bands may lie on each other
_DASHES: tuple[Any, ...] = ("-", (0, (3.5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))


def score_file(drawn: DrawnScores, suffix: str, settings: FigureSettings) -> bytes:
    """The bytes of a ".png", ".svg", ".pdf" or ".npz" file of groups' curves."""
    if suffix == ".npz":
        return _arrays(drawn)
    from sharpcli.render.files.figure import written

    return written(lambda: score_figure(drawn, settings), suffix, inline=settings.inline)


def score_figure(drawn: DrawnScores, settings: FigureSettings) -> Any:
    """The curves of groups with their bands."""
    from matplotlib.figure import Figure

    from sharpcli.render.files.figure import COLORS

    width = settings.width or _WIDTH
    figure = Figure(
        (width, width * _HEIGHT + _LINE * max(0, len(drawn.bands) - 1)), layout="constrained"
    )
    axes = figure.add_subplot()
    for index, band in enumerate(drawn.bands):
        x, median, lower, upper = (
            drawable(np.array(each, dtype=np.float64))
            for each in (band.x, band.median, band.lower, band.upper)
        )
        color = COLORS[index % len(COLORS)]
        runs = "1 run" if band.runs == 1 else f"{band.runs} runs"
        axes.plot(
            x,
            median,
            color=color,
            linestyle=_DASHES[index // len(COLORS) % len(_DASHES)],
            label=figure_text(f"{band.name} ({runs})"),
        )
        axes.fill_between(x, lower, upper, color=color, alpha=_BAND, linewidth=0)
    if drawn.target is not None:
        axes.axhline(drawn.target, color="0.45", linewidth=0.6, linestyle=":", zorder=0.5)
    together = np.concatenate([np.array(each.median, dtype=np.float64) for each in drawn.bands])
    log = is_log(drawn.metric, together, settings.scale)
    if log:
        axes.set_yscale("log", nonpositive="clip")
    axes.set_xlabel(OVER[drawn.over])
    axes.set_ylabel(on_scale(figure_text(drawn.quantity), logarithmic=log))
    axes.margins(x=0.02)
    figure.legend(loc="outside lower center", ncols=1, handlelength=2.6)
    return figure


def _arrays(drawn: DrawnScores) -> bytes:
    """Each group's lists, under `0_steps` (or so), `0_median`, `0_lower`, `0_upper`."""
    arrays: dict[str, Any] = {"names": np.array([each.name for each in drawn.bands], np.str_)}
    for index, band in enumerate(drawn.bands):
        arrays[f"{index}_{drawn.over}"] = np.array(band.x, dtype=np.float64)
        for key in ("median", "lower", "upper"):
            arrays[f"{index}_{key}"] = np.array(getattr(band, key), dtype=np.float64)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
