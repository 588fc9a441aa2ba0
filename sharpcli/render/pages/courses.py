"""The course of a training in a terminal: a chart for each panel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from sharpcli.errors import SharpError
from sharpcli.render.course import Panel, read_course
from sharpcli.render.pages.measurements import train_page
from sharpcli.render.terminal.chart import Chart, Dash, Series, chart_lines, thinned
from sharpcli.render.terminal.table import page_lines

__all__ = ["course_lines"]

_STYLES: tuple[tuple[str, Dash], ...] = (
    ("cyan", "solid"),
    ("yellow", "dotted"),
    ("green", "dashed"),
)
_LIMIT: tuple[str, Dash] = ("magenta", "dashed")
_TALL, _LOW = 11, 5  # lines of a chart


def course_lines(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    """The charts, where there are curves, and the table, as lines of at most `width` cells."""
    yield from page_lines(train_page(document), width)
    try:
        course = read_course(dict(document))
    except SharpError:  # a document of an earlier release, without curves
        return
    for panel in course.panels:
        yield Text()
        yield from chart_lines(_chart(panel, width), width, _LOW if panel.minor else _TALL)


def _chart(panel: Panel, width: int) -> Chart:
    plain = [line for line in panel.lines if not line.dashed]
    series = [
        Series(line.name, *thinned(line.steps, line.values, width), *style)
        for line, style in zip(plain, _STYLES, strict=False)
    ]
    series += [
        Series(line.name, line.steps, line.values, *_LIMIT) for line in panel.lines if line.dashed
    ]
    return Chart(panel.title, series, x_name="step", keys=len(panel.lines) > 1)
