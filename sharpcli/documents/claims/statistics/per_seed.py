"""A statistic's value for each seed, and what all statistics share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharpcli.documents.claims.runs import StageRuns, Trained
from sharpcli.errors import UsageError

__all__ = [
    "Arguments",
    "PerSeed",
    "Stages",
    "loss_text",
    "lower_is_better",
    "settings_text",
    "stage_of",
    "times",
]

# Metrics of which it is known whether lower is better.
_BETTER = {"loss": True, "accuracy": False}


Stages = Mapping[str, StageRuns]


Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class PerSeed:
    """A statistic for each seed; those without one are missing, and `notes` say why.

    A ratio is kept as its logarithm: `logarithmic` says so. `missing` are the seeds that were asked
    for and have none.
    """

    values: Mapping[Any, float]
    logarithmic: bool = False
    notes: Sequence[str] = field(default_factory=list)
    missing: Sequence[Any] = ()


def lower_is_better(name: str) -> bool:
    """Whether a loss; raises `UsageError` for what is neither that nor an accuracy."""
    metric = name.rpartition(".")[2]
    if metric not in _BETTER:
        raise UsageError(
            f"{name}: nothing says whether lower or higher is better",
            f"choose by one that ends in {', '.join(f'.{each}' for each in _BETTER)}",
        )
    return _BETTER[metric]


def stage_of(stages: Stages, arguments: Arguments) -> StageRuns:
    """The stage that is named, the first one by default."""
    return stages[arguments["stage"]] if "stage" in arguments else next(iter(stages.values()))


def settings_text(settings: Mapping[str, Any]) -> str:
    """`batch_size 32, lr 0.1`, for notes."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in settings.items())


def times(sign: float, number: float | None) -> float | None:
    """The product, None of None."""
    return None if number is None else sign * number


def loss_text(runs: Sequence[Trained]) -> str:
    """`a run (diverged) has`, of runs of which some have no number."""
    lost = [run.run.status for run in runs if run.is_lost]
    return f"a run ({lost[0]}) has" if lost else "a run has"
