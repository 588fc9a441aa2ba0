"""Results as frozen dataclasses and as the JSON document `sharpcli/1`. Knows no torch.

Commands build a `Report`; `to_document` turns it into the plain document that is the contract.
Everything downstream (tables, comparisons, plots) reads documents only, so a result that was just
computed and one that was saved last year take the same path.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sharpcli.documents.schema import problem_of
from sharpcli.documents.statuses import NOT_CONVERGED, SOUND, Outcome, SamplingStatus, Status
from sharpcli.errors import SharpError
from sharpcli.runtime.text import json_text

__all__ = [
    "SCHEMA",
    "CheckpointResult",
    "Failure",
    "LayerResult",
    "Report",
    "Scalar",
    "dumps",
    "flat_scalars",
    "is_interrupted",
    "is_scalar",
    "leaves",
    "load_document",
    "parse_document",
    "scalar_fields",
    "short_power",
    "to_document",
    "unconverged",
    "with_sampling_errors",
]

SCHEMA = "sharpcli/1"

ErrorKind = Literal["residual", "standard_error", "rounding", "lower_bound", "upper_bound"]
Document = dict[str, Any]


@dataclass(frozen=True)
class Scalar:
    """A number that a person may quote: its value, how far it may be off, and why.

    Where the `status` is one of `NOT_CONVERGED`, `advice` says what to do. `sampling_error`
    is the standard error that comes from measuring a subset of the data, None when all of it was
    measured; `sampling_bias` is how much higher the value is on a subset than on all of the data,
    where that is known to matter.
    `sampling_status` is set where the sampling error says too little.
    """

    value: float | None
    error: float | None = None
    error_kind: ErrorKind | None = None
    status: Status = Status.CONVERGED
    advice: str | None = None
    sampling_error: float | None = None
    sampling_bias: float | None = None
    sampling_status: SamplingStatus | None = None


@dataclass(frozen=True)
class Failure:
    """Why a checkpoint could not be measured, and what to do; `kind` where Ctrl-C is the cause."""

    message: str
    hint: str | None = None
    kind: Literal[Outcome.INTERRUPTED] | None = None


@dataclass(frozen=True)
class LayerResult:
    """What was found for one layer's block of the parameters, or why nothing was."""

    layer: str
    parameters: int
    measures: Mapping[str, Any] = field(default_factory=dict)
    error: Failure | None = None


@dataclass(frozen=True)
class CheckpointResult:
    """What was found for one checkpoint.

    `checkpoint` holds path, sha256, parameters, metadata and notes; `measures` maps each measure's
    JSON key to its numbers (`Scalar`s, lists and mappings of them, plain counts and times).
    """

    checkpoint: Mapping[str, Any]
    status: Outcome = Outcome.OK
    measures: Mapping[str, Any] = field(default_factory=dict)
    error: Failure | None = None
    warnings: Sequence[str] = ()
    layers: Sequence[LayerResult] = ()


@dataclass(frozen=True)
class Report:
    """One run of a command: its settings, where it ran, and a result for each checkpoint.

    `correlations` is filled by `sharp compare` alone; `notes` say what is good to know, `warnings`
    what makes a number mean less than it seems to.
    """

    kind: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    task: Mapping[str, Any]
    results: Sequence[Any]
    correlations: Sequence[Any] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def to_document(report: Report) -> Document:
    """The report as JSON's own types; a float that is not finite becomes null with a status."""
    return {"schema": SCHEMA, **_plain(report)}


def is_interrupted(document: Document) -> bool:
    """Whether a run ended before all that it was asked for was computed."""
    return any(
        part.get("status") == Outcome.INTERRUPTED or _ended_by_a_signal(part.get("error") or {})
        for result in document["results"]
        for part in (result, *result.get("layers", ()))
    )


def dumps(document: Document) -> str:
    """Strict JSON text of a document: never NaN or Infinity, characters escaped as `json_text`."""
    return json_text(document)


def load_document(path: str | Path) -> Document:
    """Read a saved result; raises `SharpError` naming the file where it is none."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SharpError(
            f"{path}: cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    return parse_document(text, str(path))


def parse_document(text: str | bytes, name: str) -> Document:
    """Read a result from JSON text or its bytes.

    Errors call it `name`: a path, or "standard input".
    """
    if not text.strip():
        raise SharpError(
            f"{name}: is empty",
            "the command that was to write it said on stderr why it did not: run it again",
        )
    try:
        document = json.loads(
            text, parse_int=_integer, parse_constant=_refused, object_pairs_hook=_once
        )
    except RecursionError as error:
        raise SharpError(f"{name}: is not a result: lists in lists without end", _SAVED) from error
    except ValueError as error:
        raise SharpError(f"{name}: is not JSON ({error})", _SAVED) from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        later = isinstance(found, str) and re.fullmatch(r"sharpcli/\d{1,9}", found)
        raise SharpError(
            f'{name}: is not a {SCHEMA} document ("schema" is {json.dumps(found)[:80]})',
            "a later sharp wrote it: pip install -U sharpcli" if later else _SAVED,
        )
    if problem := problem_of(document):
        raise SharpError(f"{name}: {problem}", f"the file is damaged or was changed: {_SAVED}")
    return dict(document)


def scalar_fields(scalar: Scalar, **others: Any) -> dict[str, Any]:
    """A `Scalar`'s fields with others beside them, as list entries of a document are written."""
    return {**{f.name: getattr(scalar, f.name) for f in fields(scalar)}, **others}


