"""Results as frozen dataclasses and as the JSON document `sharpcli/1`. Does not import torch.

Commands build a `Report`, and `to_document` turns it into the plain JSON document. Tables,
comparisons and plots read only documents, so a fresh result and one saved last year take the same
path.

`python docs/write_reference.py` makes docs/schema.json from these classes. The text in an
annotation is the key's description; `Keywords` next to it holds more JSON Schema keywords.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from sharpcli.documents.fields import Metadata, Notes, Number, Sentences, Sha256, absent
from sharpcli.documents.scalars import flat_scalars, to_plain
from sharpcli.documents.showing import Shown
from sharpcli.documents.statuses import NOT_CONVERGED, Outcome
from sharpcli.runtime.text import json_text
from sharpcli.settings.fields import Keywords

__all__ = [
    "SCHEMA",
    "CheckpointResult",
    "FailedResult",
    "Failure",
    "LayerResult",
    "MeasuredCheckpoint",
    "Report",
    "RescaledNumber",
    "RescalingFacts",
    "dumps",
    "is_interrupted",
    "to_document",
    "unconverged",
]

SCHEMA = "sharpcli/1"
Document = dict[str, Any]
_COUNT = Keywords(minimum=0)


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

    >>> from sharpcli.documents.scalars import Scalar
    >>> report = Report("measure", {}, {}, {}, [{"loss": Scalar(float("inf"))}])
    >>> to_document(report)["results"][0]["loss"]["status"]
    'not_finite'
    """
    return {"schema": SCHEMA, **to_plain(report)}


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


def _ended_by_a_signal(error: Mapping[str, Any]) -> bool:
    # Documents from before errors had a kind are known by this message alone.
    return Outcome.INTERRUPTED in (error.get("kind"), error.get("message", "").partition(" ")[0])
