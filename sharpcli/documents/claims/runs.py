"""The runs of a stage, and the numbers that claims are about."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharpcli.documents.results import Document
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.scoring.runs import Run, runs_of_sweep
from sharpcli.documents.scoring.statistics import median
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import UsageError

__all__ = [
    "Lines",
    "StageRuns",
    "Trained",
    "by_seed",
    "chosen",
    "number_of",
    "read_stage",
    "series_of",
]

_POLICY = re.compile(r"([A-Za-z][\w-]*)\(")
_PLACES = {"smallest": 0, "second smallest": 1, "largest": -1}
_SPLITS = ("train", "test")
_OF_BETAS = re.compile("(beta|memory)([1-9])")
_STEP = re.compile(r"step-(\d+)\.safetensors$")


@dataclass(frozen=True)
class Trained:
    """One run of a sweep: its settings, its course, and what was measured.

    A run that ended without weights has no numbers, but it counts as one that was asked for: what
    diverges is no accident, and the others alone could flatter a claim.

    `distances` are from the path of another run, as (step, distance).
    """

    run: Run
    measures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tracked: Sequence[Mapping[str, Any]] = ()
    updates: int | None = None
    distances: Sequence[tuple[float, float]] = ()
    rescaled: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def seed(self) -> Any:
        """The seed of weights and batches."""
        return self.run.seed

    @property
    def is_lost(self) -> bool:
        """Whether it ended without weights."""
        return self.run.status != "ok"

    def setting(self, key: str) -> Any:
        """A setting by the key of a sweep file, such as `lr`, `betas` or `options.width`.

        `beta1` and `beta2` are those of `betas`; `memory1` and `memory2` are 1/(1 − β), in steps.
        `policy` is that of the schedule, without its numbers: `TRI2`, or `warmup + cosine`.
        `init.step` is the step of the saved path that a run started from.
        """
        if key == "policy":
            spec = self.run.settings.get("schedule")
            return None if spec is None else " + ".join(_POLICY.findall(spec))
        if key == "init.step":
            step = _STEP.search(str(self.run.settings.get("init")))
            return int(step[1]) if step else None
        if (found := _OF_BETAS.fullmatch(key)) is None:
            return self.run.settings.get(key)
        betas = self.run.settings.get("betas")
        if betas is None or len(betas) < int(found[2]):
            return None
        beta = betas[int(found[2]) - 1]
        return beta if found[1] == "beta" else round(1 / (1 - beta), 6)


@dataclass(frozen=True)
class Lines:
    """The line between two runs of one seed."""

    seed: Any
    coordinates: Sequence[float]
    curves: Mapping[str, Mapping[str, Sequence[float | None]]]


@dataclass(frozen=True)
class StageRuns:
    """What a stage left: its runs, or its lines.

    `without_line` are seeds that have none because a run at its end is lost.
    """

    name: str
    runs: Sequence[Trained] = ()
    lines: Sequence[Lines] = ()
    without_line: Sequence[Any] = ()

    @property
    def seeds(self) -> list[Any]:
        """The seeds that were asked for, in order."""
        of_runs = {each.seed for each in self.runs}
        of_lines = {each.seed for each in self.lines}
        return sorted(of_runs | of_lines | {*self.without_line})

    @property
    def lost(self) -> dict[str, str]:
        """The runs that ended without weights, by name, and how they ended."""
        return {each.run.name: each.run.status for each in self.runs if each.is_lost}


def read_stage(
    name: str, sweep: Document, curves: Mapping[str, Document], measured: Document | None
) -> StageRuns:
    """The runs of a sweep's documents."""
    by_sha = {
        each["checkpoint"].get("sha256"): each
        for each in (measured or {"results": ()})["results"]
        if each["status"] == Outcome.OK
    }
    runs = []
    states = {result["run"]: result for result in sweep["results"]}
    for run in runs_of_sweep(sweep, curves, measured):
        if run.status != "ok":
            runs.append(Trained(run))
            continue
        own = curves.get(run.name)
        tracked = own["results"][0].get("tracked", ()) if own and own["results"] else ()
        found = by_sha.get(run.sha256, {"measures": {}})
        rescaled = {each["measure"]: each for each in found.get("rescaled", ())}
        measures, steps = flat_scalars(found["measures"]), states[run.name].get("steps")
        runs.append(Trained(run, measures, tracked, steps, rescaled=rescaled))
    return StageRuns(name, runs)


