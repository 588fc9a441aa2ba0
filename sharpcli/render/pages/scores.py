"""A `compare` document with scores: a chart of the groups' curves, and tables of their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from sharpcli.documents.labels import clean
from sharpcli.documents.scoring.groups import as_label
from sharpcli.errors import SharpError, setting
from sharpcli.render.numbers import format_number, format_uncertain
from sharpcli.render.pages.comparison import compare_page
from sharpcli.render.pages.context import task_name
from sharpcli.render.terminal.chart import Chart, Dash, Series, chart_lines
from sharpcli.render.terminal.table import Column, Page, Row, Sheet, page_lines

__all__ = ["DrawnBand", "DrawnScores", "comparison_lines", "comparison_page", "read_bands"]

OVER = {"steps": "step", "epochs": "epoch", "seconds": "second"}
_STYLES: tuple[tuple[str, Dash], ...] = (
    ("cyan", "solid"),
    ("magenta", "dashed"),
    ("green", "dotted"),
    ("yellow", "dash-dotted"),
)
_HEIGHT = 12
_COSTS = ("steps", "epochs", "seconds")


@dataclass(frozen=True)
class DrawnBand:
    """The median and the quartiles of one group, and how many runs they are of."""

    name: str
    x: Sequence[float]
    median: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]
    runs: int


@dataclass(frozen=True)
class DrawnScores:
    """The curves of all groups; `target` is a value to mark."""

    quantity: str
    metric: str
    over: str
    bands: Sequence[DrawnBand]
    target: float | None


def comparison_page(document: Mapping[str, Any]) -> Page:
    """The page of any `compare` document."""
    return _score_page(document) if _has_scores(document) else compare_page(document)


def comparison_lines(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """The same for a terminal, with a chart of the medians where there are scores."""
    page = comparison_page(document)
    if _has_scores(document):
        drawn = _drawn(document)
        sign = 1 if document["settings"]["score"]["lower_is_better"] else -1
        shown = sorted(drawn.bands, key=lambda band: sign * band.median[-1])[: len(_STYLES)]
        if shown:
            title = f"{drawn.quantity}, the median of each group"
            if len(shown) < len(drawn.bands):
                title += f" (the best {len(shown)} of {len(drawn.bands)})"
            series = [
                Series(each.name, each.x, each.median, *style)
                for each, style in zip(shown, _STYLES, strict=False)
            ]
            yield from chart_lines(Chart(title, series, x_name=OVER[drawn.over]), width, _HEIGHT)
            yield Text()
    yield from page_lines(page, width)


def read_bands(document: Mapping[str, Any]) -> DrawnScores:
    """What is drawn of a `compare` document.

    Raises:
        SharpError: it has no scores, or no curve.
    """
    if not _has_scores(document):
        raise SharpError(
            "a comparison without scores has no figure", f"add {setting('score', True)}"
        )
    drawn = _drawn(document)
    if not drawn.bands:
        raise SharpError(
            f"no run has a curve of {drawn.quantity} over {drawn.over}",
            f"train with {setting('evaluate_every', 'epoch')}",
        )
    return drawn


def _has_scores(document: Mapping[str, Any]) -> bool:
    return bool(document["settings"].get("score"))


def _drawn(document: Mapping[str, Any]) -> DrawnScores:
    asked = document["settings"]["score"]
    bands = []
    for result in document["results"]:
        curve = result["scores"].get("curve")
        if curve and curve[asked["over"]]:
            x, median, lower, upper = (
                [float(value) for value in curve[key]]
                for key in (asked["over"], "median", "lower", "upper")
            )
            band = DrawnBand(result["label"], x, median, lower, upper, max(curve["n"]))
            bands.append(band)
    reached = [r["scores"].get("to_target") for r in document["results"]]
    target = asked["target"] if any(reached) else None
    return DrawnScores(_quantity(asked), asked["metric"], asked["over"], bands, target)


def _quantity(asked: Mapping[str, Any]) -> str:
    return f"{clean(asked['metric'])} ({asked['split']})"


def _score_page(document: Mapping[str, Any]) -> Page:
    """Tables of utility, cost and robustness, as far as each is known."""
    results, asked = document["results"], document["settings"]["score"]
    scores = [result["scores"] for result in results]
    caption = _caption(results)
    rows = [Row(_name(result, caption)) for result in results]
    better = "lower" if asked["lower_is_better"] else "higher"
    title = f"{_quantity(asked)}, {better} is better"
    sheets = [Sheet(rows, _utility(scores), title, caption)]
    if any(each.get("to_best") for each in scores):
        title = "cost, the median over the runs"
        if asked["target"] is not None:
            title = f"cost of reaching {format_number(asked['target'])}, the median over the runs"
        sheets.append(Sheet(rows, _costs(scores), title, caption))
    rates = {s["over_rates"]["family"]: s["over_rates"] for s in scores if s.get("over_rates")}
    if rates:
        sheets.append(_rates(list(rates.values())))
    name = task_name(document["task"])
    return Page([name] if name else [], sheets, (), _legend(asked, sheets, scores))


def _caption(results: Sequence[Mapping[str, Any]]) -> str:
    """The setting that varies, if it is only one."""
    keys = list(dict.fromkeys(key for result in results for key in result["group"]))
    return clean(keys[0]) if len(keys) == 1 else "group"


def _name(result: Mapping[str, Any], caption: str) -> str:
    if caption in result["group"]:
        value = result["group"][caption]
        return "–" if value is None else as_label(value)
    return str(result["label"])


def _utility(scores: Sequence[Mapping[str, Any]]) -> list[Column]:
    finals = [each["final"] for each in scores]
    columns = [
        Column("runs", [_runs(each["runs"]) for each in scores]),
        Column("final", [_mean(each) for each in finals]),
        Column("interval", [_interval(each["interval"]) for each in finals]),
        Column("worst", [_number((each.get("over_seeds") or {}).get("worst")) for each in scores]),
    ]
    if any(each.get("best") for each in scores):
        columns.append(Column("best", [_mean(each.get("best")) for each in scores]))
    if any(each.get("gap") for each in scores):
        columns.append(Column("gap", [_mean(each.get("gap")) for each in scores]))
    return columns


def _costs(scores: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The cost of the target, and the steps to a run's own best."""
    columns = []
    if any(each.get("to_target") for each in scores):
        costs = [each.get("to_target") for each in scores]
        reached = [f"{c['reached']} of {c['n']}" if c else "–" for c in costs]
        columns.append(Column("reached", reached))
        columns += [Column(key, [_cost(c and c.get(key)) for c in costs]) for key in _COSTS]
    bests = [each.get("to_best") for each in scores]
    columns.append(Column("best at", [_cost(c and c.get("steps")) for c in bests]))
    return columns


