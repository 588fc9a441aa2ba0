"""Results as frozen dataclasses and as the JSON document `sharpcli/1`. Does not import torch.

Commands build a `Report`, and `to_document` turns it into the plain JSON document. Tables,
comparisons and plots read only documents, so a fresh result and one saved last year take the same
path.

`python docs/write_reference.py` makes docs/schema.json from these classes. The text in an
annotation is the key's description; `Keywords` next to it holds more JSON Schema keywords.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from sharpcli.documents.showing import Shown
from sharpcli.documents.statuses import NOT_CONVERGED, SOUND, Outcome, SamplingStatus, Status
from sharpcli.runtime.text import json_text
from sharpcli.settings.fields import Keywords

__all__ = [
    "SCHEMA",
    "CheckpointResult",
    "FailedResult",
    "Failure",
    "LayerResult",
    "MeasuredCheckpoint",
    "Metadata",
    "Notes",
    "Number",
    "Report",
    "RescaledNumber",
    "RescalingFacts",
    "Scalar",
    "Sentences",
    "Sha256",
    "absent",
    "dumps",
    "flat_scalars",
    "is_interrupted",
    "is_scalar",
    "leaves",
    "scalar_fields",
    "short_power",
    "to_document",
    "to_plain",
    "unconverged",
    "with_sampling_errors",
]

SCHEMA = "sharpcli/1"

ErrorKind = Literal["residual", "standard_error", "rounding", "lower_bound", "upper_bound"]
Document = dict[str, Any]

Number = Annotated[float, Keywords(type=["number", "null"])]  # null if not finite
Sentences = Annotated[
    Sequence[str], "Sentences for the user; absent if there are none.", Keywords(minItems=1)
]
Notes = Annotated[Sequence[str], "Changes made to read it, such as a removed prefix."]
Sha256 = Annotated[str, "SHA-256 of its bytes.", Keywords(pattern="^[0-9a-f]{64}$")]
Metadata = Annotated[
    Mapping[str, str | float | bool | None],
    "How the checkpoint was made, as stored in it; null for a number that is not finite.",
]
_COUNT = Keywords(minimum=0)


def absent(empty: Any = None) -> Any:
    """The default of a field; the document leaves out its key if the value is empty."""
    return field(default=empty, metadata={"absent": True})


@dataclass(frozen=True)
class Scalar:
    """A number with its error, the kind of the error, and a status."""

    value: Annotated[float | None, "The number; null if it is not finite."]
    error: Annotated[
        float | None,
        "The error, in the unit of the value; null if the value is exact up to rounding or only a "
        "bound.",
        Keywords(minimum=0),
    ] = None
    error_kind: Annotated[
        ErrorKind | None,
        "residual: a bound, ‖Hv − λv‖ for an eigenvalue; standard_error: of a random estimate; "
        "rounding: of the run's arithmetic, measured against another precision; lower_bound: the "
        "true maximum is at least the value; upper_bound: the true minimum is at most the value.",
    ] = None
    status: Annotated[
        Status,
        "converged; lower_bound: the largest found; upper_bound: the smallest found; max_products: "
        "the limit was reached before the tolerance; precision: rounding keeps the error above the "
        "tolerance, or hides how the loss rises; suspect: the second derivatives failed their "
        "self-check; unresolved: the method cannot decide; not_finite: there is no value.",
    ] = Status.CONVERGED
    advice: Annotated[str | None, "What to do where it did not converge."] = absent()
    sampling_error: Annotated[
        float | None,
        "Standard error from sampling the data; ±1.96 times this is a 95 % interval; absent if all "
        "data were measured.",
        Keywords(minimum=0),
    ] = absent()
    sampling_bias: Annotated[
        float | None,
        "How much higher the value is on the sample than on all data, as far as known: the "
        "interval is value − sampling_bias ± 1.96·sampling_error.",
        Keywords(minimum=0),
    ] = absent()
    sampling_status: Annotated[
        SamplingStatus | None,
        "unreliable: the sampling error may be too small, because few examples dominate the number "
        "or the sample may lack important kinds of example; absent if it is reliable.",
    ] = absent()
    shards: Annotated[
        Sequence[float] | None,
        "The number on each of the equal shards of the sample, as far as the shard moves it: their "
        "mean is the number but for small terms. The shards are the same for all checkpoints with "
        "the same `sample`; absent if all data were measured.",
        Keywords(minItems=2),
    ] = absent()
    sampling_shift: Annotated[
        float | None,
        "How far sampling moves the value on average, to second order, as far as known; part of "
        "sampling_error, and not subtracted.",
    ] = absent()


@dataclass(frozen=True)
class Failure:
    """Why a checkpoint failed."""

    message: Annotated[str, "What happened and where."]
    hint: Annotated[str | None, "What to do."] = None
    kind: (
        Annotated[
            Literal[Outcome.INTERRUPTED, Outcome.DIVERGED],
            "interrupted: by Ctrl-C; diverged: the loss of a training is not finite.",
        ]
        | None
    ) = absent()


@dataclass(frozen=True)
class MeasuredCheckpoint:
    """The checkpoint of a result."""

    path: Annotated[str, "As given."]
    sha256: Sha256 | None = absent()
    metadata: Metadata | None = absent()
    parameters: Annotated[int | None, "Number of measured parameters, tied ones once.", _COUNT] = (
        absent()
    )
    parameters_in_all: Annotated[
        int | None, "Number of all parameters, measured or not; with parameters chosen.", _COUNT
    ] = absent()
    notes: Notes | None = absent()
    examples: Annotated[
        int | None,
        "Number of measured examples of the split; with samples or sampling_error.",
        Keywords(minimum=1),
    ] = absent()
    examples_in_all: Annotated[
        int | None,
        "Number of examples in the split; absent if all were measured.",
        Keywords(minimum=1),
    ] = absent()
    sample: Annotated[
        str | None,
        "Identifies the sample's examples and their division in shards; absent if all were "
        "measured.",
    ] = absent()
    options: Annotated[
        Mapping[str, Any] | None, "Options of the task that came from the checkpoint's metadata."
    ] = absent()
    data: Annotated[
        str | None,
        "Those of `options` that choose the data, such as `n=80`; numbers of different data are "
        "not compared.",
    ] = absent()


@dataclass(frozen=True, kw_only=True)
class FailedResult:
    """The result of a checkpoint that failed."""

    checkpoint: MeasuredCheckpoint
    status: Literal[Outcome.FAILED] = Outcome.FAILED
    error: Failure


@dataclass(frozen=True)
class LayerResult:
    """The measures of one layer's block of the parameters; the others stay fixed."""

    layer: Annotated[str, "The module that owns the parameters."]
    parameters: Annotated[
        int, "Number of parameters in the block, tied ones once.", Keywords(minimum=1)
    ]
    measures: Annotated[
        Mapping[str, Any],
        "As for all parameters, without what is the same for every layer; empty if it failed.",
        Keywords({"$ref": "#/$defs/measures"}),
    ] = field(default_factory=dict)
    error: Failure | None = absent()


