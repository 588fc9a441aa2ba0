"""The pages of `measure` and `train` documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sharpcli.documents.labels import (
    clean,
    common_metadata,
    differing_metadata,
    named,
    pairs,
    short_labels,
)
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.statuses import NOT_CONVERGED, Outcome
from sharpcli.measures.columns import column_titles, in_tables
from sharpcli.render.numbers import NOT_FINITE, format_cells, format_number
from sharpcli.render.pages.context import run_lines
from sharpcli.render.pages.decision import decided_by, decision_lines
from sharpcli.render.pages.layers import layer_rows, layer_sheets
from sharpcli.render.pages.pairs import pair_notes, pair_sheets
from sharpcli.render.pages.rescaling import rescaling_sheets
from sharpcli.render.terminal.table import Column, Page, Row, Sheet

__all__ = [
    "MATRICES",
    "column_titles",
    "footnotes",
    "labels_of",
    "legend",
    "measure_page",
    "metadata_of",
    "notation",
    "result_row",
    "train_page",
]

_SAID_ABOVE = {"task", "task_options", "sharpcli"}  # of the metadata that `sharp train` writes

MATRICES = {
    "hessian": "the Hessian",
    "ggn": "the generalized Gauss-Newton matrix",
    "fisher": "the Fisher matrix",
    "empirical-fisher": "the empirical Fisher matrix",
}

_NOTATION = {
    r"\d\(": "12.31(4): 12.31 ± 0.04, the error of the computation",
    r"±": "15.2±0.7: ± is the standard error from measuring a sample of the data",
    r"(?<!×)\?": "15.2±0.7?: the sampling error is unreliable, so the value on all data may lie "
    "outside",
    r"≥": "≥17.2: the largest value found; the true maximum is this or more",
    r"≤": "≤0.1: the smallest value found; the true minimum is this or less",
}


def measure_page(document: Mapping[str, Any]) -> Page:
    """One row per checkpoint: the metadata that differ, then the measures with their errors.

    If layers were measured, a sheet for each checkpoint follows.
    """
    results = document["results"]
    labels = labels_of(results)
    metadata = [metadata_of(result) for result in results]
    known = [metadata_of(r) for r in results if r.get("status") != Outcome.FAILED] or metadata
    scalars = [flat_scalars(result.get("measures", {})) for result in results]
    keys = list(dict.fromkeys(key for row in scalars for key in row))
    titles = column_titles(keys)
    columns = [
        *_metadata_columns(metadata, known),
        *(Column(title, format_cells(scalars, key)) for key, title in titles.items()),
    ]
    rows = [*map(result_row, labels, results)]
    compared = document.get("pairs", ())
    layers = layer_rows(results, labels)
    by_layer = layer_sheets(results, labels, column_titles)
    shown = [*columns, *(column for sheet in by_layer for column in sheet.columns)]
    return Page(
        context=[*run_lines(document), *_in_common(known)],
        sheets=[
            Sheet(rows, columns),
            *pair_sheets(compared, titles, _labels_by_path(results)),
            *by_layer,
            *rescaling_sheets(results, labels),
        ],
        footnotes=footnotes(
            [*labels, *(name for name, _ in layers)],
            [*scalars, *(row for _, row in layers)],
            titles,
        ),
        legend=[
            line.replace("the Hessian", curvature_name(document)) for line in legend(shown, titles)
        ]
        + [line for measure in in_tables(keys) for line in measure.remarks(keys)]
        + pair_notes(compared, titles, decided=decided_by(document)),
        conclusions=decision_lines(document),
    )


def _labels_by_path(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Labels without numbers: pairs name a checkpoint that is given twice by its path."""
    paths = list(dict.fromkeys(str(result["checkpoint"]["path"]) for result in results))
    return dict(zip(paths, short_labels(paths), strict=True))


