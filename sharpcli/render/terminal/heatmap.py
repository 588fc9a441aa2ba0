"""Heat maps of a plane: two pixels per character in colour, one shade per character without."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.color import Color
from rich.style import Style
from rich.text import Text

from sharpcli.render.numbers import format_number
from sharpcli.render.terminal.axes import Scale, finite, scale_of, x_axis

__all__ = ["HeatMap", "colour_scale", "heat_map_lines"]

# Viridis (van der Walt and Smith 2015) at ten equal steps: lightness rises evenly, and red-green
# colour-blind readers can read it.
_PALETTE = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (109, 205, 89),
    (180, 222, 44),
    (253, 231, 37),
)
_GREYS = ((60, 60, 60), (120, 120, 120))  # alternating, for pixels that are not finite
_BLACK, _WHITE = Color.from_rgb(0, 0, 0), Color.from_rgb(255, 255, 255)
_SHADES = " ░▒▓█"
_NO_SHADE = "╱"
_LOG_FROM = 1.0  # decades: colours distinguish fewer values than heights do
_LONGEST_SIDE = 3.0  # of the picture, as a multiple of the other side, for any ranges
_LARGEST_BLOCK = 10  # most pixels per side of a point in a small grid
_NARROWEST = 4  # least width of the picture in cells


@dataclass(frozen=True)
class HeatMap:
    """Values on a grid (alpha runs fastest; None: `missing`), with a path and marks.

    `path` is drawn as dots and `marks` as names, both at coordinates (alpha, beta).
    """

    title: str
    alphas: Sequence[float]
    betas: Sequence[float]
    values: Sequence[float | None]
    marks: Sequence[tuple[tuple[float, float], str]] = ()
    path: Sequence[tuple[float, float]] = ()
    missing: str = "not finite"


@dataclass(frozen=True)
class _Side:
    """One side of the picture: its range, and the grid's index at each of `pixels`."""

    low: float
    high: float
    pixels: int
    indices: tuple[int, ...]

    def pixel(self, value: float) -> int | None:
        """The pixel of a coordinate; None outside the picture."""
        place = (value - self.low) / (self.high - self.low)
        if not -1e-9 <= place <= 1 + 1e-9:
            return None
        return min(self.pixels - 1, max(0, int(place * self.pixels + 1e-9)))