@dataclass(frozen=True)
class RescaledNumber:
    """A number of the checkpoint, and of the same function with rescaled hidden units."""

    measure: Annotated[str, "The number's flat key, such as `hessian.eigenvalues[0]`."]
    before: Annotated[Number, "At the checkpoint."]
    after: Annotated[Number, "Rescaled."]
    relative_change: Annotated[Number, "after/before − 1; null if that is undefined."]
    verdict: Annotated[
        Literal["moved", "unchanged", "undecided"],
        "unchanged: by at most 2 %; undecided: by more, but by no more than the errors of the two "
        "numbers (10 % for a bound, whose search ends elsewhere each time).",
    ]


@dataclass(frozen=True)
class RescalingFacts:
    """How hidden units were rescaled, and how far the function stayed the same."""

    by: Annotated[
        Literal["unit", "layer"],
        "unit: each unit had a factor of its own; layer: those of a layer shared one.",
    ]
    factor: Annotated[float, "Factors were log-uniform between 1/factor and factor."]
    units: Annotated[int, "Number of units that can be rescaled.", Keywords(minimum=1)]
    tensors: Annotated[int, "Number of tensors that changed.", Keywords(minimum=1)]
    output_difference: Annotated[
        float, "Largest difference of outputs in float64, relative to the largest output."
    ]
    output_difference_in_run: Annotated[
        float, "The same in the precision of the run.", Keywords(minimum=0)
    ]


