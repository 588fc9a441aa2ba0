"""What the claims of an experiment, and the list of experiments, look like to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from sharpcli.errors import counted
from sharpcli.render.numbers import format_number
from sharpcli.render.terminal.table import Column, Page, Row, Sheet
from sharpcli.runtime.text import folded, visible

__all__ = [
    "experiments_lines",
    "experiments_page",
    "interval_text",
    "reproduction_page",
    "statistic_text",
    "verdict_text",
]


def reproduction_page(document: Mapping[str, Any]) -> Page:
    """A row for each claim: the statistic, its interval, the verdict."""
    about, results = document["settings"]["experiment"], document["results"]
    statistics = [result["statistic"] for result in results]
    columns = [
        Column("value", [_number(each["value"]) for each in statistics]),
        Column("interval", [interval_text(each["interval"]) for each in statistics]),
        Column("seeds", [str(result["seeds"]) for result in results]),
        Column("verdict", [result["verdict"] for result in results], numeric=False),
    ]
    scale = f"{about['scale']} scale, {counted(about['seeds'], 'seed')}"
    claims = [
        f"{result['name']}: {result['claim']}; the {statistic_text(result['statistic'])} is "
        f"{result['prediction']}"
        for result in results
    ]
    needed = [
        f"{result['name']}: {counted(result['seeds_needed'], 'seed')} would decide, if mean and "
        "variance stay the same"
        for result in results
        if result.get("seeds_needed")
    ]
    notes = [f"{result['name']}: {note}" for result in results for note in result.get("notes", ())]
    return Page(
        [f"{about['title']} · {about['source']}", f"{about['design']} · {scale}"],
        [Sheet([Row(result["name"]) for result in results], columns, caption="claim")],
        footnotes=[*needed, *notes],
        legend=claims,
    )


def experiments_lines(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """Each experiment with its claims below it, as lines of at most `width` cells."""
    for result in document["results"]:
        title = f"{result['name']}: {result['title']} ({result['source']})"
        yield from (Text(line, "bold") for line in _folded(title, width))
        about = f"  {result['design']}; {result['minutes']:g} min on two cores"
        yield from (Text(line, "dim") for line in _folded(about, width))
        for claim in result["claims"]:
            verdict = claim["verdict"] or "not run yet"
            yield from map(Text, _folded(f"  {verdict}: {claim['claim']}", width))
        yield Text()
    yield Text("sharp reproduce NAME runs one; the verdicts are those of the last runs", "dim")


def experiments_page(document: Mapping[str, Any]) -> Page:
    """A sheet for each experiment: its claims with the verdicts of the last run that is kept."""
    sheets = []
    for result in document["results"]:
        title = f"{result['name']}: {result['title']}"
        rows = [Row(claim["claim"]) for claim in result["claims"]]
        verdicts = [claim["verdict"] or "–" for claim in result["claims"]]
        column = Column("verdict", verdicts, numeric=False)
        caption = f"{result['source']}; {result['minutes']:g} min on two cores"
        sheets.append(Sheet(rows, [column], title, caption))
    return Page([], sheets, legend=["sharp reproduce NAME runs one; -h says more"])


def _folded(text: str, width: int) -> list[str]:
    return folded(visible(text), width).split("\n")


def statistic_text(statistic: Mapping[str, Any]) -> str:
    """The statistic with what it is of: `ratio of hessian.eigenvalues[0]`."""
    value = statistic["arguments"].get("value")
    if isinstance(value, list | tuple):
        value = ", ".join(value)
    return str(statistic["name"]).replace("_", " ") + (f" of {value}" if value else "")


def verdict_text(result: Mapping[str, Any]) -> str:
    """The verdict; of an undecided claim with the seeds that would decide."""
    needed = result.get("seeds_needed")
    return f"undecided ({needed} seeds would decide)" if needed else str(result["verdict"])


def interval_text(interval: Any) -> str:
    """Both ends of an interval."""
    return "–" if interval is None else " to ".join(map(_number, interval))


def _number(value: float | None) -> str:
    return "–" if value is None else format_number(value, 3)