def colour_scale(values: Sequence[float | None], rows: int) -> Scale | None:
    """The scale of a map's colours; logarithmic if the values span more than a decade."""
    return scale_of(values, max(3, rows // 3), log_from=_LOG_FROM, extend=False)


def heat_map_lines(
    heat: HeatMap, width: int, rows: int, *, scale: Scale | None = None, colour: bool = True
) -> list[Text]:
    """The map as styled lines: a title and about `rows` lines with axes and legend.

    No line is wider than `width`. Each grid point is a block of pixels of one colour; with fewer
    pixels than points, each pixel shows the nearest point. Beta runs up. `scale` is the colour
    scale that several maps share.
    """
    scale = scale or colour_scale(heat.values, rows)
    if scale is None:
        return [Text(heat.title, "bold"), Text(f"{heat.missing} at any point", "dim")]
    holes = len(finite(heat.values)) < len(heat.values)
    most, room = _LARGEST_BLOCK * max(len(heat.alphas), len(heat.betas)), width
    while True:  # the widths of the axis and the legend depend on the picture's height
        across, up = _sides(heat, min(room, most), min(2 * rows, most))
        height = math.ceil(up.pixels / 2)
        ticks = _ticks(heat.betas, up, height // 3)
        left = max((len(text) for _, text in ticks), default=0) + 2
        bar = _bar(scale, height, colour, heat.missing if holes else None)
        over = left + across.pixels + max(line.cell_len for line in bar) - width
        if over <= 0 or room == _NARROWEST:
            break
        room = max(_NARROWEST, across.pixels - over)
    body = _coloured(heat, scale, across, up) if colour else _shaded(heat, scale, across, up)
    _mark(body, heat, across, up)
    title = Text(heat.title, "bold")
    if scale.log:
        title.append(", log scale", "not bold")
    at_row = {height - 1 - pixel // 2: text for pixel, text in reversed(ticks)}
    lines = [title, Text(f"{'β':>{left - 2}}")]
    for row, cells in enumerate(body):
        edge = f"{at_row.get(row, ''):>{left - 2}} {'┤' if row in at_row else '│'}"
        lines.append(Text.assemble((edge, "dim"), *cells, bar[row]))
    columns = across.pixels
    rule, numbers, names = x_axis(_ticks(heat.alphas, across, columns // 6), [], "α", columns)
    lines.append(Text(f"{' ' * (left - 1)}└{rule}", "dim"))
    lines.append(Text(" " * left + numbers, "dim"))
    lines.append(Text(" " * left + names))
    return lines


Body = list[list[tuple[str, Style]]]  # rows of characters with their styles


def _sides(heat: HeatMap, most_columns: int, pixels: int) -> tuple[_Side, _Side]:
    """The sides of the picture whose shape and size match the ranges best.

    If all points fit, only pictures with blocks of equal size are considered.
    """
    (a_low, a_high), (b_low, b_high) = _range(heat.alphas), _range(heat.betas)
    shape = (b_high - b_low) / (a_high - a_low)
    if len(heat.alphas) == 1 or len(heat.betas) == 1:
        shape = len(heat.betas) / len(heat.alphas)
    shape = min(_LONGEST_SIDE, max(1 / _LONGEST_SIDE, shape))

    def unlike(size: tuple[int, int]) -> float:
        filled = max(size[0] / most_columns, size[1] / pixels)
        return 2 * abs(math.log(size[1] / size[0] / shape)) + abs(math.log(filled))

    most_lines = pixels + pixels // 4
    fits = len(heat.alphas) <= most_columns and len(heat.betas) <= most_lines
    across, up = min(
        (
            (columns, lines)
            for columns in _lengths(len(heat.alphas) if fits else 1, most_columns)
            for lines in _lengths(len(heat.betas) if fits else 1, most_lines)
        ),
        key=unlike,
    )
    return (
        _Side(a_low, a_high, across, _nearest(heat.alphas, a_low, a_high, across)),
        _Side(b_low, b_high, up, _nearest(heat.betas, b_low, b_high, up)),
    )


def _lengths(points: int, most: int) -> range:
    """The lengths of a side that give each of its points the same number of pixels."""
    return range(points, most + 1, points)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The range from half a step before the first value to half a step after the last."""
    if len(values) == 1:
        return values[0] - 0.5, values[0] + 0.5
    return (
        values[0] - (values[1] - values[0]) / 2,
        values[-1] + (values[-1] - values[-2]) / 2,
    )


def _nearest(values: Sequence[float], low: float, high: float, pixels: int) -> tuple[int, ...]:
    middles = [(a + b) / 2 for a, b in pairwise(values)]
    return tuple(
        bisect(middles, low + (pixel + 0.5) / pixels * (high - low)) for pixel in range(pixels)
    )


def _coloured(heat: HeatMap, scale: Scale, across: _Side, up: _Side) -> Body:
    """Half blocks; the upper pixel is the character's colour, the lower one its background."""
    body: Body = []
    for top in range(up.pixels - 1 + up.pixels % 2, 0, -2):
        row = []
        for column in range(across.pixels):
            pair = [
                _colour(heat, scale, across.indices[column], up.indices[y], (column + y) % 2)
                if y < up.pixels
                else None
                for y in (top, top - 1)
            ]
            if pair[0] is None:
                row.append(("▄", Style(color=pair[1])))
            else:
                row.append(("▀", Style(color=pair[0], bgcolor=pair[1])))
        body.append(row)
    return body


def _shaded(heat: HeatMap, scale: Scale, across: _Side, up: _Side) -> Body:
    """Shades; more ink is a larger value, and a character shows the larger of its two pixels."""
    body: Body = []
    for top in range(up.pixels - 1 + up.pixels % 2, 0, -2):
        row = []
        for index in across.indices:
            pair = [_value(heat, index, up.indices[y]) for y in (top, top - 1) if y < up.pixels]
            known = finite(pair)
            shade = _shade(scale, max(known)) if len(known) == len(pair) else _NO_SHADE
            row.append((shade, Style()))
        body.append(row)
    return body


def _mark(body: Body, heat: HeatMap, across: _Side, up: _Side) -> None:
    """Draw the path as dots, then the names, each next to those already there."""
    taken: set[tuple[int, int]] = set()
    for (alpha, beta), text in (*((place, "•") for place in heat.path), *heat.marks):
        column, pixel = across.pixel(alpha), up.pixel(beta)
        if column is None or pixel is None:
            continue
        line = len(body) - 1 - pixel // 2
        row = body[line]
        if text == "•":
            under = row[column][1]
            ground = under.bgcolor or under.color
            ink = _BLACK if ground and ground.triplet and ground.triplet.green > 150 else _WHITE
            row[column] = ("•", Style(color=ink, bgcolor=ground) if ground else Style())
            continue
        starts = sorted(range(across.pixels - len(text) + 1), key=lambda x: abs(x - column))
        for start in starts[: 4 * len(text)]:
            cells = range(start, start + len(text))
            if not any((line, cell) in taken for cell in (start - 1, *cells, cells.stop)):
                for cell, letter in zip(cells, text, strict=True):
                    row[cell] = (letter, Style(color=_BLACK, bgcolor=_WHITE, bold=True))
                    taken.add((line, cell))
                break


def _ticks(values: Sequence[float], side: _Side, most: int) -> list[tuple[int, str]]:
    """Pixels and labels of an axis's ticks, 0 first."""
    scale = scale_of(values, most, extend=False)
    if scale is None:
        return []
    found = [(side.pixel(tick), f"{tick:.6g}") for tick in sorted(scale.ticks, key=abs)]
    return [(pixel, label) for pixel, label in found if pixel is not None]


def _bar(scale: Scale, height: int, colour: bool, missing: str | None) -> list[Text]:
    """The legend: each line's colour or shade, with values at the ends and ticks."""
    top = 2 if missing and height > 4 else 0
    height -= top
    labels = {0: format_number(scale.high, 3), height - 1: format_number(scale.low, 3)}
    if scale.flat:
        labels = {}
    for tick, text in zip(scale.ticks, scale.labels, strict=True):
        row = round((1 - scale.place(tick)) * (height - 1))
        if not any(near in labels for near in (row - 1, row, row + 1)):
            labels[row] = text
    lines = [Text() for _ in range(top)]
    if top:
        hatched = (
            Text("▀▀", Style(color=_rgb(_GREYS[1]), bgcolor=_rgb(_GREYS[0])))
            if colour
            else Text(_NO_SHADE * 2)
        )
        lines[0] = Text("  ") + hatched + Text(f" {missing}")
    for row in range(height):
        if scale.flat and row not in labels:
            lines.append(Text())
            continue
        share = 1 - row / max(1, height - 1)
        if colour:
            upper, lower = (_at(min(1.0, max(0.0, share + d / height))) for d in (0.25, -0.25))
            block = Text("▀▀", Style(color=upper, bgcolor=lower))
        else:
            block = Text(_SHADES[_level(share, len(_SHADES))] * 2)
        lines.append(Text("  ") + block + Text(f" {labels.get(row, '')}".rstrip(), "dim"))
    return lines


def _value(heat: HeatMap, alpha: int, beta: int) -> float | None:
    value = heat.values[beta * len(heat.alphas) + alpha]
    return value if value is not None and math.isfinite(value) else None


def _colour(heat: HeatMap, scale: Scale, alpha: int, beta: int, odd: int) -> Color:
    value = _value(heat, alpha, beta)
    return _rgb(_GREYS[odd]) if value is None else _at(scale.place(value))


def _at(share: float) -> Color:
    """The palette's colour at a position from 0 to 1."""
    place = min(1.0, max(0.0, share)) * (len(_PALETTE) - 1)
    index = min(int(place), len(_PALETTE) - 2)
    pair = zip(_PALETTE[index], _PALETTE[index + 1], strict=True)
    return _rgb(tuple(round(a + (place - index) * (b - a)) for a, b in pair))


def _rgb(channels: Sequence[int]) -> Color:
    return Color.from_rgb(*channels)


def _shade(scale: Scale, value: float) -> str:
    return _SHADES[_level(scale.place(value), len(_SHADES))]


def _level(share: float, levels: int) -> int:
    return min(levels - 1, max(0, int(share * levels)))
