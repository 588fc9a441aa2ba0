"""Line charts in braille, and sparklines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.text import Text

from sharpcli.render.terminal.axes import Scale, finite, scale_of, x_axis

__all__ = ["Chart", "Dash", "Rise", "Series", "chart_lines", "sparkline", "thinned"]

Dash = Literal["solid", "dashed", "dotted", "dash-dotted"]

_LOG_FROM = 2.0  # decades of values from which a log scale shows more than a linear one
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a dot: row, column
# Each kind of line with its sample in the legend and its repeating pattern of dots.
_DASHES: dict[Dash, tuple[str, str]] = {
    "solid": ("⠒⠒⠒", "#"),
    "dashed": ("⠒ ⠒", "#####...."),
    "dotted": ("⠂⠂⠂", "#."),
    "dash-dotted": ("⠒⠒ ⠂", "######..#.."),
}
_BARS = "▁▂▃▄▅▆▇█"
_MISSING = "×"


@dataclass(frozen=True)
class Series:
    """A curve: its values by x (None: not finite), in a colour and a kind of line.

    The kind distinguishes curves without colours.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = ""
    dash: Dash = "solid"


@dataclass(frozen=True)
class Rise:
    """A height to mark, from `low` to `high` at `x`."""

    x: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Chart:
    """The contents of a chart: curves, marked places on the x axis, a rise.

    Attributes:
        log: Use a log scale if the values span more than two decades.
        also: Values that the y axis includes without showing them, those of another chart.
        keys: Name the curves in the legend; not needed if a chart above names them.
        missing: The meaning of None.
    """

    title: str
    series: Sequence[Series]
    x_name: str = "α"
    marks: Sequence[tuple[float, str]] = ()
    rise: Rise | None = None
    log: bool = True
    also: Sequence[float | None] = ()
    keys: bool = True
    missing: str = "not finite"


Cells = dict[tuple[int, int], tuple[str, str]]  # (row, column) → character, style