def train_page(document: Mapping[str, Any]) -> Page:
    """One row per trained checkpoint: its settings, its training time and its final values."""
    results = document["results"]
    metadata = [metadata_of(result) for result in results]
    known = [metadata_of(r) for r in results if r.get("status") != Outcome.FAILED] or metadata
    ended = [{k: v for k, v in result.items() if k != "tracked"} for result in results]
    scalars = [flat_scalars(result) for result in ended]
    titles = column_titles(key for row in scalars for key in row)
    columns = [
        *_metadata_columns(metadata, known),
        *(
            Column(name, [_plain_number(result.get(name)) for result in results])
            for name in ("epochs", "steps", "seconds")
        ),
        *(Column(title, format_cells(scalars, key)) for key, title in titles.items()),
    ]
    rows = [*map(result_row, labels_of(results), results)]
    return Page([*run_lines(document), *_in_common(known)], [Sheet(rows, columns)])


def labels_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The short label of each result's checkpoint."""
    return short_labels([str(result["checkpoint"]["path"]) for result in results])


def metadata_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The checkpoint's metadata, which say how it was made, and the task's options among them."""
    checkpoint = result["checkpoint"]
    return {**(checkpoint.get("metadata") or {}), **(checkpoint.get("options") or {})}


def curvature_name(document: Mapping[str, Any]) -> str:
    """The name of the matrix whose eigenvalues a document has."""
    settings = document.get("settings") or {}
    curvature = (settings.get(document["kind"]) or {}).get("curvature") or {}
    return MATRICES[curvature.get("operator", "hessian")]


def legend(columns: Sequence[Column], keys: Iterable[str] = ()) -> list[str]:
    """One line for each symbol in these columns of numbers with flat `keys`, with its meaning."""
    headers = " ".join(column.header for column in columns)
    return notation(columns) + [
        text
        for measure in in_tables(keys)
        for symbol, text in measure.legend.items()
        if symbol in headers
    ]


def notation(columns: Sequence[Column]) -> list[str]:
    """One line for each notation of numbers in these columns, with its meaning."""
    cells = " ".join(cell for column in columns if column.numeric for cell in column.cells)
    return [text for pattern, text in _NOTATION.items() if re.search(pattern, cells)]


def footnotes(
    labels: Sequence[str],
    scalars: Sequence[Mapping[str, Mapping[str, Any]]],
    titles: Mapping[str, str],
) -> list[str]:
    """One line per piece of advice: which numbers of which rows did not converge.

    `scalars` has each row's scalars by flat key; only those in `titles` are listed.
    """
    marked: dict[str, dict[str, list[str]]] = {}
    for label, row in zip(labels, scalars, strict=True):
        for key, title in titles.items():
            if key in row and row[key]["status"] in NOT_CONVERGED:
                advice = row[key].get("advice") or (
                    NOT_FINITE if row[key]["value"] is None else "did not converge"
                )
                marked.setdefault(advice, {}).setdefault(title, []).append(label)
    return [f"! {_places(places)}: {advice}" for advice, places in marked.items()]


def result_row(label: str, result: Mapping[str, Any]) -> Row:
    """The row of a checkpoint, with its error in place of numbers where it failed."""
    if result.get("status") != Outcome.FAILED:
        return Row(label)
    message = " ".join(str(result["error"]["message"]).split())
    return Row(label, "failed: " + message.removeprefix(f"{result['checkpoint']['path']}: "))


def _places(rows_by_title: Mapping[str, Sequence[str]]) -> str:
    """`λ1, λmin of sgd, adam; trace of sgd`."""
    titles: dict[tuple[str, ...], list[str]] = {}
    for title, rows in rows_by_title.items():
        titles.setdefault(tuple(rows), []).append(title)
    return "; ".join(f"{', '.join(shared)} of {named(rows)}" for rows, shared in titles.items())


def _in_common(metadata: Sequence[Mapping[str, Any]]) -> list[str]:
    shared = common_metadata(metadata) if metadata else {}
    shared = {key: value for key, value in shared.items() if key not in _SAID_ABOVE}
    if not shared:
        return []
    return [f"{'all rows: ' if len(metadata) > 1 else ''}{pairs(shared)}"]


def _metadata_columns(
    metadata: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]
) -> Iterator[Column]:
    """Columns for the metadata that differ between the checkpoints with known metadata."""
    for key in differing_metadata(known):
        numbers = all(isinstance(row.get(key), int | float | None) for row in known)
        yield Column(clean(key), [clean(row.get(key)) for row in metadata], numbers)


def _plain_number(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else format_number(value, 3)
