"""Scales, ticks and axes in characters, for charts and maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from sharpcli.render.numbers import format_number

__all__ = ["Scale", "beside", "finite", "scale_of", "x_axis"]

_STEPS = (1.0, 2.0, 2.5, 5.0)  # between ticks, times a power of ten
_LARGEST = 1e307  # larger values are clipped to this, so that differences stay finite
_FLAT = 1e-5  # relative to the value: a smaller range is rounding and is drawn as one value
_ASIDE = 4  # cells by which a mark's name may move away from another one
_PLAIN = (-3, 6)  # decades of ticks written without an exponent


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic scale from `low` to `high`, with ticks.

    `flat`: there is only one value, drawn in the middle, and the ends have no meaning.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    flat: bool = False

    def place(self, value: float) -> float:
        """The position of a value: 0 at `low`, 1 at `high`."""
        low, high, value = (_clamped(x) for x in (self.low, self.high, value))
        if self.log:
            low, high, value = (math.log10(x) for x in (low, high, value))
        return (value - low) / (high - low)


def finite(values: Iterable[float | None]) -> list[float]:
    """The finite values; None is skipped."""
    return [x for x in values if x is not None and math.isfinite(x)]


def scale_of(
    values: Iterable[float | None],
    most_ticks: int,
    *,
    log_from: float | None = None,
    extend: bool = True,
) -> Scale | None:
    """A scale that shows all finite values; None if there are none.

    It is logarithmic if all are positive and span more than `log_from` decades (None: never).
    `extend` moves its ends out to the next tick.
    """
    known = [_clamped(x) for x in finite(values)]
    if not known:
        return None
    low, high, most_ticks = min(known), max(known), max(2, most_ticks)
    if high - low <= _FLAT * max(abs(low), abs(high)):
        middle = (low + high) / 2
        around = abs(middle) / 2 or 1.0
        ends, label = (middle - around, middle + around), format_number(middle)
        return Scale(*ends, False, (middle,), (label,), flat=True)
    if log_from is not None and low > 0 and math.log10(high) - math.log10(low) > log_from:
        return _logarithmic(low, high, most_ticks, extend)
    return _linear(low, high, most_ticks, extend)


def x_axis(
    ticks: Sequence[tuple[int, str]], marks: Sequence[tuple[int, str]], name: str, width: int
) -> list[str]:
    """The lines below a picture `width` cells wide: axis, tick labels, marks and the axis name.

    Ticks are pairs of a cell and a label, the important ones first; one without room is left out.
    """
    labels, shown = _row_of(ticks, width)
    rule = "".join("┴" if cell in shown else "─" for cell in range(width))
    merged = _merged(marks)
    for cell in (width - 1, 3 * width // 4, width // 2):
        named, found = _row_of([*merged, (cell, name)], width, aside=_ASIDE)
        if cell in found - {mark for mark, _ in merged}:
            break
    return [rule, labels.rstrip(), named.rstrip()]


def beside(blocks: Sequence[Sequence[Text]], apart: int) -> list[Text]:
    """Blocks of lines side by side, each starting `apart` cells after the previous one."""
    lines = []
    for index in range(max(map(len, blocks))):
        line = Text()
        for place, block in enumerate(blocks):
            if index < len(block):
                line.append(" " * (place * apart - line.cell_len))
                line.append_text(block[index])
        lines.append(line)
    return lines


def _linear(low: float, high: float, most: int, extend: bool) -> Scale:
    """A scale with the round step that wastes little room and has enough ticks."""
    span, wanted = high - low, math.ceil(0.7 * most) if extend else most
    power = math.floor(math.log10(span))
    choices = []
    for exponent in range(power - 2, power + 2):
        for factor in _STEPS:
            step = factor * 10.0**exponent
            first, last = (
                (math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))
                if extend
                else (math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
            )
            count = last - first + 1
            unused = abs((last - first) * step - span) / span if extend else 0.0
            if 2 <= count <= max(most, 3):
                choices.append((unused + 0.08 * abs(count - wanted), step, first, last))
    if not choices:  # no round number in the range, and no room for finer steps
        ticks, step = [low, high], span
    else:
        _, step, first, last = min(choices)
        ticks = [index * step for index in range(first, last + 1)]
    ends = (min(low, ticks[0]), max(high, ticks[-1])) if extend else (low, high)
    return Scale(*ends, False, tuple(ticks), tuple(_labels(ticks, step)))


def _labels(ticks: Sequence[float], step: float) -> list[str]:
    """The ticks with as many decimals as the step needs."""
    largest = _decade(max(map(abs, ticks)))
    places = next(d for d in range(18) if d == 17 or _round_at(step, _decade(step) - d))
    if _PLAIN[0] <= largest < _PLAIN[1]:
        places = max(0, places - _decade(step))
        return [f"{x:.{places}f}" for x in ticks]
    places = max(0, places + largest - _decade(step))
    return ["0" if abs(x) < step / 2 else f"{x:.{places}e}" for x in ticks]


def _logarithmic(low: float, high: float, most: int, extend: bool) -> Scale:
    """A scale with ticks at 1, 2 and 5, at 1 and 3, at powers of ten, or at every few of them."""
    bottom, top = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    plans = [((1, 2, 5), 1), ((1, 3), 1), *(((1,), every) for every in (1, 2, 3, 5, 10, 20, 50))]

    def grid(factors: Sequence[int], every: int) -> list[float]:
        decades = [d for d in range(bottom - 1, top + 1) if d % every == 0]
        return [_clamped(float(f"{f}e{decade}")) for decade in decades for f in factors]

    if extend:
        round_numbers = grid((1, 2, 3, 5), 1)
        low = max((x for x in round_numbers if x <= low * (1 + 1e-9)), default=low)
        high = min((x for x in round_numbers if x >= high * (1 - 1e-9)), default=high)
    choices = ([x for x in grid(*plan) if low <= x <= high] for plan in plans)
    ticks = next((found for found in choices if len(found) <= most), [low, high])
    return Scale(low, high, True, tuple(ticks), tuple(f"{x:g}" for x in ticks))


def _row_of(texts: Sequence[tuple[int, str]], width: int, aside: int = 0) -> tuple[str, set[int]]:
    """A row of texts centred on their cells or up to `aside` cells off, in order of priority.

    Also returns the cells whose text had room.
    """
    row, shown = [" "] * width, set()
    for cell, text in texts:
        size = cell_len(text)
        centred = max(0, min(cell - (size - 1) // 2, width - size))
        offsets = sorted(range(-aside, aside + 1), key=abs)
        for start in (centred + offset for offset in offsets):
            around = row[max(0, start - 1) : start + size + 1]
            if 0 <= start <= width - size and all(x == " " for x in around):
                row[start : start + size] = list(text)
                shown.add(cell)
                break
    return "".join(row), shown


def _merged(marks: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Marks with those in the same cell joined: `A,B`."""
    cells = dict.fromkeys(cell for cell, _ in marks)
    return [(cell, ",".join(text for c, text in marks if c == cell)) for cell in cells]


def _clamped(value: float) -> float:
    return max(-_LARGEST, min(value, _LARGEST))


def _decade(value: float) -> int:
    return math.floor(math.log10(abs(value)) + 1e-9) if value else 0


def _round_at(value: float, decade: int) -> bool:
    units = value / 10.0**decade
    return abs(units - round(units)) < 1e-6 * units
