"""Grow one shared sample until the order of all checkpoints is decided."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sharpcli.documents.contrast import LEVEL
from sharpcli.documents.decision import Decider, Decision, Full, Look, looks_to
from sharpcli.documents.labels import short_labels
from sharpcli.documents.pairing import Pair, different_data, measured
from sharpcli.documents.results import CheckpointResult
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import UsageError, counted, did_you_mean, setting
from sharpcli.measures import Measure, known_measures, measure_of
from sharpcli.measures.columns import leading_names, sharper_if_larger
from sharpcli.runs.failures import each_checkpoint
from sharpcli.runtime.progress import Notes
from sharpcli.settings.measuring import MeasureSettings, RunSettings

__all__ = [
    "FIRST",
    "Asked",
    "Decided",
    "asked_for",
    "baseline_of",
    "check",
    "decide",
    "with_others",
]

# Size of the first sample: the smallest power of two whose sampling errors can be trusted, since
# smaller ones often miss kinds of example that make up a percent or two.
FIRST = 256
# Eigenvalues are needed to a tenth of the interval's width from the sample, and to 2 % at first.
_TENTH, _ROUGH = 0.1, 0.02


class MeasureOne(Protocol):
    """Measures one checkpoint on a sample, and adds facts about it to `about`."""

    def __call__(
        self,
        path: Path,
        about: dict[str, Any],
        samples: int,
        measures: Sequence[Measure],
        settings: MeasureSettings,
        *,
        lowest: bool,
    ) -> CheckpointResult:
        """Measure."""


@dataclass(frozen=True)
class Asked:
    """What the order goes by: a measure, and the flat key of its number (None: its leading one)."""

    measure: Measure
    key: str | None

    def light(self, settings: MeasureSettings, tolerance: float) -> MeasureSettings:
        """The settings that give this number and no more, to a relative `tolerance`."""
        if self.measure.name != "hessian":
            return settings
        eigenvalue = re.fullmatch(r"hessian\.eigenvalues\[(\d+)\]", self.key or "")
        top = int(eigenvalue[1]) + 1 if eigenvalue else 1
        top = 5 if self.key == "hessian.ratio_1_5" else top
        return replace(settings, top=top, tol=max(settings.tol, tolerance))

    @property
    def lowest(self) -> bool:
        """Whether the smallest eigenvalue is needed."""
        return self.key == "hessian.smallest"

    def found_in(self, scalars: Mapping[str, Any], split: str) -> str:
        """The flat key of the number; raises `UsageError` if the measure has none of that name."""
        others = tuple(f".{other}" for other in ("train", "test") if other != split)
        if self.key is None:
            leading = [each for each in leading_names(scalars) if not each.endswith(others)]
            return next(iter([*leading, *scalars]))
        if self.key not in scalars:
            raise UsageError(
                f"{setting('decide', self.key)}: {self.measure.name} gives no such number",
                did_you_mean(self.key, scalars),
            )
        return self.key


@dataclass(frozen=True)
class Decided:
    """The results of a growth: each checkpoint's last one, the decision, and the pairs."""

    results: Sequence[CheckpointResult]
    decision: Decision | None = None
    pairs: Sequence[Pair] = ()


def asked_for(text: str) -> Asked:
    """The measure and the number called `text`: a measure's name, or a flat key.

    Raises:
        UsageError: if there is no such measure.
    """
    measure = measure_of(text)
    if measure is None:
        raise UsageError(
            f"{setting('decide', text)}: there is no such measure or number",
            f"{did_you_mean(text, known_measures())}; a number is given by its key, such as "
            "loss.gap or hessian.eigenvalues[1]",
        )
    if text not in (measure.name, measure.key):
        return Asked(measure, text)
    return Asked(measure, "hessian.eigenvalues[0]" if measure.name == "hessian" else None)


