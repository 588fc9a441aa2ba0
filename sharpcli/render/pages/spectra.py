"""The page of a `spectrum` document: all densities in one chart, with a table below."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from rich.text import Text

from sharpcli.documents.labels import clean
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.statuses import NOT_CONVERGED, Outcome
from sharpcli.errors import SharpError, counted
from sharpcli.render.numbers import format_scalar
from sharpcli.render.pages.context import run_lines
from sharpcli.render.pages.measurements import MATRICES, footnotes, labels_of, notation, result_row
from sharpcli.render.terminal.chart import Chart, Dash, Series, chart_lines
from sharpcli.render.terminal.table import Column, Page, Sheet, page_lines

__all__ = [
    "Spectrum",
    "binned",
    "read_spectra",
    "smoothed",
    "span_of",
    "spectrum_lines",
    "spectrum_page",
]

_STYLES: tuple[tuple[str, Dash], ...] = (
    ("cyan", "solid"),
    ("magenta", "dashed"),
    ("yellow", "dotted"),
    ("green", "dash-dotted"),
)
_HEIGHT = 15
_LEAST = 0.3  # eigenvalues in an empty bin, for a log scale
_TOGETHER = 3  # eigenvalues in the narrowest step of a figure's density
_TITLES = {
    "largest": "λ1",
    "smallest": "λmin",
    "bulk_edge": "bulk edge",
    "outliers": "outliers",
    "moments[0]": "⟨λ⟩",
    "moments[1]": "⟨λ²⟩",
    "moments[2]": "⟨λ³⟩",
    "moments[3]": "⟨λ⁴⟩",
}
_LEGEND = (
    "λ1, λmin: both ends of the spectrum",
    "outliers: eigenvalues above the deepest wide gap of the spectrum; bulk edge: the largest "
    "below it",
    "⟨λᵏ⟩: moments of the eigenvalue distribution, tr Hᵏ/n",
)


@dataclass(frozen=True)
class Spectrum:
    """One checkpoint's density on its grid, and the numbers derived from it."""

    name: str
    size: int
    grid: Sequence[float]
    density: Sequence[float]
    edge: float | None
    outliers: Sequence[float]
    result: Mapping[str, Any]


def read_spectra(document: Mapping[str, Any]) -> list[Spectrum]:
    """The spectra of a document's checkpoints; raises `SharpError` if all of them failed."""
    results = document["results"]
    names = labels_of(results)
    found = [
        Spectrum(
            clean(name),
            int(result["size"]),
            [float(x) for x in result["grid"]],
            [float(y) for y in result["density"]],
            result["bulk_edge"]["value"],
            [
                float(x["value"])
                for x in result["outliers"]["eigenvalues"]
                if x["value"] is not None
            ],
            result,
        )
        for name, result in zip(names, results, strict=True)
        if result.get("status") != Outcome.FAILED
    ]
    if not found:
        raise SharpError(
            "this spectrum result failed: there is nothing to draw", "see its error, and run again"
        )
    return found


def _values(scalars: Sequence[Mapping[str, Any]]) -> list[float | None]:
    return [scalar["value"] for scalar in scalars]


def binned(spectrum: Spectrum, low: float, high: float, bins: int) -> list[float]:
    """The density in equal bins from `low` to `high`: mass divided by width.

    An empty bin gets a little less than one eigenvalue, for a log scale.
    """
    width = (high - low) / bins
    least = _LEAST / spectrum.size / width
    return [max(mass / width, least) for mass in _masses(spectrum, low, width, bins)]


def _masses(spectrum: Spectrum, low: float, width: float, bins: int) -> list[float]:
    """The mass in each of equal bins from `low`."""
    grid, density = spectrum.grid, spectrum.density
    intervals = zip(pairwise(grid), pairwise(density), strict=True)
    steps = [(b - a) * (p + q) / 2 for (a, b), (p, q) in intervals]
    mass = [0.0, *accumulate(steps)]

    def below(place: float) -> float:
        index = bisect_right(grid, place)
        if index == 0 or index == len(grid):
            return mass[-1] if index else 0.0
        a, b = grid[index - 1], grid[index]
        return mass[index - 1] + (mass[index] - mass[index - 1]) * (place - a) / (b - a)

    passed = [below(low + i * width) for i in range(bins + 1)]
    return [q - p for p, q in pairwise(passed)]


