"""Results as frozen dataclasses and as the JSON document `sharpcli/1`. Knows no torch.

Commands build a `Report`; `to_document` turns it into the plain document that is the contract.
Everything downstream (tables, comparisons, plots) reads documents only, so a result that was just
computed and one that was saved last year take the same path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import SharpError

__all__ = [
    "SCHEMA",
    "CheckpointResult",
    "Failure",
    "Report",
    "Scalar",
    "dumps",
    "load_document",
    "parse_document",
    "to_document",
]

SCHEMA = "sharpcli/1"

ErrorKind = Literal["residual", "standard_error", "lower_bound"]
Document = dict[str, Any]


@dataclass(frozen=True)
class Scalar:
    """A number that a person may quote: its value, how far it may be off, and why.

    `status` is "converged", "lower_bound", "max_products" or "not_finite"; `advice` says what to
    do where it is not converged. `sampling_error` is the standard error that comes from measuring
    a subset of the data, None when all of it was measured.
    """

    value: float | None
    error: float | None = None
    error_kind: ErrorKind | None = None
    status: str = "converged"
    advice: str | None = None
    sampling_error: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why a checkpoint could not be measured, and what to do."""

    message: str
    hint: str | None = None


@dataclass(frozen=True)
class CheckpointResult:
    """What was found for one checkpoint.

    `checkpoint` holds path, sha256, parameters, metadata and notes; `measures` maps each measure's
    JSON key to its numbers (`Scalar`s, lists and mappings of them, plain counts and times).
    """

    checkpoint: Mapping[str, Any]
    status: Literal["ok", "failed"] = "ok"
    measures: Mapping[str, Any] = field(default_factory=dict)
    error: Failure | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """One run of a command: its settings, where it ran, and a result for each checkpoint."""

    kind: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    task: Mapping[str, Any]
    results: Sequence[Any]
    warnings: Sequence[str] = ()


def to_document(report: Report) -> Document:
    """The report as JSON's own types; a float that is not finite becomes null with a status."""
    return {"schema": SCHEMA, **_plain(report)}


def dumps(document: Document) -> str:
    """Strict JSON text of a document: never NaN or Infinity."""
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)


def load_document(path: str | Path) -> Document:
    """Read a saved result; raises `SharpError` naming the file where it is none."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise SharpError(
            f"{path}: cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise SharpError(f"{path}: is not text, so not a result", _SAVED) from error
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Read a result from `text`; `name` is what errors call it (a path, or "standard input")."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise SharpError(f"{name}: is not JSON ({error})", _SAVED) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        raise SharpError(f'{name}: is not a {SCHEMA} document ("schema" is {found!r})', _SAVED)
    required = [f.name for f in fields(Report) if f.name != "warnings"]
    missing = [key for key in required if key not in document]
    if missing:
        raise SharpError(f"{name}: lacks {', '.join(missing)}", "the file is incomplete")
    return document


_SAVED = "pass a file written by `sharp … --json`"
_LEFT_OUT_WHEN_EMPTY = {"advice", "sampling_error", "warnings"}


def _plain(node: Any) -> Any:
    if is_dataclass(node) and not isinstance(node, type):
        plain = {f.name: _plain(getattr(node, f.name)) for f in fields(node)}
        if isinstance(node, Scalar) and plain["value"] is None:
            plain["status"] = "not_finite" if node.status == "converged" else node.status
        optional = _LEFT_OUT_WHEN_EMPTY | ({"error"} if isinstance(node, CheckpointResult) else set())
        return {k: v for k, v in plain.items() if not (k in optional and v in (None, []))}
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, str | Path):
        return str(node)
    if isinstance(node, Sequence):
        return [_plain(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node
