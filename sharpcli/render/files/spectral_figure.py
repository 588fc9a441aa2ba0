"""Figures and exports of spectral densities: log density over the eigenvalue."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from sharpcli.errors import counted
from sharpcli.render.pages.spectra import Spectrum, smoothed, span_of
from sharpcli.render.scene import on_scale
from sharpcli.runtime.text import figure_text
from sharpcli.settings.output import FigureSettings

__all__ = ["spectral_figure", "spectral_file"]

_WIDTH, _SHAPE = 4.6, 0.62  # inches; height divided by width
_BINS = 500  # of the axis: about the resolution of a print of that width
_ROW = 0.024  # distance of outliers from the axes' edge, relative to the height
_LOW, _PANEL = 0.14, 0.26  # height of the axis below several panels, and of each panel
_MOST_PANELS = 6
_ROOM = 1.6  # above the curves and below them, as a factor of a log scale
_STYLES = ("-", (0, (3.5, 1.5)))  # of the lines, each for one round of colours
_TRIANGLE: dict[str, Any] = {
    "linestyle": "none",
    "marker": "v",
    "markersize": 2.6,
    "markeredgewidth": 0,
}
_TRIANGLES = "an outlier, beyond the bulk"


def spectral_file(spectra: Sequence[Spectrum], suffix: str, settings: FigureSettings) -> bytes:
    """The bytes of a ".png", ".svg", ".pdf" or ".npz" file of spectra."""
    if suffix == ".npz":
        return _arrays(spectra)
    from sharpcli.render.files.figure import written

    return written(lambda: spectral_figure(spectra, settings), suffix, inline=settings.inline)


def spectral_figure(spectra: Sequence[Spectrum], settings: FigureSettings) -> Any:
    """A panel for each density on one pair of axes, as in Ghorbani, Krishnan & Xiao 2019.

    Triangles are outliers. With more spectra than panels fit on a page, all share one panel.
    """
    from matplotlib.figure import Figure

    apart = len(spectra) <= _MOST_PANELS
    panels = len(spectra) if apart else 1
    width = settings.width or _WIDTH
    shape = _SHAPE if panels == 1 else _LOW + panels * _PANEL
    drawn = Figure((width, width * shape), layout="constrained")
    every = drawn.subplots(panels, sharex=True, sharey=True, squeeze=False)[:, 0]
    low, high = span_of(spectra)
    heights: list[float] = []
    for index, spectrum in enumerate(spectra):
        axes = every[index if apart else 0]
        heights += _draw_density(axes, spectrum, index, low, high, apart=apart)
    log = settings.scale != "linear"
    for index, axes in enumerate(every):
        if log:
            axes.set_yscale("log", nonpositive="clip")
            bottom, top = min(heights), max(heights)
            axes.set_ylim(bottom / _ROOM, top * (_ROOM if apart else _ROOM * _ROOM))
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlim(low, high)
        if index == 0 and any(spectrum.outliers for spectrum in spectra):
            axes.plot([], [], color="0.35", **_TRIANGLE, label=_TRIANGLES)
        if len(spectra) > 1 or spectra[0].outliers:
            axes.legend(loc="upper right", handlelength=1.4)
    every[-1].set_xlabel("eigenvalue λ")
    name = on_scale("spectral density", logarithmic=log)
    if panels == 1:
        every[0].set_ylabel(name)
    else:
        drawn.supylabel(name, fontsize=8)
    return drawn


def _draw_density(
    axes: Any, spectrum: Spectrum, index: int, low: float, high: float, *, apart: bool
) -> list[float]:
    """Draw one spectrum in its colour, with its outliers; returns its heights above zero."""
    from sharpcli.render.files.figure import COLORS

    color = COLORS[index % len(COLORS)]
    ends, heights = smoothed(spectrum, low, high, _BINS)
    count = len(spectrum.outliers)
    name = spectrum.name + (f": {counted(count, 'outlier')}" if count else "")
    if apart:
        ground = max(min(heights) * 1e-9, 1e-300)
        axes.stairs(heights, ends, baseline=ground, fill=True, color=color, alpha=0.15, lw=0)
    axes.stairs(
        heights,
        ends,
        baseline=None,
        color=color,
        linestyle="-" if apart else _STYLES[index // len(COLORS) % len(_STYLES)],
        linewidth=0.9,
        label=figure_text(name),
    )
    axes.plot(
        list(spectrum.outliers),
        [_ROW if apart else 1.0 + (0.6 + index) * _ROW] * count,
        color=color,
        **_TRIANGLE,
        clip_on=False,
        transform=axes.get_xaxis_transform(),
    )
    return [height for height in heights if height > 0]


def _arrays(spectra: Sequence[Spectrum]) -> bytes:
    """An .npz file with each spectrum's arrays as `0_grid`, `0_density`, … in the given order."""
    arrays: dict[str, Any] = {"names": np.array([s.name for s in spectra], dtype=np.str_)}
    arrays["paths"] = np.array([str(s.result["checkpoint"]["path"]) for s in spectra], np.str_)
    for index, spectrum in enumerate(spectra):
        for key in ("nodes", "weights", "grid", "density"):
            arrays[f"{index}_{key}"] = np.array(spectrum.result[key], dtype=np.float64)
        arrays[f"{index}_outliers"] = np.array(spectrum.outliers, dtype=np.float64)
        moments = [[m["value"], m["error"]] for m in spectrum.result["moments"]]
        arrays[f"{index}_moments"] = np.array(moments, dtype=np.float64)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
