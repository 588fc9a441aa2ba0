"""Files drawn from a document: figures, interactive pages, and exports for other programs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ..errors import SharpError, UsageError
from ..results import Document
from ..settings import FigureSettings

__all__ = ["SUFFIXES", "check_plot", "draw"]

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


def check_plot(path: Path) -> None:
    """Raise where `path` cannot become a figure, before anything is computed for it.

    `UsageError` for an unknown suffix, `SharpError` for a folder that is missing or read-only and
    for a drawing library that is not installed. Cost: imports nothing.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        ending = f"'{path.suffix}' is no kind of figure" if suffix else "has no suffix"
        raise UsageError(f"--plot {path}: {ending}", f"the suffix says the kind: {kinds}")
    folder = Path(os.path.realpath(path)).parent
    problem = None
    if path.is_dir():
        problem = "is a folder"
    elif not folder.is_dir():
        problem = f"there is no folder {folder}"
    elif not os.access(folder, os.W_OK):
        problem = f"the folder {folder} may not be written to"
    if problem:
        raise SharpError(
            f"--plot {path}: {problem}", "name a file in a folder that exists and may be written to"
        )
    library, extra = SUFFIXES[suffix] or (None, None)
    if library and importlib.util.find_spec(library) is None:
        raise SharpError(
            f"--plot {path}: {library} is not installed", f"pip install 'sharpcli[{extra}]'"
        )


def draw(document: Document, path: Path, settings: FigureSettings | None = None) -> None:
    """Draw an `interpolate` or `landscape` document to `path`, whole or not at all.

    The suffix says the kind of file. The same document gives the same bytes. Raises as
    `check_plot`, and `SharpError` for a document that has no figure.
    """
    check_plot(path)
    suffix, settings = path.suffix.lower(), settings or FigureSettings()
    from . import write_whole
    from .scene import read_scene

    scene = read_scene(document)
    content: str | bytes
    if suffix == ".html":
        from .surface_html import page

        content = page(scene, settings)
    elif suffix in (".png", ".svg", ".pdf"):
        from .figure import figure

        content = figure(scene, suffix.removeprefix("."), settings)
    else:
        from .export import exported

        content = exported(scene, suffix)
    write_whole(path, content)
