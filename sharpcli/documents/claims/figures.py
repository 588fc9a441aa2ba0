"""What the figures of an experiment show: means over seeds with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sharpcli.documents.claims.experiment import FigurePlan
from sharpcli.documents.claims.runs import StageRuns, Trained, chosen, number_of, series_of
from sharpcli.documents.claims.statistics import compute_statistic
from sharpcli.documents.claims.statistics.choices import best_settings
from sharpcli.documents.claims.statistics.courses import less
from sharpcli.documents.claims.statistics.per_seed import Stages
from sharpcli.documents.claims.statistics.slopes import slopes_by_seed
from sharpcli.documents.reproductions import Figure, Series
from sharpcli.documents.scoring.statistics import interval_of_mean, mean
from sharpcli.errors import UsageError, did_you_mean

__all__ = ["FIGURES", "draw_plan"]

Arguments = Mapping[str, Any]
_MOST_POINTS = 200  # of a curve: more than a print tells apart


def draw_plan(plan: FigurePlan, stages: Stages) -> Figure:
    """What a figure shows: of the stage `stage`, or of each of `stages` with its name.

    `names` has other names for stages and for groups of runs.

    Raises:
        UsageError: the kind or an argument does not exist.
    """
    if plan.kind not in FIGURES:
        raise UsageError(
            f"figure {plan.kind}: {did_you_mean(plan.kind, FIGURES)}",
            f"kinds: {', '.join(FIGURES)}",
        )
    names = plan.arguments.get("stages", [plan.arguments.get("stage", next(iter(stages)))])
    shown = plan.arguments.get("names", {})
    try:
        arguments = dict(plan.arguments)
        for key in ("minus", "against"):
            if key in arguments:
                arguments[key] = stages[arguments[key]]
        drawn = [FIGURES[plan.kind](plan.title, stages[name], arguments) for name in names]
        if "stages" not in plan.arguments:
            return drawn[0]
        series = [
            replace(each, name=", ".join(filter(None, (shown.get(name, name), each.name))))
            for name, figure in zip(names, drawn, strict=True)
            for each in figure.series
        ]
        return replace(drawn[0], series=series)
    except KeyError as error:
        raise UsageError(f"figure {plan.kind}: needs {error}", "add it to the figure") from error


def levels(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """`value` over the setting `over`, or over `updates`; a series for each value of `by`."""
    over, value = arguments["over"], arguments["value"]
    series = []
    for name, runs in _groups(stage, arguments):
        at: dict[float, list[float]] = {}
        for run in runs:
            x = number_of(run, over if over == "updates" else f"setting.{over}")
            y = number_of(run, value)
            if x is not None and y is not None:
                at.setdefault(x, []).append(y)
        series.append(_averaged(name, at, logarithmic=bool(arguments.get("y_log"))))
    return _figure(title, "points", over, value, arguments, series)


def slopes(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """The slope of `value` for each doubling of the setting `over`, at each value of `along`.

    With `log` it is log2 of the value that rises. Every table of `of` is a series: its `name`, the
    settings of its runs and, where it is not that of all, its `over`.
    """
    along, series = arguments["along"], []
    for each in arguments["of"]:
        where = {key: value for key, value in each.items() if key != "name"}
        asked = {**arguments, "over": each.get("over", arguments.get("over"))}
        where.pop("over", None)
        at = {
            float(place): [*slopes_by_seed(stage, {**where, along: place}, asked).values()]
            for place in sorted({run.setting(along) for run in chosen(stage, where)})
        }
        series.append(_averaged(each["name"], at, logarithmic=False))
    return _figure(title, "points", along, f"slope of {arguments['value']}", arguments, series)


def courses(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """`value` over the steps of the training, a series for each value of the setting `by`.

    With `tuned` the runs of a series have the values of these settings that end best. With `minus`
    it is the difference from the runs of that stage with the same settings. `since` is the first
    step that is shown.
    """
    value = arguments["value"]
    others = dict(_groups(arguments["minus"], arguments)) if "minus" in arguments else None
    series = []
    for name, runs in _groups(stage, arguments):
        at: dict[float, list[float]] = {}
        for run in runs:
            curve = series_of(run, value)
            if others is not None:
                same = [each for each in others.get(name, ()) if each.seed == run.seed]
                curve = less(curve, series_of(same[0], value)) if same else []
            for step, y in curve:
                if step < arguments.get("since", 0):
                    continue
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


def across(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """Means of `value` over those in the stage `against`, a point for each setting `over`.

    There is a series for each value of the setting `by`.
    """
    value, over, series = arguments["value"], arguments["over"], []
    others = dict(_groups(arguments["against"], arguments))
    for name, runs in _groups(stage, arguments):
        places, at = _by(others.get(name, ()), over, value), {}
        for key, ys in _by(runs, over, value).items():
            place = mean(places.get(key, ()))
            if place is not None:
                at[place] = ys
        series.append(_averaged(name, at, logarithmic=bool(arguments.get("y_log"))))
    return _figure(title, "points", f"{value}, {over}", value, arguments, series)


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


def rows(title: str, stage: StageRuns, arguments: Arguments) -> Figure:
    """A statistic of each of `values`, a row each, with its interval over seeds.

    `values` names the rows and says which number each is of. `statistic` has the other arguments.
    """
    series = []
    statistic = arguments.get("statistic", "value")
    for name, value in arguments["values"].items():
        found = compute_statistic(statistic, {stage.name: stage}, {**arguments, "value": value})
        own = list(found.values.values())
        middle = mean(own)
        if middle is None:
            continue
        ends = [middle, *(interval_of_mean(own) or (middle, middle))]
        y, low, high = (math.exp(min(x, 700.0)) if found.logarithmic else x for x in ends)
        series.append(Series(name, [0.0], [y], [low], [high]))
    return _figure(title, "rows", statistic, "", arguments, series)


FIGURES: dict[str, Callable[[str, StageRuns, Arguments], Figure]] = {
    each.__name__: each for each in (levels, slopes, courses, scatter, across, lines, rows)
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
    if "tuned" in arguments:
        by = arguments.get("tuned_by", arguments["value"])
        groups = {key: best_settings(own, arguments["tuned"], by) for key, own in groups.items()}
    short = [key.rpartition(".")[2].replace("_", " ") for key in keys]
    found = []
    for values, own in sorted(groups.items(), key=lambda each: [*map(_place, each[0])]):
        name = ", ".join(f"{key} {_text(each)}" for key, each in zip(short, values, strict=True))
        said = ", ".join(map(str, values))
        found.append((arguments.get("names", {}).get(said, name), own))
    return found


def _by(runs: Sequence[Trained], key: str, value: str) -> dict[Any, list[float]]:
    """The numbers of the runs by a setting."""
    found: dict[Any, list[float]] = {}
    for run in runs:
        number = number_of(run, value)
        if number is not None:
            found.setdefault(run.setting(key), []).append(number)
    return found


def _place(value: Any) -> tuple[bool, float, str]:
    """Numbers in their order, then all else."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


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
