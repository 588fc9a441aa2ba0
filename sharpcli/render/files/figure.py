"""Figures for a paper with matplotlib: lines as in Keskar et al. 2017, planes by `contours`."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sharpcli.render.files.contours import plane_figure
from sharpcli.render.numbers import format_scalar
from sharpcli.render.scene import (
    Array,
    Curve,
    Mark,
    Scene,
    drawable,
    is_log,
    line_label,
    named_curve,
    on_scale,
    shown_marks,
)
from sharpcli.runtime.text import figure_text
from sharpcli.settings.output import FigureSettings

__all__ = [
    "COLORS",
    "drawn_in_style",
    "figure",
    "line_figure",
    "scene_figure",
    "styled",
    "written",
]

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.4,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType, because journals reject type 3
    "svg.hashsalt": "sharpcli",  # makes internal names reproducible
}
_TRANSPARENT: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
# No date, so that the same document gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
# Okabe and Ito's colours: distinguishable in grey and by colour-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = {"train": "-", "test": (0, (3.5, 1.5))}
_WIDTH = 4.6  # inches; fits a column of most papers at 75 % or full size
_TWO_COLUMNS, _LINE = 4.0, 0.14  # inches: width of two legend columns, height of a legend line
_MOST_DOTS = 80  # points of a curve; with more, only the line is drawn
_GREY = "0.45"
_BESIDE = 1.2  # inches left and right of the axes
_WORD, _WORD_AND_NUMBER = 0.65, 1.0  # least inches from A to B with room between their names
_ARROW = {
    "arrowstyle": "<|-|>,head_width=0.12,head_length=0.3",
    "linewidth": 0.8,
    "shrinkA": 0,
    "shrinkB": 0,
    "color": "0.2",
}


def figure(scene: Scene, suffix: str, settings: FigureSettings) -> bytes:
    """The bytes of a ".png", ".svg" or ".pdf" file of a line or plane."""
    return written(lambda: scene_figure(scene, settings), suffix, inline=settings.inline)


def scene_figure(scene: Scene, settings: FigureSettings) -> Figure:
    """A line or a plane."""
    return (plane_figure if scene.is_plane else line_figure)(scene, settings)


def drawn_in_style(make: Callable[[], Figure], *, inline: bool = False) -> Figure:
    """The figure that `make` returns, as files have it, with a canvas to show and save it."""
    with styled(inline=inline):
        drawn = make()
        FigureCanvasAgg(drawn)
    return drawn


def written(make: Callable[[], Figure], suffix: str, *, inline: bool = False) -> bytes:
    """The bytes of a file with the figure that `make` returns.

    This uses no pyplot and no window. An `inline` figure has no background, so that it takes that
    of the page.
    """
    kind = suffix.removeprefix(".")
    with styled(inline=inline):
        drawn = drawn_in_style(make, inline=inline)
        content = io.BytesIO()
        drawn.savefig(
            content, format=kind, metadata=_METADATA[kind], bbox_inches="tight", pad_inches=0.04
        )
    return content.getvalue()


@contextlib.contextmanager
def styled(*, inline: bool = False) -> Iterator[None]:
    """Matplotlib's own defaults and this package's style; the user's settings come back."""
    with mpl.rc_context(), warnings.catch_warnings():
        # Names may be too long or have characters that the font lacks; draw the figure anyway.
        warnings.filterwarnings("ignore", r"Glyph|constrained_layout", UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE | (_TRANSPARENT if inline else {}))
        yield


