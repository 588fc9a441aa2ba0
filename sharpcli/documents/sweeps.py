"""The result of `sharp sweep`: a run of the sweep, trained or not yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sharpcli.documents.fields import absent
from sharpcli.documents.results import Failure, MeasuredCheckpoint
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import Outcome
from sharpcli.settings.fields import Keywords

__all__ = ["SweptRun"]

_COUNT = Keywords(minimum=0)
_TRAINED = Keywords(required=["train"], propertyNames={"enum": ["train"]})


@dataclass(frozen=True, kw_only=True)
class SweptRun:
    """A result of `sweep`: one run."""

    run: Annotated[str, "Its name, which is that of its folder."]
    checkpoint: MeasuredCheckpoint
    status: Annotated[
        Literal[Outcome.OK, Outcome.FAILED, Outcome.INTERRUPTED, Outcome.WAITING],
        "ok: trained; failed: `error` says why, with the kind diverged where the loss is not "
        "finite; interrupted, waiting: not trained yet.",
    ] = Outcome.WAITING
    settings: Annotated[Mapping[str, Any], "Settings of the training."]
    options: Annotated[Mapping[str, str], "Options of the task that the sweep gives."]
    fingerprint: Annotated[str, "Hash of the task's code and options."]
    epochs: Annotated[int | None, "Passes over the data.", _COUNT] = absent()
    steps: Annotated[int | None, "Updates.", _COUNT] = absent()
    loss: Annotated[Mapping[str, Scalar] | None, "Mean loss at the end.", _TRAINED] = absent()
    seconds: Annotated[float | None, "Wall time of the training.", _COUNT] = absent()
    error: Failure | None = absent()