@dataclass(frozen=True)
class CheckpointResult:
    """One result of `measure`.

    `measures` maps each measure's JSON key to its numbers: `Scalar`s, lists and mappings of them,
    plain counts and times.
    """

    checkpoint: Annotated[Mapping[str, Any], Keywords({"$ref": "#/$defs/measured_checkpoint"})]
    status: Annotated[Literal[Outcome.OK, Outcome.FAILED], "failed: only `error` says more."] = (
        Outcome.OK
    )
    measures: Annotated[Mapping[str, Any], Keywords({"$ref": "#/$defs/measures"})] = field(
        default_factory=dict
    )
    error: Failure | None = absent()
    warnings: Sentences = absent(())
    layers: Annotated[
        Sequence[LayerResult],
        'With by "layer": the same for each layer\'s block of the parameters.',
    ] = absent(())
    rescaled: Annotated[
        Sequence[RescaledNumber],
        "With rescale_check: each number of the table before and after a rescaling.",
    ] = absent(())
    rescaling: Annotated[RescalingFacts | None, "With rescale_check: the rescaling."] = absent()


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """One run of a command: its settings, its environment, and a result for each checkpoint.

    `notes` are useful facts; `warnings` say why a number may mean less than it seems to.
    """

    kind: Annotated[str, "The command that wrote it."]
    settings: Annotated[Mapping[str, Any], "All settings of the command that change its answer."]
    environment: Mapping[str, Any]
    task: Mapping[str, Any]
    results: Annotated[
        Sequence[Any],
        "One entry per checkpoint, in the given order; for `compare` one per group, for "
        "`interpolate` and `landscape` a single one.",
    ]
    correlations: Annotated[
        Sequence[Any],
        "For `compare`: correlation of each measure with the generalization gap.",
    ] = absent(())
    agreement: Annotated[
        Mapping[str, Any] | None,
        "For `compare`: Kendall's tau-b between each pair of measures, over the checkpoints.",
    ] = absent()
    pairs: Annotated[
        Sequence[Any],
        "For `measure` of several checkpoints and for `compare`: each number of two of them, "
        "compared.",
    ] = absent(())
    decision: Annotated[
        Any, "For `measure` with decide: the order of the checkpoints, and what it took."
    ] = absent()
    importance: Annotated[
        Mapping[str, Number] | None,
        "For `search`: how much each chosen value decides which trials are the best (PED-ANOVA); "
        "absent for fewer than ten trials.",
    ] = absent()
    figures: Annotated[
        Sequence[Any], "For `reproduce`: what each figure of the experiment shows."
    ] = absent(())
    notes: Sentences = absent(())
    warnings: Sentences = absent(())

    def _document(self) -> Document:
        return to_document(self)


def to_document(report: Report) -> Document:
    """The report in JSON types; a float that is not finite becomes null with a status.

    >>> report = Report("measure", {}, {}, {}, [{"loss": Scalar(float("inf"))}])
    >>> to_document(report)["results"][0]["loss"]["status"]
    'not_finite'
    """
    return {"schema": SCHEMA, **_plain(report)}


def to_plain(node: Any) -> Any:
    """A part of a report in JSON types, as `to_document` writes it."""
    return _plain(node)