def is_scalar(node: Any) -> bool:
    """Whether a node of a document is a number with its error and status."""
    return isinstance(node, Mapping) and "value" in node and "status" in node


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each scalar and each plain value below `node` with its flat key, in the document's order.

    `hessian.eigenvalues[0]`, `epsilon_sharpness[1e-3]` and `epsilon_sharpness[1e-3,p=100]` are
    scalars (mappings); what stands beside a scalar's own fields follows it, as in
    `epsilon_sharpness[1e-3].loss_at_maximum`.
    """
    if is_scalar(node):
        yield key, {name: node[name] for name in _SCALAR_FIELDS if name in node}
        node = {name: value for name, value in node.items() if name not in _SCALAR_FIELDS}
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from leaves(value, f"{key}[{_entry_name(index, value)}]")
    else:
        yield key, node


def flat_scalars(measures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The scalars of one result's `measures` by flat key, as `leaves` names them.

    They may be those of a document or, as `Scalar`s, of a report.
    """
    return {key: leaf for key, leaf in leaves(_plain(measures)) if is_scalar(leaf)}


def with_sampling_errors(node: Any, errors: Mapping[str, float], key: str = "") -> Any:
    """Measures as they are, the sampling errors of some scalars replaced by flat key.

    Where the sampling error was all the error there is, it is that again.
    """
    if isinstance(node, Scalar):
        return replace(node, **_replaced(vars(node), errors[key])) if key in errors else node
    if isinstance(node, Mapping):
        found = {
            name: with_sampling_errors(value, errors, f"{key}.{name}" if key else str(name))
            for name, value in node.items()
        }
        return found | (_replaced(node, errors[key]) if is_scalar(node) and key in errors else {})
    if isinstance(node, list | tuple):
        return [
            with_sampling_errors(value, errors, f"{key}[{_entry_name(index, value)}]")
            for index, value in enumerate(node)
        ]
    return node


def unconverged(document: Document) -> list[str]:
    """`path: flat key` of each number that did not converge; a bound is what it says."""
    return [
        f"{result['checkpoint']['path']}: {key}" if "checkpoint" in result else key
        for result in document["results"]
        for part, measures in _parts(result)
        for key, scalar in ((part + key, scalar) for key, scalar in flat_scalars(measures).items())
        if scalar["status"] in NOT_CONVERGED
    ]


def _parts(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A result's measures, and those of each of its layers under `layer: `."""
    yield "", result.get("measures", result)
    for layer in result.get("layers", ()) if "measures" in result else ():
        yield f"{layer['layer']}: ", layer["measures"]


def short_power(value: float) -> str:
    """A setting such as ε as a person writes it: 1e-3, 5e-4, 0.05, 2."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


_SAVED = "pass a file that sharp wrote as JSON"
_SCALAR_FIELDS = tuple(f.name for f in fields(Scalar))
_LEFT_OUT_OF_SCALARS = {"advice", "sampling_error", "sampling_bias", "sampling_status"}
_LEFT_OUT_WHEN_EMPTY = _LEFT_OUT_OF_SCALARS | {
    "correlations",
    "kind",
    "layers",
    "notes",
    "warnings",
}


def _ended_by_a_signal(error: Mapping[str, Any]) -> bool:
    # Documents from before errors had a kind are known by this message alone.
    return Outcome.INTERRUPTED in (error.get("kind"), error.get("message", "").partition(" ")[0])


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _integer(digits: str) -> float:
    """A whole number; what float64 cannot hold is infinite, and refused with its place."""
    return int(digits) if len(digits) <= sys.float_info.max_10_exp else float(digits)


def _once(pairs: Sequence[tuple[str, Any]]) -> Document:
    """An object of JSON; two values of one key would hide one of them."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {json.dumps(twice)[:80]} is there twice")
    return found


def _replaced(scalar: Mapping[str, Any], error: float) -> dict[str, Any]:
    all_of_it = scalar.get("error") is not None and scalar["error"] == scalar["sampling_error"]
    return {"sampling_error": error} | ({"error": error} if all_of_it else {})


def _entry_name(index: int, entry: Any) -> str:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("epsilon"), int | float):
        return str(index)
    subspace = entry.get("subspace")
    return short_power(entry["epsilon"]) + (f",p={subspace}" if subspace else "")


def _plain(node: Any) -> Any:
    if is_dataclass(node) and not isinstance(node, type):
        plain = {f.name: _plain(getattr(node, f.name)) for f in fields(node)}
        outcome = isinstance(node, CheckpointResult | LayerResult)
        empty = _LEFT_OUT_WHEN_EMPTY | ({"error"} if outcome else set())
        return _checked({k: v for k, v in plain.items() if not (k in empty and v in (None, []))})
    if isinstance(node, Mapping):
        return _checked({str(key): _plain(value) for key, value in node.items()})
    if isinstance(node, str | Path):
        return str(node)
    if isinstance(node, Sequence):
        return [_plain(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node


def _checked(plain: Document) -> Document:
    """A scalar without a value never claims to have converged, and carries no empty advice."""
    if not is_scalar(plain):
        return plain
    if plain["value"] is None and plain["status"] in SOUND:
        plain["status"] = Status.NOT_FINITE.value
    return {k: v for k, v in plain.items() if v is not None or k not in _LEFT_OUT_OF_SCALARS}
