"""The registry of result kinds: page, CSV rows and figures of each, loaded when used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from sharpcli.documents.results import Document
from sharpcli.errors import SharpError, UsageError, setting

__all__ = ["FIGURES", "KINDS", "Kind", "kind_of", "load", "read_drawing"]


@dataclass(frozen=True)
class Kind:
    """How documents of one kind are rendered; functions are named `module:function`, for `load`.

    Attributes:
        page: Makes the page.
        lines: Makes the lines that a terminal shows instead of the page.
        rows: Makes the CSV rows.
        drawing: Reads what the writers in `figures` (by suffix) draw.
        picture: Draws it as a matplotlib figure.
        curves: The document has curves by split and metric, and one of them can be requested.
        cheap: The result need not be saved if the reader closes the pipe (`| head`).
    """

    page: str
    rows: str = "files.spreadsheet:result_rows"
    lines: str = ""
    drawing: str = ""
    picture: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    curves: bool = False
    cheap: bool = False


# The library that a figure needs and the extra that installs it; None for a dependency.
FIGURES: dict[str, tuple[str, str] | None] = {
    ".png": ("matplotlib", "plot"),
    ".svg": ("matplotlib", "plot"),
    ".pdf": ("matplotlib", "plot"),
    ".gif": ("matplotlib", "plot"),
    ".mp4": ("matplotlib", "plot"),
    ".html": ("plotly", "html"),
    ".npz": None,
    ".vts": None,
}

_PLACES = Kind(
    page="pages.landscapes:landscape_page",
    rows="files.spreadsheet:point_rows",
    lines="pages.landscapes:landscape_lines",
    drawing="scene:read_scene",
    picture="files.figure:scene_figure",
    figures={
        **dict.fromkeys((".png", ".svg", ".pdf"), "files.figure:figure"),
        **dict.fromkeys((".gif", ".mp4"), "files.animation:animated"),
        ".html": "files.surface_html:page",
        **dict.fromkeys((".npz", ".vts"), "files.export:exported"),
    },
    curves=True,
)
_COURSES = {
    **dict.fromkeys((".png", ".svg", ".pdf", ".npz"), "files.course_figure:course_file"),
    ".html": "files.course_html:course_page",
}
KINDS: dict[str, Kind] = {
    "measure": Kind(
        "pages.measurements:measure_page",
        drawing="course:read_measured_course",
        picture="files.course_figure:course_figure",
        figures=_COURSES,
    ),
    "train": Kind(
        "pages.measurements:train_page",
        lines="pages.courses:course_lines",
        drawing="course:read_course",
        picture="files.course_figure:course_figure",
        figures=_COURSES,
    ),
    "sweep": Kind("pages.sweeps:sweep_page", "files.spreadsheet:run_rows"),
    "search": Kind("pages.searches:search_page", "files.spreadsheet:trial_rows"),
    "compare": Kind(
        page="pages.scores:comparison_page",
        rows="files.spreadsheet:group_rows",
        lines="pages.scores:comparison_lines",
        drawing="relations:read_comparison",
        picture="files.comparison_figure:comparison_figure",
        figures={
            **dict.fromkeys(
                (".png", ".svg", ".pdf", ".npz"), "files.comparison_figure:comparison_file"
            ),
            ".html": "files.comparison_html:comparison_html",
        },
        cheap=True,
    ),
    "inspect": Kind(
        "pages.inspection:inspection_page", "files.spreadsheet:tensor_rows", cheap=True
    ),
    "interpolate": _PLACES,
    "landscape": _PLACES,
    "spectrum": Kind(
        page="pages.spectra:spectrum_page",
        rows="files.spreadsheet:spectrum_rows",
        lines="pages.spectra:spectrum_lines",
        drawing="pages.spectra:read_spectra",
        picture="files.spectral_figure:spectral_figure",
        figures=dict.fromkeys(
            (".png", ".svg", ".pdf", ".npz"), "files.spectral_figure:spectral_file"
        ),
    ),
    "schedule": Kind(
        page="pages.schedules:schedule_page",
        rows="files.spreadsheet:schedule_rows",
        lines="pages.schedules:schedule_lines",
        drawing="pages.schedules:read_schedules",
        picture="files.schedule_figure:schedule_figure",
        figures=dict.fromkeys(
            (".png", ".svg", ".pdf", ".npz"), "files.schedule_figure:schedule_file"
        ),
        cheap=True,
    ),
    "reproduce": Kind(
        page="pages.reproductions:reproduction_page",
        rows="files.spreadsheet:claim_rows",
        drawing="files.reproduction_figure:read_reproduction",
        picture="files.reproduction_figure:reproduction_figure",
        figures=dict.fromkeys(
            (".png", ".svg", ".pdf", ".npz"), "files.reproduction_figure:reproduction_file"
        ),
    ),
    "experiments": Kind(
        "pages.reproductions:experiments_page",
        "files.spreadsheet:experiment_rows",
        "pages.reproductions:experiments_lines",
        cheap=True,
    ),
    "policies": Kind(
        "pages.schedules:policies_page",
        "files.spreadsheet:policy_rows",
        "pages.schedules:policies_lines",
        cheap=True,
    ),
}


def kind_of(document: Document) -> Kind:
    """The kind of a document; raises `UsageError` for one that can only be shown as JSON."""
    if document["kind"] not in KINDS:
        raise UsageError(
            f'a result of kind "{document["kind"]}" has no table',
            f"use {setting('format', 'json')}",
        )
    return KINDS[document["kind"]]


def read_drawing(document: Document) -> Any:
    """The data from which figures are drawn; raises `SharpError` for a kind without figures."""
    kind = KINDS.get(document["kind"])
    if kind is None or not kind.drawing:
        drawn = ", ".join(name for name, each in KINDS.items() if each.drawing)
        raise SharpError(
            f'a result of kind "{document["kind"]}" has no figure', f"kinds with a figure: {drawn}"
        )
    return load(kind.drawing)(document)


def load(name: str) -> Any:
    """The function named `module:function`, from a module of this package."""
    module, _, function = name.partition(":")
    return getattr(import_module(f"sharpcli.render.{module}"), function)
