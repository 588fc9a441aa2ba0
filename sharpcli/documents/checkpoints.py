"""The results of `sharp inspect` and `sharp train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from sharpcli.documents.fields import Metadata, Notes, Number, Sentences, Sha256, absent
from sharpcli.documents.results import Failure, MeasuredCheckpoint
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.stability import Threshold
from sharpcli.documents.statuses import Outcome
from sharpcli.settings.fields import Keywords

__all__ = [
    "Evaluations",
    "Inspected",
    "InspectedCheckpoint",
    "StoredTensor",
    "Tracked",
    "TrackedStep",
    "TrainedResult",
    "TrainingCurves",
]

_COUNT = Keywords(minimum=0)
_TRAINED = Keywords(required=["train"], propertyNames={"enum": ["train", "test", "gap"]})


@dataclass(frozen=True)
class StoredTensor:
    """One tensor."""

    name: Annotated[str, "Its key."]
    shape: Annotated[Sequence[Annotated[int, _COUNT]], "Its sizes."]
    dtype: Annotated[str, "As stored."]
    norm: Annotated[Number | None, "Euclidean; null if not finite."] = absent()
    min: Annotated[Number | None, "Smallest entry."] = absent()
    max: Annotated[Number | None, "Largest entry."] = absent()


@dataclass(frozen=True)
class InspectedCheckpoint:
    """The checkpoint; shared storage counts once."""

    path: Annotated[Path | str, "As given."]
    sha256: Sha256 | None = absent()
    elements: Annotated[int | None, "Number of elements.", _COUNT] = absent()
    bytes: Annotated[int | None, "Bytes of the elements.", _COUNT] = absent()
    metadata: Metadata | None = absent()
    notes: Notes | None = absent()


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """One result of `inspect`."""

    checkpoint: InspectedCheckpoint
    status: Literal[Outcome.OK] = Outcome.OK
    tensors: Annotated[Sequence[StoredTensor], "In the file's order."]
    optimizer: Annotated[
        Mapping[str, Any] | None,
        "Settings and size of the optimizer's state; null if there is none.",
    ]
    warnings: Sentences = absent(())


@dataclass(frozen=True)
class TrainingCurves:
    """Numbers at some steps of a training, in lists of one length."""

    step: Annotated[Sequence[Annotated[int, Keywords(minimum=1)]], "Updates, from 1."]
    loss: Annotated[Sequence[Number], "Mean loss of the step's batch, before the update."]
    lr: Annotated[Sequence[Number], "Learning rate; null where the optimizer has none."]
    batch_size: Annotated[Sequence[Annotated[int, Keywords(minimum=1)]], "Examples in the batch."]
    gradient_norm: Annotated[
        Sequence[Number], "Of the batch's gradient, before clipping; null if not finite."
    ]
    noise_scale: Annotated[
        Sequence[Number] | None,
        "SGD's noise scale η(N/B − 1), with momentum ηN/(B(1−m)); absent if not asked for.",
    ] = absent()


_BY_METRIC = Mapping[str, Annotated[Sequence[Number], "One for each evaluation."]]


@dataclass(frozen=True)
class Evaluations:
    """Loss and metrics of a training on the way, in lists of one length."""

    step: Annotated[Sequence[Annotated[int, _COUNT]], "Updates before it, from 0."]
    epochs: Annotated[Sequence[Annotated[float, _COUNT]], "Passes over the data before it."]
    seconds: Annotated[
        Sequence[Annotated[float, _COUNT]],
        "Time of the updates before it, without that of evaluations; interruptions do not count.",
    ]
    train: Annotated[
        _BY_METRIC, "`loss`, then the task's metrics, on training data; null if not finite."
    ]
    test: Annotated[_BY_METRIC | None, "The same on test data; absent if there are none."] = (
        absent()
    )


@dataclass(frozen=True)
class TrackedStep:
    """What was measured of the weights between two steps of a training."""

    step: Annotated[int, "Updates before it.", _COUNT]
    lr: Annotated[Number, "Learning rate of the last update; null where there is none."]
    threshold: Threshold | None = absent()
    measures: Annotated[
        Mapping[str, Any],
        "As `measure` gives them; of `hessian` λ1 alone. `preconditioned_hessian`: the same of "
        "P^(-1/2) H P^(-1/2) with Adam's diagonal P.",
        Keywords({"$ref": "#/$defs/measures"}),
    ] = field(default_factory=dict)
    failures: Annotated[
        Mapping[str, Failure] | None, "Why a measure has no numbers here, by its name."
    ] = absent()


@dataclass(frozen=True)
class Tracked:
    """What was measured during a training: `steps`, on `examples` of `examples_in_all`."""

    steps: Sequence[TrackedStep]
    examples: int
    examples_in_all: int


@dataclass(frozen=True, kw_only=True)
class TrainedResult:
    """One result of `train`."""

    checkpoint: MeasuredCheckpoint
    status: Literal[Outcome.OK] = Outcome.OK
    epochs: Annotated[int, "Passes over the data.", _COUNT]
    steps: Annotated[int, "Updates.", _COUNT]
    loss: Annotated[Mapping[str, Scalar], "Mean loss at the end.", _TRAINED]
    seconds: Annotated[
        float | None, "Wall time from model and data in memory to the answer.", _COUNT
    ] = absent()
    curves: Annotated[
        TrainingCurves | None, "At most 2000 steps, evenly spaced from the first one."
    ] = absent()
    evaluations: Annotated[Evaluations | None, "Loss and metrics on the way, if asked for."] = (
        absent()
    )
    tracked: Annotated[
        Sequence[TrackedStep], "With track: at step 0, every so many steps and at the end."
    ] = absent(())
    tracked_examples: Annotated[
        int | None, "Training examples that `tracked` was measured on.", Keywords(minimum=1)
    ] = absent()
    tracked_examples_in_all: Annotated[
        int | None,
        "Examples in the training data; absent if all were measured.",
        Keywords(minimum=1),
    ] = absent()
