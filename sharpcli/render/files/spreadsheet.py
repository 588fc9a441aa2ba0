"""Documents as CSV: one row per checkpoint, group, tensor or grid point; flat keys, all digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.documents.results import Document
from sharpcli.documents.scalars import is_scalar, leaves
from sharpcli.documents.statuses import Outcome
from sharpcli.runtime.text import csv_cell

__all__ = [
    "claim_rows",
    "experiment_rows",
    "group_rows",
    "point_rows",
    "policy_rows",
    "result_rows",
    "rows_as_csv",
    "run_rows",
    "schedule_rows",
    "spectrum_rows",
    "tensor_rows",
    "trial_rows",
]

_OF_A_SCALAR = {"value": "", "error": ".error", "error_kind": ".error_kind", "status": ".status"}
_TOLD = ("checkpoint", "status", "error", "warnings", "layers", "layer", "parameters")
_OF_A_DIFFERENCE = (
    *("value", "error", "error_kind", "degrees_of_freedom"),
    *("measurement_error", "sampling_error", "sampling_bias", "sampling_status"),
    *("matched", "group_interval", "interval", "bound"),
    *("ratio", "ratio_error", "ratio_interval", "ratio_bound", "status"),
)


def result_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each checkpoint: the checkpoint, its metadata, then all numbers.

    If layers were measured, a mapping for each follows its checkpoint's, which has no `layer`.

    A scalar's value is under its flat key (`hessian.eigenvalues[0]`). The keys with `.error`,
    `.error_kind`, `.status` and, for a sample of the data, `.sampling_error`, `.sampling_bias` and
    `.sampling_status` follow.
    """
    results = document["results"]
    if not any(result.get("layers") for result in results):
        return [_row(result) for result in results]
    return [
        {"checkpoint": result["checkpoint"]["path"], "layer": part.get("layer"), **_row(part)}
        for result in results
        for part in (result, *_layer_results(result))
    ]


def group_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each row of a comparison: its metadata, then each measure's numbers."""
    rows = []
    for result in document["results"]:
        row: dict[str, Any] = {"label": result["label"], "n": result["n"]}
        row |= {f"metadata.{key}": value for key, value in result["group"].items()}
        for key, summary in result["measures"].items():
            for name, value in summary.items():
                if name == "values":
                    continue  # those of single checkpoints are in the CSV of `measure`
                if name != "difference":
                    row[f"{key}.{name}"] = value
                elif document["settings"]["baseline"] is not None:
                    for part in _OF_A_DIFFERENCE:
                        row |= _difference_cells(f"{key}.difference.{part}", (value or {}), part)
        scores = {k: v for k, v in result.get("scores", {}).items() if k != "curve"}
        row |= {key: leaf for key, leaf in leaves(scores) if ".values[" not in key}
        rows.append(row)
    return rows


def _difference_cells(name: str, difference: Mapping[str, Any], part: str) -> dict[str, Any]:
    """One cell, or two for an interval: `….interval.low` and `….interval.high`."""
    value = difference.get(part)
    if not part.endswith("interval"):
        return {name: value}
    low, high = value or (None, None)
    return {f"{name}.low": low, f"{name}.high": high}


def tensor_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each tensor of each inspected checkpoint, and for each failure."""
    rows: list[dict[str, Any]] = []
    for result in document["results"]:
        about = {
            "checkpoint": result["checkpoint"]["path"],
            "status": result["status"],
            "message": (result.get("error") or {}).get("message"),
        }
        tensors = result.get("tensors") or [{}]
        rows += [{**about, **{key: _flat(tensor[key]) for key in tensor}} for tensor in tensors]
    return rows


def run_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each run of a sweep, as `result_rows`, with its settings once."""
    beside = ("settings", "options", "fingerprint")
    rows = []
    for result in document["results"]:
        settings = {f"settings.{key}": _words(value) for key, value in result["settings"].items()}
        options = {f"options.{key}": value for key, value in result["options"].items()}
        found = _row({k: v for k, v in result.items() if k not in beside})
        found = {k: v for k, v in found.items() if not k.startswith("metadata.")}
        rows.append({"run": result["run"], **found, **settings, **options})
    return rows


def claim_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each claim: the statistic, both ends of its interval, and the verdict."""
    rows = []
    for result in document["results"]:
        statistic = result["statistic"]
        low, high = statistic["interval"] or (None, None)
        own = {key: result[key] for key in ("claim", "source", "prediction", "verdict", "seeds")}
        found = {"statistic": statistic["name"], "value": statistic["value"]}
        rows.append({"name": result["name"], **found, "low": low, "high": high, **own})
    return rows


def experiment_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each claim of each experiment."""
    return [
        {"experiment": result["name"], **claim}
        for result in document["results"]
        for claim in result["claims"]
    ]