def baseline_of(text: str | None, paths: Sequence[str | Path]) -> int | None:
    """The index of the checkpoint with this path or short label.

    Raises:
        UsageError: if there is none, or more than one.
    """
    if text is None:
        return None
    given = [str(path) for path in paths]
    labels = short_labels(given)
    matching = [index for index, path in enumerate(given) if text in (path, labels[index])]
    if len(matching) == 1:
        return matching[0]
    found = f"matches {len(matching)} checkpoints" if matching else "matches no checkpoint"
    raise UsageError(
        f"{setting('baseline', text)}: {found}", f"name one of them: {', '.join(labels)}"
    )


def check(paths: Sequence[str | Path], run: RunSettings, settings: MeasureSettings) -> None:
    """Refuse what no order can be decided for; raises `UsageError`."""
    if settings.decide is None:
        return
    asked = setting("decide", settings.decide)
    if len(paths) < 2:
        raise UsageError(
            f"{asked}: there is one checkpoint only", "name the checkpoints to compare it with"
        )
    if run.split == "both":
        raise UsageError(
            f"{asked} and {setting('split', run.split)}: one split decides",
            f"give {setting('split', 'train')} or {setting('split', 'test')}",
        )
    if run.fixed_batch is not None:
        raise UsageError(
            f"{asked} and {setting('fixed_batch', run.fixed_batch)}: the sampling error of a loss "
            "that couples the examples of a batch is not known",
            f"leave out {setting('decide')}: all examples are measured then",
        )


def decide(
    paths: Sequence[str | Path],
    asked: Asked,
    run: RunSettings,
    settings: MeasureSettings,
    measure: MeasureOne,
    failed: Callable[..., CheckpointResult],
    notes: Notes,
) -> Decided:
    """Measure the number on samples that double, until the order is decided or the data end.

    A checkpoint whose pairs are all decided is not measured again. Ctrl-C ends the growth and keeps
    the last finished sample.

    Cost: at most twice that of the last sample.
    """
    growth = _Growth(paths, asked, run, settings, notes)
    while growth.going:
        growth.look(measure, failed)
    return growth.decided()


def with_others(
    decided: Decided,
    asked: Asked,
    paths: Sequence[str | Path],
    measures: Sequence[Measure],
    settings: MeasureSettings,
    measure: MeasureOne,
    failed: Callable[..., CheckpointResult],
) -> Decided:
    """The results with all measures that are asked for, on the sample that decided.

    What decided stays beside them. A checkpoint that was decided on a smaller sample is measured
    again. Where Ctrl-C comes before, a checkpoint keeps what decided.
    """
    decision = decided.decision
    if decision is None or decision.interrupted:
        return decided
    samples = decision.examples
    beside = [asked.measure] if asked.measure not in measures else []
    light = asked.light(settings, _ROUGH) if beside else settings
    sound = [each.status == Outcome.OK for each in decided.results]
    earlier = {
        Path(path)
        for path, each in zip(paths, decided.results, strict=True)
        if each.checkpoint.get("examples") != samples
    }

    def work(path: Path, about: dict[str, Any]) -> CheckpointResult:
        every = [*(beside if path in earlier else ()), *measures]
        return measure(path, about, samples, every, light, lowest=not beside or asked.lowest)

    chosen = [path for path, fine in zip(paths, sound, strict=True) if fine]
    found = iter(each_checkpoint(chosen, work, failed))
    results = [
        _joined(before, next(found)) if fine else before
        for before, fine in zip(decided.results, sound, strict=True)
    ]
    stopped = any(each in decided.results for each in results if each.status == Outcome.OK)
    return replace(
        decided, results=results, decision=replace(decision, interrupted=stopped or None)
    )


def _joined(before: CheckpointResult, found: CheckpointResult) -> CheckpointResult:
    """The measures of both on one sample, those of `found` first."""
    if _interrupted(found):
        return before
    if found.status != Outcome.OK:
        return found
    same = before.checkpoint.get("examples") == found.checkpoint.get("examples")
    others = before.measures if same else {}
    return replace(found, measures={**others, **found.measures})


def _interrupted(result: CheckpointResult) -> bool:
    return result.error is not None and result.error.kind == Outcome.INTERRUPTED


