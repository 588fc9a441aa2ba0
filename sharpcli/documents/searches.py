"""The result of `sharp search`: a trial, finished or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sharpcli.documents.fields import Number, absent
from sharpcli.documents.results import Failure, MeasuredCheckpoint
from sharpcli.documents.statuses import Outcome
from sharpcli.settings.fields import Keywords

__all__ = ["Trial"]

_COUNT = Keywords(minimum=0)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A result of `search`: one training with values that were chosen."""

    trial: Annotated[str, "Its name, which is that of its folder."]
    checkpoint: MeasuredCheckpoint | None = absent()
    status: Annotated[
        Literal[Outcome.OK, Outcome.PRUNED, Outcome.FAILED, Outcome.WAITING],
        "ok: trained; pruned: ended early; failed: `error` says why, with the kind diverged where "
        "a loss is not finite; waiting: it has begun and not ended.",
    ]
    objective: Annotated[
        Number | None, "The objective at the end, or where it was ended; absent if there is none."
    ] = absent()
    chosen: Annotated[Mapping[str, Any], "The values that were chosen, by their names in the file."]
    settings: Annotated[
        Mapping[str, Any] | None, "Settings of the training; absent if they do not go together."
    ] = absent()
    options: Annotated[Mapping[str, str] | None, "Options of the task."] = absent()
    points: Annotated[
        Sequence[Annotated[int, _COUNT]],
        "Epochs, or with `every` steps, after which the objective was taken.",
    ]
    objectives: Annotated[Sequence[Number], "The objective at each of them."]
    epochs: Annotated[int | None, "Passes over the data.", _COUNT] = absent()
    steps: Annotated[int | None, "Updates.", _COUNT] = absent()
    train_loss: Annotated[Number | None, "Mean loss on the data that it was trained on."] = absent()
    seconds: Annotated[float | None, "Wall time.", _COUNT] = absent()
    error: Failure | None = absent()