def is_interrupted(document: Document) -> bool:
    """Whether the run was interrupted before it was complete."""
    return bool((document.get("decision") or {}).get("interrupted")) or any(
        part.get("status") == Outcome.INTERRUPTED or _ended_by_a_signal(part.get("error") or {})
        for result in document["results"]
        for part in (result, *result.get("layers", ()))
    )


def dumps(document: Document) -> str:
    """Strict JSON text of a document, without NaN or Infinity, escaped by `json_text`."""
    return json_text(document)


def scalar_fields(scalar: Scalar, **others: Any) -> dict[str, Any]:
    """A `Scalar`'s fields and others in one mapping, like a list entry of a document."""
    return {**{f.name: getattr(scalar, f.name) for f in fields(scalar)}, **others}


def is_scalar(node: Any) -> bool:
    """Whether a node of a document is a number with its error and status."""
    return isinstance(node, Mapping) and "value" in node and "status" in node


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each scalar and plain value below `node` with its flat key, in document order.

    `hessian.eigenvalues[0]`, `epsilon_sharpness[1e-3]` and `epsilon_sharpness[1e-3,p=100]` are
    scalars (mappings). A scalar's extra fields follow it, as in
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
    """The scalars of one result's `measures`, by flat key as in `leaves`.

    The scalars are mappings for a document and `Scalar`s for a report.
    """
    return {key: leaf for key, leaf in leaves(_plain(measures)) if is_scalar(leaf)}


def with_sampling_errors(node: Any, errors: Mapping[str, float], key: str = "") -> Any:
    """The measures with the sampling errors of some scalars replaced, by flat key.

    If a scalar's error equals its sampling error, both are replaced.
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
    """`path: flat key` of each number that did not converge; bounds do not count."""
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
    """A setting such as ε in short form: 1e-3, 5e-4, 0.05, 2."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


_SCALAR_FIELDS = tuple(f.name for f in fields(Scalar))
_LEFT_OUT_OF_SCALARS = {f.name for f in fields(Scalar) if "absent" in f.metadata}


def _ended_by_a_signal(error: Mapping[str, Any]) -> bool:
    # Documents from before errors had a kind are known by this message alone.
    return Outcome.INTERRUPTED in (error.get("kind"), error.get("message", "").partition(" ")[0])


def _replaced(scalar: Mapping[str, Any], error: float) -> dict[str, Any]:
    all_of_it = scalar.get("error") is not None and scalar["error"] == scalar["sampling_error"]
    return {"sampling_error": error} | ({"error": error} if all_of_it else {})


def _entry_name(index: int, entry: Any) -> str:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("epsilon"), int | float):
        return str(index)
    subspace = entry.get("subspace")
    return short_power(entry["epsilon"]) + (f",p={subspace}" if subspace else "")


def _plain(node: Any) -> Any:
    kind = type(node)
    if kind is float:  # most nodes of long curves are, and all that follows takes a while
        return node if math.isfinite(node) else None
    if kind in (int, str):
        return node
    if is_dataclass(node) and not isinstance(node, type):
        values = [(f, getattr(node, f.name)) for f in fields(node)]
        return _checked({f.name: _plain(x) for f, x in values if not _left_out(f, x)})
    if isinstance(node, Mapping):
        return _checked({str(key): _plain(value) for key, value in node.items()})
    if isinstance(node, str | Path):
        return str(node)
    if isinstance(node, Sequence):
        return [_plain(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node


def _left_out(of: Field[Any], value: Any) -> bool:
    """Whether a document leaves a field out: it is empty and its default is `absent`."""
    return "absent" in of.metadata and (value is None or (of.default == () and not value))


def _checked(plain: Document) -> Document:
    """Make a scalar without a value `not_finite` instead of converged, and drop empty advice."""
    if not is_scalar(plain):
        return plain
    if plain["value"] is None and plain["status"] in SOUND:
        plain["status"] = Status.NOT_FINITE.value
    return {k: v for k, v in plain.items() if v is not None or k not in _LEFT_OUT_OF_SCALARS}
