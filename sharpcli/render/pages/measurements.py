"""What a `measure` or `train` document looks like to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sharpcli.documents.labels import (
    clean,
    common_metadata,
    differing_metadata,
    named,
    pairs,
    short_labels,
)
from sharpcli.documents.results import flat_scalars
from sharpcli.documents.statuses import NOT_CONVERGED
from sharpcli.errors import setting
from sharpcli.render.numbers import NOT_FINITE, format_number, format_scalar
from sharpcli.render.pages.context import run_lines
from sharpcli.render.pages.layers import layer_rows, layer_sheets
from sharpcli.render.terminal.table import Column, Page, Row, Sheet
from sharpcli.settings import MeasureSettings

__all__ = [
    "MATRICES",
    "column_titles",
    "footnotes",
    "labels_of",
    "legend",
    "measure_page",
    "metadata_of",
    "notation",
    "train_page",
]

_TITLES = {
    "loss.train": "loss train",
    "loss.test": "loss test",
    "loss.gap": "gap",
    "hessian.eigenvalues[0]": "λ1",
    "hessian.ratio_1_5": "λ1/λ5",
    "hessian.smallest": "λmin",
    "trace": "trace",
    "gradient.norm": "‖∇L‖",
}
_METRIC = re.compile(r"(?P<name>[^.\[]+)\.(?P<split>train|test|gap)")
_EPSILON = re.compile(r"epsilon_sharpness\[(?P<epsilon>[^,\]]+)(?:,(?P<subspace>p=\d+))?\]")
_IN_THE_JSON_ALONE = re.compile(r"hessian\.eigenvalues\[[1-9]\d*\]|gradient\.(l1|max)")
_UNASKED = MeasureSettings().top
_ORDER = (r"loss\.", None, r"epsilon_sharpness\[", r"hessian\.", r"trace$", r"gradient\.")

_SAID_ABOVE = {"task", "task_options", "sharpcli"}  # of the metadata that `sharp train` writes

MATRICES = {
    "hessian": "the Hessian",
    "ggn": "the generalized Gauss-Newton matrix",
    "fisher": "the Fisher matrix",
    "empirical-fisher": "the empirical Fisher matrix",
}

_NOTATION = {
    r"\d\(": "12.31(4): 12.31 ± 0.04, the error of the computation",
    r"±": "15.2±0.7: ± is the standard error of having measured a sample of the data",
    r"(?<!×)\?": "15.2±0.7?: the sampling error is unreliable, so the number of all data may lie "
    "beyond",
    r"≥": "≥17.2: the largest value found; the true maximum is this or more",
    r"≤": "≤0.1: the smallest value found; the true minimum is this or less",
}
_MEANINGS = {
    "gap": "gap: test loss minus training loss",
    "φ": "φ ε: sharpness, 100·(max L − L)/(1 + L) over the box of half-width ε(|θᵢ| + 1)",
    "p=": "p=…: φ in a random subspace of that many dimensions",
    "λ1": "λ1, λ5, λmin: eigenvalues of the Hessian, largest, fifth and smallest",
    "trace": "trace: of the Hessian, the sum of its eigenvalues",
    "‖∇L‖": "‖∇L‖: the gradient's 2-norm; where it is not small this is not a minimum",
}


def measure_page(document: Mapping[str, Any]) -> Page:
    """One row a checkpoint: the metadata that differ, then the measures with their errors.

    Where layers were measured, a sheet for each checkpoint follows.
    """
    results = document["results"]
    labels = labels_of(results)
    metadata = [metadata_of(result) for result in results]
    known = [metadata_of(r) for r in results if r.get("status") != "failed"] or metadata
    scalars = [flat_scalars(result.get("measures", {})) for result in results]
    titles = column_titles(key for row in scalars for key in row)
    columns = [
        *(
            Column(clean(key), cells, numeric=_all_numbers(known, key))
            for key in (differing_metadata(known) if len(results) > 1 else [])
            for cells in [[clean(row.get(key)) for row in metadata]]
        ),
        *(
            Column(title, [format_scalar(row[key]) if key in row else "–" for row in scalars])
            for key, title in titles.items()
        ),
    ]
    rows = [_row(label, result) for label, result in zip(labels, results, strict=True)]
    layers = layer_rows(results, labels)
    by_layer = layer_sheets(results, labels, column_titles)
    return Page(
        context=[*run_lines(document), *_in_common(known)],
        sheets=[Sheet(rows, columns), *by_layer],
        footnotes=footnotes(
            [*labels, *(name for name, _ in layers)],
            [*scalars, *(row for _, row in layers)],
            titles,
        ),
        legend=[
            line.replace("the Hessian", curvature_name(document))
            for line in legend([*columns, *(it for sheet in by_layer for it in sheet.columns)])
        ]
        + _where_all_eigenvalues_are(results),
    )


def _where_all_eigenvalues_are(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line that says where more eigenvalues are than the five that a run measures unasked."""
    counts = [
        len(result.get("measures", {}).get("hessian", {}).get("eigenvalues", ()))
        for result in results
    ]
    most = max(counts, default=0)
    if most <= _UNASKED:
        return []
    as_json, as_csv = setting("format", "json"), setting("format", "csv")
    return [f"λ1 to λ{most}: {as_json} or {as_csv} prints them all"]