def chosen(stage: StageRuns, where: Mapping[str, Any]) -> list[Trained]:
    """The runs with these settings, also those that are lost.

    `"smallest"`, `"second smallest"` and `"largest"` are of all values that the stage asks for.

    Raises:
        UsageError: no run has them.
    """
    found = list(stage.runs)
    for key, asked in where.items():
        value = asked
        if isinstance(asked, str) and asked in _PLACES:
            values = {each.setting(key) for each in stage.runs} - {None}
            if len(values) <= max(_PLACES[asked], 0):
                raise UsageError(
                    f"stage {stage.name}: no run has the {asked} {key}", "name another setting"
                )
            value = sorted(values)[_PLACES[asked]]
        found = [each for each in found if _same(each.setting(key), value)]
    if not found:
        said = ", ".join(f"{key} = {value}" for key, value in where.items())
        raise UsageError(f"stage {stage.name}: no run has {said}", "change the claim or the sweep")
    return found


def number_of(run: Trained, value: str) -> float | None:
    """A number of a run; None where it has none. A lost run has only its settings.

    `test.accuracy`, `train.loss`: at the end. `gap.loss`: the test value minus the training value.
    `updates`: steps taken. `setting.lr`: a setting. `tracked.KEY`: the median over the last half of
    what was tracked; `tracked.KEY/threshold`: as a share of the stability threshold there.
    `distance`: from the path of another run, in a stage of distances; the median over the last
    half. `rescaled.KEY`: the factor, 1 or more, by which a measure moves up or down if hidden units
    are rescaled (`rescale_check`). Any other is a measure's flat key, such as
    `hessian.eigenvalues[0]`.
    """
    head, _, rest = value.partition(".")
    if run.is_lost and head != "setting":
        return None
    if head in _SPLITS and rest:
        return _finite(run.run.final(head, rest))
    if head == "gap" and rest:
        ends = [run.run.final(split, rest) for split in _SPLITS]
        return None if None in ends else _finite(ends[1] - ends[0])  # type: ignore[operator]
    if value == "updates":
        return None if run.updates is None else float(run.updates)
    if head == "setting":
        return _finite(run.setting(rest))
    if head in ("tracked", "distance"):
        known = [y for _, y in series_of(run, value)]
        return median(known[len(known) // 2 :]) if known else None
    if head == "rescaled":
        return _factor(run.rescaled.get(rest, {}))
    return _finite(run.measures.get(value, {}).get("value"))


def series_of(run: Trained, value: str) -> list[tuple[float, float]]:
    """A number along a training, as (step, value).

    `test.loss`, `train.accuracy`, `tracked.KEY`, `distance`.
    """
    head, _, rest = value.partition(".")
    if run.is_lost:
        return []
    if head == "distance":
        return [*run.distances]
    if head == "tracked":
        key, _, relative = rest.partition("/")
        points = []
        for each in run.tracked:
            found = _finite(flat_scalars(each["measures"]).get(key, {}).get("value"))
            threshold = (each.get("threshold") or {}).get("value") if relative else 1.0
            if found is not None and threshold:
                points.append((float(each["step"]), found / threshold))
        return points
    curve = run.run.curve(head, rest) or ()
    steps = (run.run.evaluations or {}).get("step", ())
    return [
        (float(step), y)
        for step, each in zip(steps, curve, strict=False)
        if (y := _finite(each)) is not None
    ]


def by_seed(runs: Sequence[Trained]) -> dict[Any, list[Trained]]:
    """The runs of each seed."""
    found: dict[Any, list[Trained]] = {}
    for run in runs:
        found.setdefault(run.seed, []).append(run)
    return found


def _factor(moved: Mapping[str, Any]) -> float | None:
    """The factor by which a number moved, up or down; None where its sign changes."""
    before, after = _finite(moved.get("before")), _finite(moved.get("after"))
    if before is None or after is None or before * after <= 0:
        return None
    return max(after / before, before / after)


def _same(a: Any, b: Any) -> bool:
    if isinstance(b, list):
        b = tuple(b)
    if isinstance(a, str) and not isinstance(b, str):  # options of a task are text
        return a == (str(b).lower() if isinstance(b, bool) else str(b))
    return bool(a == b)


def _finite(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None