class _Growth:
    """The samples so far."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        asked: Asked,
        run: RunSettings,
        settings: MeasureSettings,
        notes: Notes,
    ) -> None:
        self._paths, self._asked, self._run = paths, asked, run
        self._settings, self._notes = settings, notes
        self._baseline = baseline_of(settings.baseline, paths)
        self._results: dict[int, CheckpointResult] = {}
        self._decider: Decider | None = None
        self._looks: list[Look] = []
        self._costs: list[_Cost] = []
        self._count = run.samples or FIRST
        self._first, self._used, self._total = self._count, self._count, 0
        self._tolerance = _ROUGH
        self._interrupted = False
        self.going = True

    def look(self, measure: MeasureOne, failed: Callable[..., CheckpointResult]) -> None:
        """Measure the checkpoints of open pairs on one sample, and compare them."""
        asked, count, started = self._asked, self._count, time.perf_counter()
        settings = asked.light(self._settings, self._tolerance)
        now = sorted(self._decider.needed) if self._decider else [*range(len(self._paths))]

        def work(path: Path, about: dict[str, Any]) -> CheckpointResult:
            return measure(path, about, count, [asked.measure], settings, lowest=asked.lowest)

        made = each_checkpoint([self._paths[index] for index in now], work, failed)
        found = dict(zip(now, made, strict=True))
        stopped = any(map(_interrupted, found.values()))
        self._results = {**found, **self._results} if stopped else {**self._results, **found}
        if stopped:
            self.going, self._interrupted = False, self._decider is not None
            return
        sound = {i: each for i, each in found.items() if each.status == Outcome.OK}
        self._used = max((each.checkpoint["examples"] for each in sound.values()), default=count)
        totals = (each.checkpoint.get("examples_in_all") for each in sound.values())
        self._total = max((total for total in totals if total), default=self._used)
        known = {i: measured(vars(each)) for i, each in sound.items()}
        if said := different_data([*known.values()]):
            raise UsageError(
                f"{setting('decide')}: no order: the checkpoints were {said}",
                "give these options for all checkpoints, or measure without deciding",
            )
        if self._decider is None:
            if len(sound) < 2:
                self.going = False
                return
            self._decider = self._started(known)
        decider = self._decider
        decider.leave_out(set(found) - set(sound))
        if not sound:
            self.going = False
            return
        looks = looks_to(self._first, self._total)
        level, pairs = decider.look(known, len(self._looks) + 1, looks)
        spent = time.perf_counter() - started
        cost = _cost(self._used, [*sound.values()], asked.measure.key, spent)
        self._costs.append(cost)
        self._looks.append(Look(self._used, level, pairs, spent, cost.products or None))
        self.going = bool(decider.open) and self._used < self._total
        self._grow(pairs)

    def decided(self) -> Decided:
        """The results, and the decision if there were two checkpoints to compare."""
        results = [self._results[index] for index in range(len(self._paths))]
        decider = self._decider
        if decider is None or not decider.chosen or not self._looks:
            if not any(map(_interrupted, results)):
                self._notes.note(f"{setting('decide')}: no order, {self._lacking(results)}")
            return Decided(results)
        order = decider.order
        products = sum(look.products or 0 for look in self._looks)
        full = _full(self._costs, self._total)
        share = None
        if full.products and products:
            passes = sum(look.examples * (look.products or 0) for look in self._looks)
            share = passes / (full.products * self._total)
        decision = Decision(
            decider.key,
            LEVEL,
            decided=not decider.open,
            order=None if order is None else [str(self._paths[index]) for index in order],
            examples=self._used,
            examples_in_all=self._total,
            looks=self._looks,
            seconds=sum(look.seconds for look in self._looks),
            products=products or None,
            share=share,
            full=full,
            interrupted=self._interrupted or None,
        )
        return Decided(results, decision, decider.pairs)

    def _lacking(self, results: Sequence[CheckpointResult]) -> str:
        sound = [each.status == Outcome.OK for each in results]
        if self._baseline is not None and not sound[self._baseline]:
            return "because the baseline could not be measured"
        return f"because only {sum(sound)} of {len(sound)} checkpoints could be measured"

    def _started(self, known: Mapping[int, Any]) -> Decider:
        scalars = [each.scalars for each in known.values()]
        shared = {key: each for key, each in scalars[0].items() if all(key in x for x in scalars)}
        key, measure = self._asked.found_in(shared, self._run.split), self._asked.measure
        return Decider(
            key,
            len(self._paths),
            larger_is_sharper=sharper_if_larger([key])[key],
            baseline=self._baseline,
            exact={measure.key: measure.of_data} if measure.exact else {},
        )

    def _grow(self, pairs: Sequence[Pair]) -> None:
        """Choose the next sample, and say how far the order is known."""
        decider = self._decider
        if decider is None or not decider.open:
            return
        self._count *= 2
        last = self._count >= self._total
        widths = [width for width in map(_width, pairs) if width is not None]
        self._tolerance = 0.0 if last else min(_ROUGH, _TENTH * min(widths, default=_ROUGH))
        if not self.going:
            return
        more = "all" if last else f"{self._count:,}"
        in_all = counted(self._total, "example")
        self._notes.note(f"{self._used:,} of {in_all}: {self._said(pairs)}; trying {more}")

    def _said(self, pairs: Sequence[Pair]) -> str:
        """The open pair that is farthest from a verdict."""
        decider = self._decider
        if decider is None:
            return ""
        closest = min((each for each in pairs if each.verdict == "undecided"), key=_distance)
        paths = list(dict.fromkeys(map(str, self._paths)))
        names = dict(zip(paths, short_labels(paths), strict=True))
        title = leading_names([decider.key]).get(decider.key, decider.key)
        done, every = len(decider.chosen) - len(decider.open), len(decider.chosen)
        said = f"{title} of {names[closest.a]}"
        if closest.ratio.value is not None and closest.ratio.interval is not None:
            low, high = closest.ratio.interval
            said += (
                f" is {closest.ratio.value:.4g} [{low:.4g}, {high:.4g}] × that of "
                f"{names[closest.b]}"
            )
        else:
            said += f" and {names[closest.b]} undecided"
        if closest.reason is not None:
            said += f" ({closest.reason})"
        return said if every == 1 else f"{done} of {every} pairs decided, the closest: {said}"


@dataclass(frozen=True)
class _Cost:
    """What the checkpoints of one look took: `measuring` is the part of the measure itself."""

    examples: int
    checkpoints: int
    seconds: float
    measuring: float
    products: int


def _cost(examples: int, results: Sequence[CheckpointResult], key: str, seconds: float) -> _Cost:
    """The cost of the results of one look, which took `seconds` in all."""
    numbers = [result.measures.get(key) for result in results]
    known = [each for each in numbers if isinstance(each, Mapping)]
    measuring = sum(float(each.get("seconds") or 0.0) for each in known)
    products = sum(int(each.get("products") or 0) for each in known)
    return _Cost(examples, len(results), seconds, measuring or seconds, products)


def _full(costs: Sequence[_Cost], total: int) -> Full:
    """What all data would have taken.

    The time of the measure is a line in the number of examples through the first and the last
    sample, or through zero and the only one; all else, such as reading the data, is as at first.
    """
    first, last = costs[0], costs[-1]
    before, after = first.measuring / first.checkpoints, last.measuring / last.checkpoints
    longer = last.examples - first.examples
    slope = max(0.0, (after - before) / longer if longer else after / last.examples)
    each = after + slope * (total - last.examples)
    return Full(
        total,
        first.seconds - first.measuring + first.checkpoints * each,
        round(first.checkpoints * last.products / last.checkpoints) or None,
    )


def _distance(pair: Pair) -> float:
    """How many standard errors a ratio is from 1."""
    if pair.ratio.value is None or pair.ratio.value <= 0 or not pair.log_error:
        return 0.0
    return abs(math.log(pair.ratio.value)) / pair.log_error


def _width(pair: Pair) -> float | None:
    """Half the width of an undecided pair's interval, as a share."""
    if pair.verdict != "undecided" or pair.ratio.interval is None or not pair.ratio.value:
        return None
    low, high = pair.ratio.interval
    return abs((high - low) / 2 / pair.ratio.value)
