"""From what an experiment's runs left to its document: statistics, verdicts, figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sharpcli.documents.claims.experiment import Claim, Experiment
from sharpcli.documents.claims.figures import draw_plan
from sharpcli.documents.claims.statistics import Stages, compute_statistic
from sharpcli.documents.claims.verdicts import Prediction, judge
from sharpcli.documents.environment import environment
from sharpcli.documents.reproductions import ClaimResult, Reproduced, Statistic
from sharpcli.documents.results import Report
from sharpcli.errors import UsageError, counted

__all__ = ["claim_result", "conclude", "prediction_text"]


def conclude(
    experiment: Experiment, scale: str, seeds: int, stages: Stages, task: Mapping[str, Any]
) -> Report:
    """The report of kind `reproduce`. The same runs give the same report, to the last byte."""
    notes = [
        f"stage {stage.name}: {counted(len(stage.lost), 'run')} of "
        f"{len(stage.lost) + len(stage.runs)} ended without weights: {_some(stage.lost)}"
        for stage in stages.values()
        if stage.lost
    ]
    about = Reproduced(
        name=experiment.name,
        title=experiment.title,
        source=experiment.source,
        design=experiment.design,
        scale=scale,  # type: ignore[arg-type]
        seeds=seeds,
        few_seeds=experiment.few_seeds,
        limits=experiment.limits,
    )
    return Report(
        "reproduce",
        {"experiment": about},
        {key: each for key, each in environment().items() if key != "date"},
        task,
        [claim_result(claim, stages) for claim in experiment.claims],
        figures=[draw_plan(plan, stages) for plan in experiment.figures],
        notes=notes,
    )


def prediction_text(prediction: Prediction) -> str:
    """What is predicted, as a person reads it: `above 1 (2 or more would show it)`."""
    if prediction.direction == "within":
        if prediction.high == math.inf:
            return f"{prediction.low:g} or more"
        return f"from {prediction.low:g} to {prediction.high:g}"
    least = "" if prediction.least is None else f"; an effect counts from {prediction.least:g} on"
    return f"{prediction.direction} {prediction.null:g}{least}"


def claim_result(claim: Claim, stages: Stages) -> ClaimResult:
    """A claim with its statistic and verdict."""
    try:
        found = compute_statistic(claim.statistic, stages, claim.arguments)
    except UsageError as error:
        raise UsageError(f"claim {claim.name}: {error.message}", error.hint) from error
    values, prediction = list(found.values.values()), claim.prediction
    if found.logarithmic:
        prediction = _logarithmic(prediction)
    judged = judge(values, prediction)
    show = math.exp if found.logarithmic else float
    interval = None if judged.interval is None else tuple(map(show, judged.interval))
    return ClaimResult(
        name=claim.name,
        claim=claim.claim,
        source=claim.source,
        prediction=prediction_text(claim.prediction),
        statistic=Statistic(
            name=claim.statistic,
            value=None if judged.value is None else show(judged.value),
            interval=interval,  # type: ignore[arg-type]
            by_seed={str(seed): show(each) for seed, each in found.values.items()},
            arguments=claim.arguments,
        ),
        verdict=judged.verdict,
        seeds=judged.seeds,
        seeds_needed=judged.seeds_needed,
        notes=found.notes,
    )


def _logarithmic(prediction: Prediction) -> Prediction:
    """The same prediction of the statistic's logarithm."""

    def log(value: float) -> float:
        return math.log(value) if value > 0 else -math.inf

    least = None if prediction.least is None else log(prediction.least)
    return Prediction(
        prediction.direction, log(prediction.null), least, log(prediction.low), log(prediction.high)
    )


def _some(lost: Mapping[str, str]) -> str:
    named = [f"{name} ({state})" for name, state in lost.items()]
    return ", ".join(named[:3]) + (", …" if len(named) > 3 else "")