def chart_lines(chart: Chart, width: int, height: int, *, header: int = 1) -> list[Text]:
    """The chart as styled lines: title and legend, `height` lines of curves, the x axis.

    No line is wider than `width`. The first series is drawn on top. Title and legend take at least
    `header` lines.

    Raises:
        ValueError: A series has different numbers of x and y values.
    """
    values = [y for series in chart.series for y in series.y]
    log_from = _LOG_FROM if chart.log else None
    scale = scale_of([*values, *chart.also], height // 2 + 1, log_from=log_from)
    places = [x for series in chart.series for x in series.x]
    if scale is None or not finite(values):
        return [
            *_wrapped(Text(chart.title, "bold"), [], width),
            Text(f"{chart.missing} at any point", "dim"),
        ]
    left = max(map(len, scale.labels)) + 2
    columns = max(8, width - left)
    across = scale_of(places, max(3, columns // 9), extend=False)
    if across is None:
        raise ValueError("a chart needs an x for each y")
    cells: Cells = {}
    marked = [(x, name) for x, name in chart.marks if 0 <= across.place(x) <= 1]
    for x, _ in marked:
        cells |= {(row, _cell(across, x, columns)): ("┊", "dim") for row in range(height)}
    for series in reversed(chart.series):
        _draw(cells, series, across, scale, columns, height)
    keys = [_key(series) for series in chart.series] if chart.keys else []
    if chart.rise is not None and 0 <= across.place(chart.rise.x) <= 1:
        sign = _draw_rise(cells, chart.rise, across, scale, columns, height)
        keys.append(Text.assemble((sign, "bold"), f" {chart.rise.label}"))
    if any(sign == _MISSING for sign, _ in cells.values()):
        keys.append(Text(f"{_MISSING} {chart.missing}"))
    title = Text(chart.title, "bold")
    if scale.log:
        title.append(", log scale", "not bold")
    lines = _wrapped(title, keys, width)
    lines += [Text() for _ in range(header - len(lines))]
    rows = [round((1 - scale.place(tick)) * (4 * height - 1)) // 4 for tick in scale.ticks]
    labels = dict(zip(rows, scale.labels, strict=True))
    for row in range(height):
        edge = "┤" if row in labels else "│"
        line = Text.assemble((f"{labels.get(row, ''):>{left - 2}} {edge}", "dim"))
        for column in range(columns):
            line.append(*cells.get((row, column), (" ", "")))
        line.rstrip()
        lines.append(line)
    ticks = [
        *((_cell(across, x, columns), f"{x:g}") for x, _ in marked if x in (0, 1)),
        *((_cell(across, x, columns), f"{x:g}") for x in across.ticks),
    ]
    at = [(_cell(across, x, columns), name) for x, name in marked]
    rule, numbers, names = x_axis(ticks, at, chart.x_name, columns)
    lines.append(Text(f"{' ' * (left - 1)}└{rule}", "dim"))
    lines.append(Text(" " * left + numbers, "dim"))
    lines.append(Text(" " * left + names))
    return lines


def thinned(
    x: Sequence[float], y: Sequence[float | None], width: int
) -> tuple[Sequence[float], Sequence[float | None]]:
    """As many points as a chart of that width shows: the lowest and the highest of a few."""
    every = len(x) // (4 * width)
    if every < 2:
        return x, y
    kept: set[int] = {0, len(x) - 1}
    for start in range(0, len(x), every):
        among = range(start, min(start + every, len(x)))
        known = [place for place in among if y[place] is not None]
        kept |= {place for place in among if y[place] is None}
        if known:
            kept |= {min(known, key=lambda place: y[place] or 0.0)}
            kept |= {max(known, key=lambda place: y[place] or 0.0)}
    places = sorted(kept)
    return [x[place] for place in places], [y[place] for place in places]


def sparkline(
    values: Sequence[float | None], among: Sequence[float | None] = (), most: int = 30
) -> str:
    """One bar per value, `▁▃█`, on a scale that also includes `among`; × is not finite.

    With more than `most` values each bar is the largest of a few. The scale is chosen as in charts.
    """
    scale = scale_of([*values, *among], 2, log_from=_LOG_FROM, extend=False)
    every = max(1, math.ceil(len(values) / most))
    bars = ""
    for start in range(0, len(values), every):
        known = finite(values[start : start + every])
        if scale is None or len(known) < len(values[start : start + every]):
            bars += _MISSING
        else:
            bars += _bar(scale, max(known))
    return bars


def _bar(scale: Scale, value: float) -> str:
    return _BARS[min(len(_BARS) - 1, int(scale.place(value) * len(_BARS)))]


def _cell(scale: Scale, x: float, columns: int) -> int:
    return round(scale.place(x) * (2 * columns - 1)) // 2


def _draw(
    cells: Cells, series: Series, across: Scale, up: Scale, columns: int, height: int
) -> None:
    """Set the dots of one curve; a point without neighbours is a `•`."""
    dots: list[tuple[int, int] | None] = []
    for x, y in sorted(zip(series.x, series.y, strict=True), key=lambda point: point[0]):
        column = round(across.place(x) * (2 * columns - 1))
        if y is None or not math.isfinite(y):
            dots.append(None)
            cells[0, column // 2] = (_MISSING, series.style)
        else:
            dots.append((column, round((1 - up.place(y)) * (4 * height - 1))))
    drawn, (_, pattern) = 0, _DASHES[series.dash]
    for before, dot, after in zip([None, *dots], dots, [*dots[1:], None], strict=False):
        if dot is not None and before is None and after is None:
            cells[dot[1] // 4, dot[0] // 2] = ("•", series.style)
        if dot is None or after is None:
            continue
        (x0, y0), (x1, y1) = dot, after
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + (after is dots[-1])):
            if pattern[drawn % len(pattern)] == "#":
                share = step / steps
                _dot(cells, round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0)), series)
            drawn += 1


def _dot(cells: Cells, x: int, y: int, series: Series) -> None:
    place = (y // 4, x // 2)
    sign = cells.get(place, (" ", ""))[0]
    bits = ord(sign) - 0x2800 if "\u2800" <= sign <= "\u28ff" else 0
    cells[place] = (chr(0x2800 + (bits | _BITS[y % 4][x % 2])), series.style)


def _draw_rise(
    cells: Cells, rise: Rise, across: Scale, up: Scale, columns: int, height: int
) -> str:
    """A bar between the two heights if there is room, else an arrow to the upper one."""
    column = _cell(across, rise.x, columns)
    low, high = (
        4 * height - 1 if up.log and y <= 0 else round((1 - up.place(y)) * (4 * height - 1))
        for y in (rise.low, rise.high)
    )
    free = [
        (row, column)
        for row in range(high // 4 + 1, min(low // 4 + 1, height))
        if cells.get((row, column), ("┊", ""))[0] == "┊"
    ]
    if free:
        cells.update(dict.fromkeys(free, ("┃", "bold")))
        return "┃"
    cells[max(0, high // 4 - 1), column] = ("▼", "bold")
    return "▼"


def _key(series: Series) -> Text:
    return Text.assemble((_DASHES[series.dash][0], series.style), f" {series.name}")


def _wrapped(title: Text, keys: Sequence[Text], width: int) -> list[Text]:
    lines = [title]
    for key in keys:
        if lines[-1].cell_len + 3 + key.cell_len > width:
            lines.append(Text(" "))
        lines[-1] = Text.assemble(lines[-1], "   " if lines[-1].plain.strip() else " ", key)
    return lines
