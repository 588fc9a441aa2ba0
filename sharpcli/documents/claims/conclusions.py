"""From what an experiment's runs left to its document: statistics, verdicts, figures."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sharpcli.documents.claims.experiment import Claim, Experiment
from sharpcli.documents.claims.figures import draw_plan
from sharpcli.documents.claims.statistics import compute_statistic
from sharpcli.documents.claims.statistics.per_seed import Stages
from sharpcli.documents.claims.verdicts import Prediction, judge
from sharpcli.documents.environment import environment
from sharpcli.documents.reproductions import ClaimResult, Reproduced, Statistic
from sharpcli.documents.results import Report
from sharpcli.errors import UsageError, counted

__all__ = ["claim_result", "conclude", "prediction_text"]

_FEW = 5  # seeds; with fewer an experiment says why
_OF_SEED = re.compile(r"seed (\w+): (.*)")
_LARGEST = math.log(sys.float_info.max)


def conclude(
    experiment: Experiment, scale: str, seeds: int, stages: Stages, task: Mapping[str, Any]
) -> Report:
    """The report of kind `reproduce`. The same runs give the same report, to the last byte."""
    notes = [
        f"stage {stage.name}: {counted(len(stage.lost), 'run')} of "
        f"{len(stage.runs)} ended without weights: {_some(stage.lost)}"
        for stage in stages.values()
        if stage.lost
    ]
    small = scale == "small"
    about = Reproduced(
        name=experiment.name,
        title=experiment.title,
        source=experiment.source,
        design=experiment.design if small else experiment.paper or experiment.design,
        scale=scale,  # type: ignore[arg-type]
        seeds=seeds,
        few_seeds=experiment.few_seeds if seeds < _FEW else None,
        limits=experiment.limits if small else None,
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
    """What is predicted, as a person reads it: `above 1; an effect counts from 2 on`."""
    if prediction.direction == "within":
        if math.isinf(prediction.low):
            return f"at most {prediction.high:g}"
        if math.isinf(prediction.high):
            return f"at least {prediction.low:g}"
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
        prediction = _logarithmic(claim)
    judged = judge(values, prediction)
    notes = _joined(found.notes)
    if found.missing and judged.verdict != "undecided":
        seeds = ", ".join(map(str, found.missing))
        notes.append(
            f"{len(found.missing)} of {len(values) + len(found.missing)} seeds have no value "
            f"({seeds}), which is no accident where a training diverges; of the others alone it "
            f"would be {judged.verdict}"
        )
        judged = replace(judged, verdict="undecided", seeds_needed=None)
    if len(values) > 1 and len({*values}) == 1:
        notes.append("all seeds have the same value, so that the interval has no width")
    show = _exponential if found.logarithmic else float
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
        notes=notes,
    )


def _logarithmic(claim: Claim) -> Prediction:
    """The same prediction of the statistic's logarithm.

    Raises:
        UsageError: a ratio is above 0 always, so that this would be true of any.
    """
    asked = claim.prediction
    names = ("low", "high") if asked.direction == "within" else ("null", "least")
    given = {name: each for name in names if (each := getattr(asked, name)) is not None}
    bounds = {name: each for name, each in given.items() if math.isfinite(each)}
    for name, bound in bounds.items():
        if bound <= 0:
            raise UsageError(
                f"claim {claim.name}: {name} = {bound:g}: the {claim.statistic} is above 0 always",
                f"give {name} above 0; a ratio without effect has null = 1",
            )
    logs: dict[str, Any] = {name: math.log(each) for name, each in bounds.items()}
    return replace(asked, **logs)


def _joined(notes: Sequence[str]) -> list[str]:
    """One note for seeds of which the same is said: `seeds 0, 3: a run has no test.loss`."""
    seeds: dict[str, list[str]] = {}
    for note in notes:
        found = _OF_SEED.fullmatch(note)
        seeds.setdefault(found[2] if found else note, []).extend([found[1]] if found else [])
    return [
        f"{'seed' if len(own) == 1 else 'seeds'} {', '.join(own)}: {said}" if own else said
        for said, own in seeds.items()
    ]


def _exponential(value: float) -> float:
    """exp, at most the largest number: an interval of two seeds can be that wide."""
    return math.exp(min(value, _LARGEST))


def _some(lost: Mapping[str, str]) -> str:
    named = [f"{name} ({state})" for name, state in lost.items()]
    return ", ".join(named[:3]) + (", …" if len(named) > 3 else "")
