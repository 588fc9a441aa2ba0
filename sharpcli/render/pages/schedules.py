"""`schedule` documents as charts and a table, and the list of policies."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from sharpcli.documents.labels import clean
from sharpcli.errors import SharpError, counted
from sharpcli.render.numbers import format_number
from sharpcli.render.terminal.chart import Chart, Dash, Series, chart_lines, thinned
from sharpcli.render.terminal.table import Column, Page, Row, Sheet, page_lines
from sharpcli.runtime.text import visible

__all__ = [
    "QUANTITIES",
    "Drawn",
    "policies_lines",
    "policies_page",
    "read_schedules",
    "schedule_lines",
    "schedule_page",
]

QUANTITIES = {"lr": "learning rate", "batch_size": "batch size", "noise_scale": "noise scale"}
_STYLES: tuple[tuple[str, Dash], ...] = (("cyan", "solid"), ("magenta", "dashed"))
_HEIGHT = 9
_INDENT = 4  # of a formula below its policy
_SHORT = 160  # characters of a rewritten schedule that a terminal shows


@dataclass(frozen=True)
class Drawn:
    """One schedule as it is drawn: places on the x axis, and the quantities that are known.

    Places are `epochs` where several schedules are compared on data of a known size, `examples`
    where its size is not known, else `steps`.
    """

    name: str
    places: str
    x: Sequence[float]
    values: Mapping[str, Sequence[float]]


def read_schedules(document: Mapping[str, Any]) -> list[Drawn]:
    """What is drawn of a document: its schedules over one axis.

    Raises:
        SharpError: if there is none.
    """
    results, examples = document["results"], document["settings"]["examples"]
    if not results:
        raise SharpError("this result holds no schedule", "see its settings, and run again")
    together = len(results) > 1 and all(r["batch_size"] is not None for r in results)
    found = []
    for result in results:
        places, x = "step", [float(step) for step in result["steps"]]
        if together:
            seen = [0, *itertools.accumulate(result["batch_size"])][:-1]
            places, size = ("epoch", examples) if examples else ("examples", 1)
            x = [each / size for each in seen]
        values = {key: result[key] for key in QUANTITIES if result[key] is not None}
        found.append(Drawn(clean(result["name"]), places, x, values))
    return found


def schedule_lines(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """A chart for each quantity and the table, as lines of at most `width` cells."""
    page, drawn = schedule_page(document), read_schedules(document)
    yield from page_lines(Page(page.context, []), width)
    for key, title in QUANTITIES.items():
        series = [
            Series(each.name, *thinned(each.x, each.values[key], width), *style)
            for each, style in zip(drawn, _STYLES, strict=False)
            if key in each.values
        ]
        if series:
            chart = Chart(title, series, x_name=drawn[0].places, keys=len(drawn) > 1)
            yield Text()
            yield from chart_lines(chart, width, _HEIGHT)
    yield from page_lines(Page([], page.sheets, page.footnotes, page.legend), width)


def schedule_page(document: Mapping[str, Any]) -> Page:
    """A row for each schedule: updates, examples, and the range of each quantity."""
    results, settings = document["results"], document["settings"]
    columns = [Column("updates", [f"{result['updates']:,}" for result in results])]
    if any(result["examples_seen"] is not None for result in results):
        columns.append(
            Column("examples seen", [_whole(result["examples_seen"]) for result in results])
        )
    if settings["examples"] and all(result["examples_seen"] is not None for result in results):
        epochs = [format_number(r["examples_seen"] / settings["examples"]) for r in results]
        columns.append(Column("epochs", epochs))
    for key, title in QUANTITIES.items():
        if any(result[key] is not None for result in results):
            columns.append(Column(title, [_range(result[key]) for result in results], False))
    if len({result["momentum"] for result in results}) > 1 or settings["momentum"]:
        momenta = [format_number(result["momentum"]) for result in results]
        columns.append(Column("momentum", momenta))
    sheet = Sheet([Row(clean(result["name"])) for result in results], columns, "", "schedule")
    return Page([_context(settings)], [sheet], (), _how_to_train(results))


def _context(settings: Mapping[str, Any]) -> str:
    pieces = [str(settings["schedule"])]
    if settings["batch_size"] is not None:
        pieces.append(f"batch {settings['batch_size']:,}")
    if settings["batch_schedule"] is not None:
        pieces.append(f"batch {settings['batch_schedule']}")
    if settings["examples"] is not None:
        pieces.append(counted(settings["examples"], "example"))
    return " · ".join(pieces)


def _how_to_train(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a rewritten schedule takes, and its texts for `sharp train` where they are short."""
    lines = []
    for result in results[1:]:
        count = counted(result["updates"], "update")
        lines.append(f"{count} in place of {results[0]['updates']:,} for the same examples")
        texts = {"rate": result["schedule"], "batch size": result["batch_schedule"]}
        for what, text in texts.items():
            short = text is not None and len(text) <= _SHORT
            lines.append(f"{what}: {text}" if short else f"{what}: as text in the JSON")
    return lines


def _whole(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _range(values: Sequence[float] | None) -> str:
    """`0.1 → 0.001` where the ends are the lowest and the highest value, else `0.001 to 0.1`."""
    if values is None:
        return "–"
    low, high = min(values), max(values)
    if low == high:
        return f"{low:.4g}"
    if {values[0], values[-1]} == {low, high}:
        return f"{values[0]:.4g} → {values[-1]:.4g}"
    return f"{low:.4g} to {high:.4g}"


def policies_page(document: Mapping[str, Any]) -> Page:
    """A row for each policy: how it is written and its formula."""
    results = document["results"]
    columns = [Column("formula", [result["formula"] for result in results], False)]
    rows = [Row(result["usage"]) for result in results]
    return Page([], [Sheet(rows, columns, "", "policy")], (), _LEGEND)


def policies_lines(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """Each policy with its formula below it, as lines of at most `width` cells."""
    for result in document["results"]:
        usage = textwrap.wrap(visible(result["usage"]), width, subsequent_indent=" " * 2 * _INDENT)
        yield from (Text(line, "bold") for line in usage)
        for line in textwrap.wrap(visible(result["formula"]), max(20, width - _INDENT)):
            yield Text(" " * _INDENT + line)
    yield Text()
    yield from page_lines(Page([], [], (), _LEGEND), width)


_LEGEND = (
    "t: the step, from 0; k0, k1: rates; l: a length in steps; γ: gamma. Names are taken in any "
    "case.",
    "Several parts with lengths in steps follow each other: FIX(k0=0.1):100, EXP(k0=0.1, "
    "gamma=0.99)",
)
