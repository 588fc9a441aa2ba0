"""Draw a document to files: figures, interactive pages, and exports for other programs."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpcli.documents.grids import MAP_TITLES
from sharpcli.documents.results import Document
from sharpcli.errors import SharpError, UsageError, did_you_mean, setting
from sharpcli.render.kinds import FIGURES, KINDS, load, read_drawing
from sharpcli.runtime.destinations import problem_of
from sharpcli.runtime.files import save
from sharpcli.settings.output import FigureSettings

__all__ = ["check_plot", "draw", "narrowed"]


def check_plot(path: Path, kind: str = "") -> None:
    """Check that `path` can become a figure, before anything is computed for it.

    Raises:
        UsageError: The suffix is unknown, or a result of `kind` has no such figure.
        SharpError: The folder is missing or read-only, or the drawing library is not installed.

    Cost: imports nothing.
    """
    suffix = path.suffix.lower()
    known = (KINDS[kind].figures if kind in KINDS else {}) or FIGURES
    if suffix not in FIGURES:
        ending = f"'{path.suffix}' is no kind of figure" if suffix else "has no suffix"
        hint = "use .vts" if suffix == ".vtk" else f"the suffix says the kind: {', '.join(known)}"
        raise UsageError(f"{setting('plot', str(path))}: {ending}", hint)
    if suffix not in known:
        raise UsageError(
            f"{setting('plot', str(path))}: a {kind} is not drawn as {path.suffix}",
            f"the suffix says the kind: {', '.join(known)}",
        )
    problem = problem_of(path)
    if problem:
        raise SharpError(
            f"{setting('plot', str(path))}: {problem}",
            "name a file in a folder that exists and may be written to",
        )
    library, extra = FIGURES[suffix] or (None, None)
    if library and importlib.util.find_spec(library) is None:
        raise SharpError(
            f"{setting('plot', str(path))}: {library} is not installed",
            f"pip install 'sharpcli[{extra}]'",
        )
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise SharpError(
            f"{setting('plot', str(path))}: ffmpeg is not installed",
            "install the program ffmpeg (apt, conda or brew install ffmpeg), "
            "or draw a .gif, which needs no ffmpeg",
        )


def draw(document: Document, path: Path, settings: FigureSettings | None = None) -> None:
    """Draw a document to `path`, atomically.

    The suffix determines the file format. The same document gives the same bytes. Raises like
    `check_plot`, and `SharpError` for a document without a figure.
    """
    check_plot(path, document["kind"])
    drawing, suffix = read_drawing(document), path.suffix.lower()
    write = load(KINDS[document["kind"]].figures[suffix])
    save(path, write(drawing, suffix, settings or FigureSettings()))


def narrowed(document: Document, split: str | None, metric: str | None) -> Document:
    """The document with only the curves of the given split and metric; None keeps all.

    The loss is kept with the metric. A split or metric that was not measured is a `UsageError`.
    """
    (result,) = document["results"]
    curves = result["curves"]
    _check("split", split, curves)
    mapped = dict.fromkeys(MAP_TITLES.values() if result.get("hessian") else ())
    _check("metric", metric, {**next(iter(curves.values())), **mapped})
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
    """One line or plane with only these splits and metrics (None: all)."""
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