def smoothed(
    spectrum: Spectrum, low: float, high: float, bins: int
) -> tuple[list[float], list[float]]:
    """The bulk's density for a figure: (ends of the steps, height of each).

    Where eigenvalues are sparse, equal bins are joined until each holds three of them: narrower
    ones would show the place of every single eigenvalue as a comb. Outliers are left out, since
    figures mark each of them; without outliers the bulk is everything. The steps hold all of the
    bulk's mass.
    """
    top = spectrum.edge if spectrum.outliers and spectrum.edge is not None else high
    # The edge is an eigenvalue: its own mass lies on both sides of it.
    top = min(high, max(top + (high - low) / bins, spectrum.grid[0]))
    width = (high - low) / bins
    least = _TOGETHER / spectrum.size
    ends, masses = [low], [0.0]
    for index, mass in enumerate(_masses(spectrum, low, width, bins)):
        start, stop = low + index * width, low + (index + 1) * width
        if start >= top:
            break
        if masses[-1] >= least or (masses[-1] == 0 and len(masses) == 1 and mass > 0):
            ends.append(start)
            masses.append(0.0)
        masses[-1] += mass
        last = stop
    ends.append(last)
    if len(masses) > 1 and masses[-1] < least:  # the rest at the end
        ends.pop(-2)
        masses[-2:] = [masses[-2] + masses[-1]]
    if len(masses) > 1 and masses[0] == 0:  # below the smallest eigenvalue
        ends, masses = ends[1:], masses[1:]
    heights = [m / (b - a) for m, (a, b) in zip(masses, pairwise(ends), strict=True)]
    return ends, heights


def span_of(spectra: Sequence[Spectrum]) -> tuple[float, float]:
    """The ends of an axis that shows all spectra, with a small margin."""
    low, high = min(s.grid[0] for s in spectra), max(s.grid[-1] for s in spectra)
    room = 0.01 * (high - low) or 1.0
    return low - room, high + room


def spectrum_lines(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """Context, the chart and the table, as lines of at most `width` cells."""
    page = spectrum_page(document)
    yield from page_lines(Page(page.context, []), width)
    known = [result for result in document["results"] if result.get("status") != Outcome.FAILED]
    if known:
        yield Text()
        yield from _chart(read_spectra(document), width)
    yield from page_lines(Page([], page.sheets, page.footnotes, page.legend), width)


def spectrum_page(document: Mapping[str, Any]) -> Page:
    """One row per checkpoint: both ends, the bulk's edge, the outliers, the moments."""
    results = document["results"]
    labels = labels_of(results)
    scalars = [flat_scalars({k: v for k, v in r.items() if k != "checkpoint"}) for r in results]
    columns = [
        Column(title, [_cell(key, row) for row in scalars])
        for key, title in _TITLES.items()
        if any(key in row for row in scalars)
    ]
    return Page(
        _context(document),
        [Sheet([*map(result_row, labels, results)], columns)],
        footnotes(labels, scalars, _TITLES),
        [*notation(columns), *_LEGEND] if columns else [],
    )


def _cell(key: str, row: Mapping[str, Mapping[str, Any]]) -> str:
    if key not in row:
        return "–"
    scalar = row[key]
    if key != "outliers":
        return format_scalar(scalar)
    doubt = "?" if scalar.get("sampling_status") else ""
    return f"{scalar['value']}{doubt}" + ("!" if scalar["status"] in NOT_CONVERGED else "")


def _context(document: Mapping[str, Any]) -> list[str]:
    lines = run_lines(document)
    for result in document["results"]:
        if result.get("status") != Outcome.FAILED:
            operator = MATRICES.get(result["operator"], clean(result["operator"]))
            how = (
                f"{counted(result['probes'], 'probe')} of "
                f"{counted(result['steps'], 'Lanczos step')}"
            )
            if not result["probes"]:
                how = "all eigenvalues"
            lines.append(f"{operator}, {result['size']} × {result['size']} · {how}")
            break
    return lines


def _chart(spectra: Sequence[Spectrum], width: int) -> list[Text]:
    """The densities in one chart, at most one per kind of line."""
    shown = spectra[: len(_STYLES)]
    low, high = span_of(shown)
    bins = 2 * max(20, width - 8)
    step = (high - low) / bins
    series = [
        Series(
            spectrum.name,
            [low + (i + 0.5) * step for i in range(bins)],
            binned(spectrum, low, high, bins),
            *style,
        )
        for spectrum, style in zip(shown, _STYLES, strict=False)
    ]
    alone = shown[0] if len(shown) == 1 else None
    marks = [(alone.edge, "bulk edge")] if alone and alone.outliers and alone.edge else []
    title = "spectral density"
    if len(shown) < len(spectra):
        title += f" of the first {len(shown)}"
    chart = Chart(title, series, x_name="λ", marks=marks, keys=len(spectra) > 1)
    return chart_lines(chart, width, _HEIGHT)
