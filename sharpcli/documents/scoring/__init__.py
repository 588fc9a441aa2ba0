"""Score groups of runs: utility, cost and robustness. Reads only documents, without torch.

Utility is the metric at the end and at the best evaluation; cost what it takes to reach the best
and a target; robustness how much the end depends on the seed and on the learning rate.

Source: the three questions are those of LRBench (Wu et al. 2019, "Demystifying learning rate
policies for high accuracy training of deep neural networks"). The intervals, and runs that fail or
never arrive, are handled here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from sharpcli.documents.environment import environment
from sharpcli.documents.results import Report
from sharpcli.documents.scores import Over, ScoreSettings
from sharpcli.documents.scoring.groups import RunGroup, families, grouped, unequal_settings
from sharpcli.documents.scoring.numbers import Scorer, over_rates
from sharpcli.documents.scoring.runs import Run
from sharpcli.errors import SharpError, UsageError, counted, did_you_mean, setting

__all__ = ["Asked", "score"]

_SHOWN = 3  # groups that a sentence names
_FEW = 3  # runs of a group, below which its spread is hardly known


@dataclasses.dataclass(frozen=True)
class Asked:
    """What to score.

    Attributes:
        metric: `loss` or a metric. Default: accuracy where it is known, else the loss.
        split: Default: test where the metric is known there, else train.
        target: a value of the metric. Default: what every group's median run reaches.
        lower_is_better: Default: for the loss only.
        by: settings that define the groups. Default: all that differ, but the seed.
        over: what curves are drawn over.
    """

    metric: str | None = None
    split: str | None = None
    target: float | None = None
    lower_is_better: bool | None = None
    by: Sequence[str] = ()
    over: Over = "steps"


def score(runs: Sequence[Run], asked: Asked, files: Sequence[str] = ()) -> Report:
    """The scores of each group of runs, as a report of kind "compare".

    Where no run is trained, there is a `SharpError`; where none has the metric, or the setting in
    `by`, a `UsageError`.
    """
    runs, notes = _distinct(runs)
    split, metric = _quantity(runs, asked)
    lower = metric == "loss" if asked.lower_is_better is None else asked.lower_is_better
    groups = grouped(runs, asked.by)
    scorers = [Scorer(group.runs, split, metric, lower=lower) for group in groups]
    target = asked.target
    if target is None:
        target = _common_target(scorers, lower=lower)
    robustness = {
        name: over_rates(name, [scorers[groups.index(each)] for each in members])
        for name, members in families(groups).items()
        if len(members) > 1
    }
    about = ScoreSettings(metric, split, lower, target, asked.target is not None, asked.over)  # type: ignore[arg-type]
    results = [
        {
            "label": group.label,
            "group": dict(group.values),
            "members": [run.path for run in group.runs],
            "n": len(group.runs),
            "measures": {},
            "scores": scorer.scores(target, robustness.get(group.family)),
        }
        for group, scorer in zip(groups, scorers, strict=True)
    ]
    tasks = {run.settings.get("task") for run in runs}
    return Report(
        kind="compare",
        settings={"by": list(asked.by), "baseline": None, "files": list(files), "score": about},
        environment=environment(),
        task=_task(runs) if len(tasks) == 1 else {},
        results=results,
        notes=[*notes, *_notes(groups, scorers, target if asked.target is None else None)],
        warnings=_warnings(runs, groups, scorers),
    )


def _task(runs: Sequence[Run]) -> dict[str, Any]:
    return {"name": runs[0].settings.get("task"), "options": {}, "fingerprint": None}


def _distinct(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs, each once: two with the same settings and the same weights are the same run."""
    seen: set[Any] = set()
    kept = []
    for run in runs:
        key = (run.sha256, run.seed, tuple(sorted(run.settings.items(), key=lambda e: e[0])))
        if run.sha256 is None or key not in seen:
            kept.append(run)
        seen.add(key)
    twice = len(runs) - len(kept)
    return kept, [f"{counted(twice, 'run')} given twice: counted once"] if twice else []


