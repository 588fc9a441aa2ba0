"""The results of `sharp schedule`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from sharpcli.settings.fields import Keywords

__all__ = ["ListedPolicy", "Scheduled"]

_COUNT = Keywords(minimum=0)
_SOME = Keywords(minimum=1)


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """A result of `schedule`: what was asked for, then what it is rewritten as."""

    name: Annotated[str, "`schedule`, or what it is rewritten as."]
    schedule: Annotated[str, "The rate as text: `schedule` of `sharp train`."]
    batch_schedule: Annotated[
        str | None, "The batch size as text: `batch_schedule` of `sharp train`; null: not known."
    ]
    momentum: Annotated[float, "Of all updates.", _COUNT]
    updates: Annotated[int, "How many updates it takes.", _SOME]
    examples_seen: Annotated[int | None, "In all updates; null: not known.", _SOME]
    steps: Annotated[Sequence[Annotated[int, _COUNT]], "Steps, from 0."]
    lr: Annotated[Sequence[Annotated[float, _COUNT]], "The learning rate at each step."]
    batch_size: Annotated[
        Sequence[Annotated[int, _SOME]] | None, "The batch size at each step; null: not known."
    ]
    noise_scale: Annotated[
        Sequence[Annotated[float, _COUNT]] | None,
        "g = η(N/B − 1), with momentum ηN/(B(1−m)), at each step; null: without batch size and "
        "examples.",
    ]


@dataclass(frozen=True, kw_only=True)
class ListedPolicy:
    """A result of `policies`: one policy of schedules."""

    name: Annotated[str, "Its name, taken in any case."]
    usage: Annotated[str, "How it is written, with defaults."]
    formula: Annotated[str, "Its value at step t, from 0."]
    parameters: Annotated[Sequence[str], "In order."]
