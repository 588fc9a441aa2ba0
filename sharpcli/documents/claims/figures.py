"""What the figures of an experiment show: means over seeds with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sharpcli.documents.claims.experiment import FigurePlan
from sharpcli.documents.claims.runs import StageRuns, Trained, chosen, number_of, series_of
from sharpcli.documents.claims.statistics import Stages
from sharpcli.documents.reproductions import Figure, Series
from sharpcli.documents.scoring.statistics import interval_of_mean, mean
from sharpcli.errors import UsageError, did_you_mean

__all__ = ["FIGURES", "draw_plan"]

Arguments = Mapping[str, Any]
_MOST_POINTS = 200  # of a curve: more than a print tells apart


def draw_plan(plan: FigurePlan, stages: Stages) -> Figure:
    """What a figure shows; raises `UsageError` for an unknown kind or argument."""
    if plan.kind not in FIGURES:
        raise UsageError(
            f"figure {plan.kind}: {did_you_mean(plan.kind, FIGURES)}",
            f"kinds: {', '.join(FIGURES)}",
        )
    name = plan.arguments.get("stage", next(iter(stages)))
    try:
        return FIGURES[plan.kind](plan.title, stages[name], plan.arguments)
    except KeyError as error:
        raise UsageError(f"figure {plan.kind}: needs {error}", "add it to the figure") from error


def levels(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """`value` over the setting `over`, a series for each value of the setting `by`."""
    over, value = arguments["over"], arguments["value"]
    series = []
    for name, runs in _groups(stage, arguments):
        at: dict[float, list[float]] = {}
        for run in runs:
            x, y = number_of(run, f"setting.{over}"), number_of(run, value)
            if x is not None and y is not None:
                at.setdefault(x, []).append(y)
        series.append(_averaged(name, at, logarithmic=bool(arguments.get("y_log"))))
    return _figure(title, "points", over, value, arguments, series)


def courses(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """`value` over the steps of the training, a series for each value of the setting `by`."""
    value = arguments["value"]
    series = []
    for name, runs in _groups(stage, arguments):
        at: dict[float, list[float]] = {}
        for run in runs:
            for step, y in series_of(run, value):
                at.setdefault(step, []).append(y)
        # Runs that stop early leave steps that only some of them have.
        most = max(map(len, at.values()), default=0)
        whole = {step: ys for step, ys in at.items() if len(ys) == most}
        series.append(_averaged(name, _thinned(whole), bool(arguments.get("y_log"))))
    return _figure(title, "curves", "step", value, arguments, series)


def scatter(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """`value` against the value `other`, a point for each run."""
    value, other = arguments["value"], arguments["other"]
    series = []
    for name, runs in _groups(stage, arguments):
        pairs = [(number_of(run, other), number_of(run, value)) for run in runs]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        series.append(Series(name, [x for x, _ in known], [y for _, y in known]))
    return _figure(title, "scatter", other, value, arguments, series)


def lines(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """The loss, or the metric `metric`, on the lines between runs, for each split."""
    metric = arguments.get("metric", "loss")
    series = []
    for split in ("train", "test"):
        at: dict[float, list[float]] = {}
        for line in stage.lines:
            for x, y in zip(line.coordinates, line.curves[split][metric], strict=True):
                if y is not None:
                    at.setdefault(x, []).append(y)
        series.append(_averaged(split, at, bool(arguments.get("y_log"))))
    return _figure(title, "curves", "place on the line", metric, arguments, series)


FIGURES: dict[str, Callable[[str, StageRuns, Arguments], Figure]] = {
    each.__name__: each for each in (levels, courses, scatter, lines)
}


def _figure(
    title: str,
    style: Any,
    x_name: str,
    y_name: str,
    arguments: Arguments,
    series: Sequence[Series],
) -> Figure:
    return Figure(
        title=title,
        x_name=arguments.get("x_name", x_name),
        y_name=arguments.get("y_name", y_name),
        style=style,
        x_log=bool(arguments.get("x_log", False)),
        y_log=bool(arguments.get("y_log", False)),
        level=arguments.get("level"),
        series=[each for each in series if each.x],
    )


def _groups(stage: StageRuns, arguments: Arguments) -> list[tuple[str, list[Trained]]]:
    """The chosen runs by the settings `by`, with the names of the groups."""
    runs = chosen(stage, arguments.get("of", {}))
    keys = [arguments["by"]] if isinstance(arguments.get("by"), str) else arguments.get("by", [])
    groups: dict[tuple[Any, ...], list[Trained]] = {}
    for run in runs:
        groups.setdefault(tuple(run.setting(key) for key in keys), []).append(run)
    short = [key.rpartition(".")[2] for key in keys]
    return [
        (", ".join(f"{key} {_text(value)}" for key, value in zip(short, values, strict=True)), own)
        for values, own in sorted(groups.items(), key=lambda each: str(each[0]))
    ]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "–".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _averaged(name: str, at: Mapping[float, Sequence[float]], logarithmic: bool) -> Series:
    """Mean and interval at each x, of logarithms where the axis is logarithmic."""
    x: list[float] = []
    y: list[float] = []
    low: list[float] = []
    high: list[float] = []
    for place in sorted(at):
        values = list(at[place])
        if logarithmic:
            if min(values, default=0.0) <= 0:
                continue  # there is no such mean, and one of the others would be too high
            values = [math.log(each) for each in values]
        middle = mean(values)
        if middle is None:
            continue
        ends = interval_of_mean(values) or (middle, middle)
        found = [middle, *ends]
        if logarithmic:
            found = [math.exp(min(each, 700.0)) for each in found]
        x.append(place)
        for kept, each in zip((y, low, high), found, strict=True):
            kept.append(each)
    return Series(name, x, y, low, high)


def _thinned(at: Mapping[float, list[float]]) -> dict[float, list[float]]:
    """At most so many steps, evenly spaced; the last one stays."""
    steps = sorted(at)
    stride = -(-len(steps) // _MOST_POINTS)
    return {step: at[step] for step in {*steps[::stride], *steps[-1:]}} if steps else {}