def trial_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each trial of a search: `trial`, `status`, `objective`, `chosen.lr`, …."""
    beside = ("settings", "options", "points", "objectives", "chosen")
    rows = []
    for result in document["results"]:
        chosen = {f"chosen.{key}": _words(value) for key, value in result["chosen"].items()}
        found = _row({"checkpoint": {"path": None}, **_without(result, beside)})
        rows.append({"trial": result["trial"], **found, **chosen})
    return rows


def _without(result: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in keys}


def point_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each point of a line or plane: `alpha[, beta]`, `train.loss`, ….

    An aligned line's values are in the same rows (`aligned.train.loss`). A path's points follow in
    their own rows, by `t` (`path.train.loss`). Values that are not finite are empty.
    """
    rows = []
    for result in document["results"]:
        points: list[dict[str, Any]] = [dict(point) for point in result["coordinates"]]
        _add_curves(points, "", result)
        if result.get("aligned"):
            _add_curves(points, "aligned.", result["aligned"])
        rows += points
        if path := result.get("path"):
            bends: list[dict[str, Any]] = [dict(point) for point in path["coordinates"]]
            _add_curves(bends, "path.", path)
            rows += bends
    return rows


def spectrum_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each checkpoint, like `result_rows`, without the curves."""
    curves = ("nodes", "weights", "grid", "density")
    kept = [{k: v for k, v in r.items() if k not in curves} for r in document["results"]]
    return result_rows({**document, "results": kept})


def schedule_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each step of each schedule."""
    columns = {
        "steps": "step",
        "lr": "lr",
        "batch_size": "batch_size",
        "noise_scale": "noise_scale",
    }
    rows = []
    for result in document["results"]:
        known = {name: result[key] for key, name in columns.items() if result[key] is not None}
        for values in zip(*known.values(), strict=True):
            rows.append({"schedule": result["name"], **dict(zip(known, values, strict=True))})
    return rows


def policy_rows(document: Document) -> list[dict[str, Any]]:
    """A flat mapping for each policy of schedules."""
    return [{**row, "parameters": " ".join(row["parameters"])} for row in document["results"]]


def rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV text, with cells by `csv_cell`; missing cells are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(row.get(key, "")) for key in columns] for row in rows)
    return text.getvalue()


def _layer_results(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A result's layers as separate results."""
    return [
        {
            **layer,
            "checkpoint": {**result["checkpoint"], "parameters": layer["parameters"]},
            "status": Outcome.FAILED if "error" in layer else Outcome.OK,
        }
        for layer in result.get("layers", ())
    ]


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    checkpoint = result["checkpoint"]
    row: dict[str, Any] = {
        "checkpoint": checkpoint["path"],
        "sha256": checkpoint.get("sha256"),
        "parameters": checkpoint.get("parameters"),
        "status": result.get("status"),
        "message": (result.get("error") or {}).get("message"),
    }
    row |= {f"metadata.{key}": value for key, value in (checkpoint.get("metadata") or {}).items()}
    beside = {key: value for key, value in result.items() if key not in _TOLD}
    for key, leaf in leaves(beside.pop("measures", {})):
        row |= _cells(key, leaf)
    for key, leaf in leaves(beside):
        row |= _cells(key, leaf)
    return row


def _add_curves(rows: Sequence[dict[str, Any]], prefix: str, found: Mapping[str, Any]) -> None:
    errors = found.get("sampling_errors") or {}
    for suffix, curves in (("", found["curves"]), (".sampling_error", errors)):
        for split, by_name in curves.items():
            for name, values in by_name.items():
                for row, value in zip(rows, values, strict=True):
                    row[f"{prefix}{split}.{name}{suffix}"] = value


def _words(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _flat(value: Any) -> Any:
    return "x".join(map(str, value)) if isinstance(value, list) else value


def _cells(key: str, leaf: Any) -> dict[str, Any]:
    if not is_scalar(leaf):
        return {key: leaf}
    cells = {key + suffix: leaf.get(name) for name, suffix in _OF_A_SCALAR.items()}
    for name in ("sampling_error", "sampling_bias", "sampling_status"):
        if name in leaf:
            cells[f"{key}.{name}"] = leaf[name]
    return cells