def line_figure(scene: Scene, settings: FigureSettings) -> Figure:
    """The loss on the left axis and the next metric on the right; two panels for several curves."""
    width = settings.width or _WIDTH
    first, *more = scene.metrics
    stacked = bool(scene.others) and bool(more)
    drawn = Figure((width, width * (0.95 if stacked else 0.62)), layout="constrained")
    upper = drawn.add_subplot(2, 1, 1) if stacked else drawn.add_subplot()
    _draw_metric(upper, scene, first, settings.scale, COLORS)
    _mark_checkpoints(upper, scene)
    lower = upper
    if not scene.others:
        _mark_barrier(upper, scene, first, width)
    if stacked:
        lower = drawn.add_subplot(2, 1, 2, sharex=upper)
        upper.tick_params(labelbottom=False)
        _draw_metric(lower, scene, more[0], "auto", COLORS, labelled=False)
        _mark_checkpoints(lower, scene, named=False)
    elif more:
        right = upper.twinx()
        _draw_metric(right, scene, more[0], "auto", (COLORS[1],))
        for axes, color in ((upper, COLORS[0]), (right, COLORS[1])):
            axes.yaxis.label.set_color(color)
            axes.tick_params(axis="y", colors=color, which="both")
    lower.set_xlabel(figure_text(line_label(scene)))
    handles = [
        line for axes in drawn.axes for line in axes.lines if str(line.get_label())[0] != "_"
    ]
    columns = len({str(handle.get_linestyle()) for handle in handles})  # train | test
    if width < _TWO_COLUMNS:
        columns = 1
    drawn.set_figheight(drawn.get_figheight() + _LINE * max(0, len(handles) // columns - 2))
    handles.sort(key=lambda handle: str(handle.get_linestyle()) != "-")
    drawn.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6)
    return drawn


def _draw_metric(
    axes: Axes,
    scene: Scene,
    metric: str,
    scale: str,
    colors: Sequence[str],
    *,
    labelled: bool = True,
) -> None:
    """Draw every curve of one metric, each in its colour, train solid and test dashed."""
    at = scene.axes[scene.along].values
    shown = []
    for curve, color in zip([scene.grid, *scene.others], colors, strict=False):
        places = curve.at if curve is not scene.grid else at
        for split in scene.splits:
            values = curve.values.get(split, {}).get(metric)
            if values is None:
                continue
            values = drawable(values.ravel())
            shown.append(values)
            name = curve.name if scene.others else metric
            name = named_curve(name, curve, split) if metric == "loss" else f"{name}, {split}"
            axes.plot(
                places,
                values,
                color=color,
                linestyle=_STYLES.get(split, ":"),
                marker="o" if len(places) <= _MOST_DOTS else None,
                markersize=1.8,
                label=figure_text(name) if labelled else "_",
            )
            _draw_band(axes, curve, places, values, split, metric, color)
            broken = places[~np.isfinite(values)]
            axes.plot(
                broken,
                np.full(len(broken), 0.97),
                "x",
                color=color,
                markersize=3.5,
                transform=axes.get_xaxis_transform(),
                label="_",
            )
    together = np.concatenate(shown) if shown else np.zeros(0)
    logarithmic = is_log(metric, together, scale)
    if logarithmic:
        axes.set_yscale("log", nonpositive="clip")
        positive = together[np.isfinite(together) & (together > 0)]
        axes.set_ylim(positive.min() / 1.6, positive.max() * 1.6)
    axes.set_ylabel(on_scale(figure_text(metric), logarithmic=logarithmic))
    if len(at) == 1:
        axes.set_xlim(at[0] - 1, at[0] + 1)
    else:
        axes.margins(x=0.02)


def _draw_band(
    axes: Axes, curve: Curve, places: Array, values: Array, split: str, metric: str, color: str
) -> None:
    """Draw a band of one sampling standard error to each side."""
    error = curve.errors.get(split, {}).get(metric)
    if error is not None:
        error = error.ravel()
        axes.fill_between(
            places, values - error, values + error, color=color, alpha=0.18, linewidth=0
        )


def _mark_checkpoints(axes: Axes, scene: Scene, *, named: bool = True) -> None:
    """Draw a thin line at each checkpoint; checkpoints at one place share a label."""
    values = scene.axes[scene.along].values
    reach = float(np.ptp(values)) or 2.0
    together: list[tuple[float, list[Mark]]] = []
    for mark in sorted(shown_marks(scene), key=lambda each: float(each.at[scene.along])):
        place = float(mark.at[scene.along])
        axes.axvline(place, color=_GREY, linewidth=0.5, zorder=0.5)
        if together and place - together[-1][0] < 0.03 * reach:
            together[-1][1].append(mark)
        else:
            together.append((place, [mark]))
    for place, marks in together if named else ():
        axes.annotate(
            figure_text(", ".join(mark.name for mark in marks)),
            (place, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 2.5),
            textcoords="offset points",
            ha="center",
        )


def _mark_barrier(axes: Axes, scene: Scene, metric: str, width: float) -> None:
    """Draw an arrow from the straight line between the ends' losses up to the highest point."""
    barriers = {s: b for s, b in scene.grid.barriers.items() if s in scene.splits}
    if metric != "loss" or not barriers:
        return
    split, barrier = next(iter(barriers.items()))
    at, loss = scene.axes[scene.along].values, scene.grid.values[split]["loss"].ravel()
    ends = [loss[np.abs(at - end) < 1e-9] for end in (0.0, 1.0)]
    if not all(end.size and np.isfinite(end).all() for end in ends):
        return
    start, stop = (float(end[0]) for end in ends)
    place, rise = float(barrier["alpha"]), float(barrier["value"])
    low = start + (stop - start) * place
    if low + rise <= low + 1e-3 * float(np.nanmax(loss) - np.nanmin(loss)):
        return  # no barrier to mark
    between = np.linspace(0, 1, 65)
    axes.plot(between, start + (stop - start) * between, ":", color=_GREY, linewidth=0.9)
    axes.annotate("", (place, low + rise), (place, low), arrowprops=_ARROW)
    room = (width - _BESIDE) / float(np.ptp(at))
    if room >= _WORD:
        told = room >= _WORD_AND_NUMBER
        beside = (_WORD_AND_NUMBER if told else _WORD) / 2 / room  # clear of the names A and B
        axes.annotate(
            "barrier" + (f" {format_scalar(barrier)}" if told else ""),
            (min(max(place, beside), 1 - beside), 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 2.5),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
