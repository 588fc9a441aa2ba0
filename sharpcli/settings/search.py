"""What a search of hyperparameters looks for, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sharpcli.settings.fields import SEEDS, SEEDS_HINT, SOME, Keywords, check_range

__all__ = ["SearchSettings"]


@dataclass(frozen=True)
class SearchSettings:
    """What a search looks for, and how."""

    objective: Annotated[str, "What is best: the loss, or a metric of the task."] = "loss"
    split: Annotated[
        Literal["validation", "train", "test"],
        "The data that it is taken on; validation: training data that no step sees.",
    ] = "validation"
    validation: Annotated[
        float,
        "The share of the training data that is held out, with split validation.",
        Keywords(exclusiveMinimum=0, exclusiveMaximum=1),
    ] = 0.2
    direction: Annotated[
        Literal["minimize", "maximize"] | None,
        "Which objective is better; null: a low loss, a high metric.",
    ] = None
    trials: Annotated[int, "Trainings.", SOME] = 50
    sampler: Annotated[
        Literal["tpe", "random", "grid"],
        "tpe: near the best ones so far; random; grid: every combination of lists.",
    ] = "tpe"
    pruner: Annotated[
        Literal["median", "none"],
        "median: a training ends early where it is worse than the median of those before it at the "
        "same point.",
    ] = "median"
    every: Annotated[
        int | None, "Steps between two evaluations on the way; null: an epoch.", SOME
    ] = None
    seed: Annotated[int, "Of the choices and of what is held out.", Keywords(minimum=0)] = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range; raises `UsageError` naming the setting."""
        check_range(self, "validation", lambda x: 0 < x < 1, "a share is above 0 and below 1")
        check_range(self, "trials", lambda x: x >= 1, "try at least once")
        check_range(self, "every", lambda x: x is None or x >= 1, "a step is the shortest way")
        check_range(self, "seed", SEEDS.__contains__, SEEDS_HINT)

    @property
    def highest(self) -> bool:
        """Whether the highest objective is the best."""
        if self.direction is None:
            return self.objective != "loss"
        return self.direction == "maximize"