def train_page(document: Mapping[str, Any]) -> Page:
    """One row a trained checkpoint: its settings, how long it took and where it arrived."""
    results = document["results"]
    metadata = [metadata_of(result) for result in results]
    known = [metadata_of(r) for r in results if r.get("status") != "failed"] or metadata
    scalars = [flat_scalars(result) for result in results]
    titles = column_titles(key for row in scalars for key in row)
    columns = [
        *(
            Column(clean(key), [clean(row.get(key)) for row in metadata], _all_numbers(known, key))
            for key in differing_metadata(known)
        ),
        *(
            Column(name, [_plain_number(result.get(name)) for result in results])
            for name in ("epochs", "steps", "seconds")
        ),
        *(
            Column(title, [format_scalar(row[key]) if key in row else "–" for row in scalars])
            for key, title in titles.items()
        ),
    ]
    rows = [_row(label, result) for label, result in zip(labels_of(results), results, strict=True)]
    return Page([*run_lines(document), *_in_common(known)], [Sheet(rows, columns)])


def labels_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The short label of each result's checkpoint."""
    return short_labels([str(result["checkpoint"]["path"]) for result in results])


def metadata_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the checkpoint says of how it was made."""
    metadata: Mapping[str, Any] = result["checkpoint"].get("metadata") or {}
    return metadata


def column_titles(keys: Iterable[str]) -> dict[str, str]:
    """The flat keys that a table shows, in its order, and what heads each column.

    Of a metric only the test value is shown (training where there is no other); of measures that
    `sharp` does not know itself, everything.
    """
    present = list(dict.fromkeys(keys))
    titles = {key: title for key in present if (title := _title(key, present)) is not None}
    return dict(sorted(titles.items(), key=lambda item: _place(item[0])))


def curvature_name(document: Mapping[str, Any]) -> str:
    """The matrix whose eigenvalues a document tells, in words."""
    settings = document.get("settings") or {}
    curvature = (settings.get(document["kind"]) or {}).get("curvature") or {}
    return MATRICES[curvature.get("operator", "hessian")]


def legend(columns: Sequence[Column]) -> list[str]:
    """What the symbols mean that these columns show, one line each."""
    headers = " ".join(column.header for column in columns)
    return notation(columns) + [text for symbol, text in _MEANINGS.items() if symbol in headers]


def notation(columns: Sequence[Column]) -> list[str]:
    """How the numbers in these columns are to be read, one line each."""
    cells = " ".join(cell for column in columns if column.numeric for cell in column.cells)
    return [text for pattern, text in _NOTATION.items() if re.search(pattern, cells)]


def footnotes(
    labels: Sequence[str],
    scalars: Sequence[Mapping[str, Mapping[str, Any]]],
    titles: Mapping[str, str],
) -> list[str]:
    """One line for each advice: which numbers of which rows did not converge.

    `scalars` are each row's by flat key; only those that `titles` names are told.
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


def _title(key: str, present: Sequence[str]) -> str | None:
    if key in _TITLES:
        return _TITLES[key]
    if _IN_THE_JSON_ALONE.fullmatch(key):
        return None
    if match := _EPSILON.fullmatch(key):
        return " ".join(filter(None, ("φ", match["epsilon"], match["subspace"])))
    if match := _METRIC.fullmatch(key):
        split = "test" if f"{match['name']}.test" in present else "train"
        return f"{clean(match['name'])} {split}" if match["split"] == split else None
    return clean(key).replace("_", " ")


def _place(key: str) -> tuple[int, int]:
    within = list(_TITLES).index(key) if key in _TITLES else 0
    for place, pattern in enumerate(_ORDER):
        if pattern is not None and re.match(pattern, key):
            return place, within
    return (1 if _METRIC.fullmatch(key) else len(_ORDER)), 0


def _row(label: str, result: Mapping[str, Any]) -> Row:
    if result.get("status") != "failed":
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


def _all_numbers(metadata: Sequence[Mapping[str, Any]], key: str) -> bool:
    return all(isinstance(row.get(key), int | float | None) for row in metadata)


def _plain_number(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else format_number(value, 3)