def _rates(families: Sequence[Mapping[str, Any]]) -> Sheet:
    columns = [
        Column("tried", [str(each["tried"]) for each in families]),
        Column("near", [f"{each['near']} of {each['tried']}" for each in families]),
        Column("best", [_number(each["best"]) for each in families]),
        Column("worst", [_number(each["worst"], "failed") for each in families]),
    ]
    rows = [Row(each["family"]) for each in families]
    return Sheet(rows, columns, "final value over learning rates, medians", "family")


def _runs(counts: Mapping[str, Any]) -> str:
    if counts["trained"] == counts["all"]:
        return str(counts["all"])
    return f"{counts['trained']} of {counts['all']}"


def _mean(utility: Mapping[str, Any] | None) -> str:
    """Mean ± standard deviation; the number alone for one run."""
    if not utility or utility["mean"] is None:
        return "–"
    values = utility["values"]
    if len(values) < 2:
        return format_number(utility["mean"])
    mean = utility["mean"]
    spread = math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)
    return format_uncertain(mean, None, spread or None)


def _interval(interval: Sequence[float] | None) -> str:
    """Both ends, with two digits of their distance."""
    if interval is None:
        return "–"
    low, high = interval
    if low == high:
        return format_number(low)
    places = max(0, 1 - math.floor(math.log10(high - low)))
    if places > _MOST_PLACES:
        return f"{format_number(low)} to {format_number(high)}"
    between = "–" if low > 0 else " to "
    return f"{low:.{places}f}{between}{high:.{places}f}"


_MOST_PLACES = 6


def _cost(cost: Mapping[str, Any] | None) -> str:
    """`120 [100, 140]`; a dash for what is beyond the runs' end."""
    if not cost:
        return "–"
    median, interval = _amount(cost["median"]), cost["interval"]
    if interval is None or interval == [cost["median"]] * 2:
        return median
    return f"{median} [{', '.join(map(_amount, interval))}]"


def _amount(value: float | None) -> str:
    """Three digits of a cost; whole numbers have all of theirs."""
    if value is not None and value == int(value):
        return str(int(value))
    return _number(value, digits=3)


def _number(value: float | None, instead: str = "–", digits: int = 4) -> str:
    return instead if value is None else format_number(value, digits)


def _legend(
    asked: Mapping[str, Any], sheets: Sequence[Sheet], scores: Sequence[Mapping[str, Any]]
) -> list[str]:
    lines = []
    if any("±" in cell for column in sheets[0].columns for cell in column.cells):
        lines.append(
            "12.3±0.4: mean ± standard deviation over the trained runs; interval: 95 %, of the mean"
        )
    if any(each.get("gap") for each in scores):
        lines.append("gap: the final value on test data minus that on training data")
    costs = [each[key] for each in scores for key in ("to_target", "to_best") if each.get(key)]
    intervals = [each["steps"] for each in costs if each.get("steps")]
    sure = {each["confidence"]: c["n"] for c, each in zip(costs, intervals, strict=True)}
    known = [f"{100 * c:.3g} % with {n} runs" for c, n in sorted(sure.items(), key=str) if c]
    if known:
        lines.append(f"120 [100, 140]: the interval of the median ({', '.join(known)})")
    if costs:
        lines.append("best at: steps to the best evaluation of a run")
    if any("–" in cell for sheet in sheets[1:2] for c in sheet.columns[1:] for cell in c.cells):
        lines.append("–: not reached by the end; failed runs count as never arriving")
    if asked["target"] is not None and not asked["target_given"] and costs:
        lines.append("the target is the best value that the median run of every group reaches")
    rates = [each["over_rates"] for each in scores if each.get("over_rates")]
    if rates:
        much = "10 %" if asked["lower_is_better"] else "0.01"
        lines.append(f"near: groups within {much} of the family's best, itself included")
    return lines
