"""Files drawn from a document: figures, interactive pages, and exports for other programs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpcli.documents.results import Document
from sharpcli.errors import SharpError, UsageError, did_you_mean, setting
from sharpcli.runtime.files import problem_of, save
from sharpcli.settings import FigureSettings

__all__ = ["SUFFIXES", "check_plot", "check_spectrum_plot", "draw", "narrowed"]

# What draws each kind of file, and the extra that brings it (None: what is always there).
SUFFIXES: dict[str, tuple[str, str] | None] = {
    ".png": ("matplotlib", "plot"),
    ".svg": ("matplotlib", "plot"),
    ".pdf": ("matplotlib", "plot"),
    ".html": ("plotly", "html"),
    ".npz": None,
    ".vtk": None,
    ".vts": None,
}

_OF_A_SPECTRUM = (".png", ".svg", ".pdf", ".npz")


def check_plot(path: Path) -> None:
    """Raise where `path` cannot become a figure, before anything is computed for it.

    `UsageError` for an unknown suffix, `SharpError` for a folder that is missing or read-only and
    for a drawing library that is not installed. Cost: imports nothing.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        ending = f"'{path.suffix}' is no kind of figure" if suffix else "has no suffix"
        raise UsageError(
            f"{setting('plot', str(path))}: {ending}", f"the suffix says the kind: {kinds}"
        )
    problem = problem_of(path)
    if problem:
        raise SharpError(
            f"{setting('plot', str(path))}: {problem}",
            "name a file in a folder that exists and may be written to",
        )
    library, extra = SUFFIXES[suffix] or (None, None)
    if library and importlib.util.find_spec(library) is None:
        raise SharpError(
            f"{setting('plot', str(path))}: {library} is not installed",
            f"pip install 'sharpcli[{extra}]'",
        )


def check_spectrum_plot(path: Path) -> None:
    """Raise `UsageError` where `path` is no kind of file that a spectrum is drawn to."""
    if path.suffix.lower() not in _OF_A_SPECTRUM:
        raise UsageError(
            f"{setting('plot', str(path))}: a spectrum is not drawn as {path.suffix}",
            f"the suffix says the kind: {', '.join(_OF_A_SPECTRUM)}",
        )


def draw(document: Document, path: Path, settings: FigureSettings | None = None) -> None:
    """Draw an `interpolate`, `landscape` or `spectrum` document to `path`, whole or not at all.

    The suffix says the kind of file. The same document gives the same bytes. Raises as
    `check_plot`, and `SharpError` for a document that has no figure.
    """
    check_plot(path)
    suffix, settings = path.suffix.lower(), settings or FigureSettings()
    if document.get("kind") == "spectrum":
        check_spectrum_plot(path)
        from sharpcli.render.files.spectral_figure import spectral_file

        save(path, spectral_file(document, suffix, settings))
        return
    from sharpcli.render.scene import read_scene

    scene = read_scene(document)
    content: str | bytes
    if suffix == ".html":
        from sharpcli.render.files.surface_html import page

        content = page(scene, settings)
    elif suffix in (".png", ".svg", ".pdf"):
        from sharpcli.render.files.figure import figure

        content = figure(scene, suffix.removeprefix("."), settings)
    else:
        from sharpcli.render.files.export import exported

        content = exported(scene, suffix)
    save(path, content)


def narrowed(document: Document, split: str | None, metric: str | None) -> Document:
    """The document with the curves of one split and metric alone, for those that are named.

    The loss stays beside the metric. Raises `UsageError` for one that was not measured.
    """
    (result,) = document["results"]
    curves = result["curves"]
    _check("split", split, curves)
    _check("metric", metric, next(iter(curves.values())))
    splits = tuple(curves) if split is None else (split,)
    metrics = None if metric is None else ("loss", metric)
    kept = _narrowed(result, splits, metrics)
    for part in ("aligned", "path"):
        if part in result:
            kept[part] = _narrowed(result[part], splits, metrics)
    return {**document, "results": [kept]}


def _check(what: str, name: str | None, known: Mapping[str, Any]) -> None:
    if name is not None and name not in known:
        raise UsageError(f"{setting(what, name)}: was not measured", did_you_mean(name, known))


def _narrowed(
    part: Mapping[str, Any], splits: tuple[str, ...], metrics: tuple[str, ...] | None
) -> dict[str, Any]:
    """One line or plane with these splits and metrics (None: all)."""
    kept = dict(part)
    for key in ("curves", "sampling_errors"):
        if key in part:
            kept[key] = {
                split: {
                    name: values
                    for name, values in part[key][split].items()
                    if metrics is None or name in metrics
                }
                for split in splits
                if split in part[key]
            }
    if "barrier" in part:
        kept["barrier"] = {s: part["barrier"][s] for s in splits if s in part["barrier"]}
    return kept
