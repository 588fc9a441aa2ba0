"""Figures and exports of spectral densities: log density over the eigenvalue."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from sharpcli.errors import counted
from sharpcli.render.pages.spectra import Spectrum, binned, span_of
from sharpcli.runtime.text import figure_text
from sharpcli.settings import FigureSettings

__all__ = ["spectral_file"]

_WIDTH, _SHAPE = 4.6, 0.62  # inches; height divided by width
_BINS = 500  # of the axis: about the resolution of a print of that width
_ROW = 0.024  # distance of the outliers' rows above the axes, relative to the height
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

    return written(lambda: _figure(spectra, settings), suffix, inline=settings.inline)


def _figure(spectra: Sequence[Spectrum], settings: FigureSettings) -> Any:
    """All densities on one axis as in Ghorbani, Krishnan & Xiao 2019; triangles are outliers."""
    from matplotlib.figure import Figure

    from sharpcli.render.files.figure import COLORS

    width = settings.width or _WIDTH
    drawn = Figure((width, width * _SHAPE), layout="constrained")
    axes = drawn.add_subplot()
    low, high = span_of(spectra)
    places = np.linspace(low, high, 2 * _BINS + 1)[1::2]
    log = settings.scale != "linear"
    floor = np.inf
    for index, spectrum in enumerate(spectra):
        color = COLORS[index % len(COLORS)]
        style = _STYLES[index // len(COLORS) % len(_STYLES)]
        density = np.array(binned(spectrum, low, high, _BINS))
        floor = min(floor, density.min())
        count = len(spectrum.outliers)
        name = spectrum.name + (f": {counted(count, 'outlier')}" if count else "")
        axes.plot(
            places, density, color=color, linestyle=style, linewidth=0.9, label=figure_text(name)
        )
        axes.plot(
            list(spectrum.outliers),
            [1.0 + (0.6 + index) * _ROW] * count,
            color=color,
            **_TRIANGLE,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
        )
    if log:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=floor)
    axes.set_xlim(low, high)
    axes.set_xlabel("eigenvalue λ")
    axes.set_ylabel("spectral density")
    if len(spectra) > 1 or spectra[0].outliers:
        if any(spectrum.outliers for spectrum in spectra):
            axes.plot([], [], color="0.35", **_TRIANGLE, label=_TRIANGLES)
        axes.legend(loc="upper right")
    return drawn


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