def _quantity(runs: Sequence[Run], asked: Asked) -> tuple[str, str]:
    """The split and the metric to score."""
    ended = [run for run in runs if run.status == "ok"]
    if not ended:
        states = {state: sum(run.status == state for run in runs) for state in _STATES}
        found = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        raise SharpError(
            f"no run is trained ({found or 'there is none'})",
            "run `sharp sweep` again to finish it",
        )
    splits = ("test", "train") if asked.split is None else (asked.split,)
    known = {
        split: [*dict.fromkeys(m for r in ended for m in r.metrics(split))] for split in splits
    }
    wanted = ("accuracy", "loss") if asked.metric is None else (asked.metric,)
    for metric in wanted:
        for split in splits:
            if metric in known[split]:
                return split, metric
    names = list(dict.fromkeys(name for names in known.values() for name in names))
    if asked.metric is None and names:
        return next((split, known[split][0]) for split in splits if known[split])
    if asked.metric is not None and names:
        raise UsageError(
            f"{setting('metric', asked.metric)}: is not known of any run: "
            f"{did_you_mean(asked.metric, names)}",
            f"metrics: {', '.join(names)}; {_MORE}",
        )
    raise UsageError(f"{setting('split', asked.split)}: no metric of any run is known", _MORE)


_STATES = ("diverged", "failed", "waiting")
_MORE = f"runs know more metrics where they were trained with {setting('evaluate_every', 'epoch')}"


def _common_target(scorers: Sequence[Scorer], *, lower: bool) -> float | None:
    """The best value that most runs of every group reach; groups that failed are left out."""
    reached = [each.reached_by_most() for each in scorers if each.has_curves]
    finite = [value for value in reached if value is not None and math.isfinite(value)]
    if not finite:
        return None
    return max(finite) if lower else min(finite)


def _notes(
    groups: Sequence[RunGroup], scorers: Sequence[Scorer], chosen: float | None
) -> list[str]:
    """Notes on what is missing; `chosen` is the target where none was given."""
    notes = []
    if chosen is not None and any(each.arrives_at_once(chosen) for each in scorers):
        notes.append(
            f"the target {chosen:.4g} is what the worst group reaches, and some run has it before "
            f"its first step\n  hint: name one that says more: {setting('target', 'X')}"
        )
    without = [
        g.label for g, s in zip(groups, scorers, strict=True) if s.trained and not s.has_curves
    ]
    if without:
        who = "" if len(without) == len(groups) else f" ({_listed(without)})"
        notes.append(
            f"without evaluations on the way only the final values are known{who}\n"
            f"  hint: train with {setting('evaluate_every', 'epoch')}, in a sweep file under "
            "[fixed], for the best value, the cost and curves"
        )
    if unknown := [g.label for g, s in zip(groups, scorers, strict=True) if s.unknown]:
        notes.append(
            f"the metric is not known of some runs, which are left out: {_listed(unknown)}\n"
            f"  hint: {_MORE}"
        )
    if mixed := unequal_settings(groups):
        notes.append(f"runs of a group differ in {', '.join(mixed)} as well")
    if any(len(group.runs) == 1 for group in groups):
        notes.append("a group of one run has no interval: train several seeds")
    elif min(len(group.runs) for group in groups) < _FEW:
        notes.append("intervals of two runs are very wide: train more seeds")
    return notes


def _listed(labels: Sequence[str]) -> str:
    """`lr=0.1, width=8; lr=0.1, width=16; …`: labels have commas of their own."""
    return "; ".join([*labels[:_SHOWN], *(["…"] if len(labels) > _SHOWN else [])])


def _warnings(
    runs: Sequence[Run], groups: Sequence[RunGroup], scorers: Sequence[Scorer]
) -> list[str]:
    said = []
    waiting = sum(run.status == "waiting" for run in runs)
    if waiting:
        verb = "is" if waiting == 1 else "are"
        said.append(f"{waiting} of {counted(len(runs), 'run')} {verb} not trained yet")
    lost = [g.label for g, s in zip(groups, scorers, strict=True) if s.lost]
    if lost:
        said.append(
            f"some runs diverged or failed ({_listed(lost)}): means are over the others, costs and "
            "rates count them as the worst"
        )
    return said
