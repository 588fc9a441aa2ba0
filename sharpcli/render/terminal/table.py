"""Sheets of labelled rows, laid out to fit a width or written as GitHub tables.

A `Page` has a line of context, sheets, footnotes and a legend. The terminal and markdown show the
same page. A sheet that is too wide is split into several, one below the other, each with its
labels. Numbers are never cut or wrapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from sharpcli.runtime.text import markdown_text, visible

__all__ = ["Column", "Page", "Row", "Sheet", "markdown", "page_lines"]

_GAP = 2  # blanks between columns
_NARROWEST_LABEL = 12


@dataclass(frozen=True)
class Column:
    """One column: a header that may break at spaces, one cell per row, numbers right-aligned."""

    header: str
    cells: Sequence[str]
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """A row's label, and a message that replaces missing numbers."""

    label: str
    failure: str | None = None


@dataclass(frozen=True)
class Sheet:
    """Rows and columns under a title; `caption` is the header of the labels."""

    rows: Sequence[Row]
    columns: Sequence[Column]
    title: str = ""
    caption: str = "checkpoint"


@dataclass(frozen=True)
class Page:
    """Everything that is printed on stdout for one document."""

    context: Sequence[str]
    sheets: Sequence[Sheet]
    footnotes: Sequence[str] = ()
    legend: Sequence[str] = ()
    conclusions: Sequence[str] = ()


def page_lines(page: Page, width: int) -> Iterator[Text]:
    """The page as styled lines of at most `width` cells (unless one number alone is wider)."""
    page = _visible(page)
    for line in page.context:
        yield from _folded(line, width, "dim")
    for sheet in page.sheets:
        yield Text()
        if sheet.title:
            yield from _folded(sheet.title, width, "bold")
        for index, part in enumerate(_fitted(sheet, width)):
            if index:
                yield Text()
            yield from _sheet_lines(part, width, again=index > 0)
    if page.conclusions:
        yield Text()
    for line in page.conclusions:
        yield from _folded(line, width, "")
    if page.footnotes or page.legend:
        yield Text()
    for line in page.footnotes:
        yield from _folded(line, width, "yellow")
    for line in page.legend:
        yield from _folded(line, width, "dim")


def markdown(page: Page) -> str:
    """The page as GitHub markdown: its sheets as tables, the rest as lists."""
    context = [markdown_text(line, begins_line=True) for line in page.context]
    blocks = ["  \n".join(context)] if context else []
    for sheet in page.sheets:
        if sheet.title:
            blocks.append(f"**{markdown_text(sheet.title)}**")
        header = [sheet.caption, *(c.header for c in sheet.columns)]
        rule = ["---", *("---:" if c.numeric else "---" for c in sheet.columns)]
        rows = [
            [row.label, *((row.failure if i == 0 else "") for i in range(len(sheet.columns)))]
            if row.failure is not None
            else [row.label, *(column.cells[index] for column in sheet.columns)]
            for index, row in enumerate(sheet.rows)
        ]
        table = [[markdown_text(cell or "") for cell in row] for row in (header, *rows)]
        lines = [table[0], rule, *table[1:]]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    lists = [
        f"- {markdown_text(line, begins_line=True)}"
        for line in (*page.conclusions, *page.footnotes, *page.legend)
    ]
    return "\n\n".join([*blocks, *(["\n".join(lists)] if lists else [])]) + "\n"


def _visible(page: Page) -> Page:
    """The page without terminal control codes, because names come from files."""
    sheets = [
        Sheet(
            [Row(visible(row.label), row.failure and visible(row.failure)) for row in sheet.rows],
            [Column(visible(c.header), [*map(visible, c.cells)], c.numeric) for c in sheet.columns],
            visible(sheet.title),
            visible(sheet.caption),
        )
        for sheet in page.sheets
    ]
    lines = (page.context, page.footnotes, page.legend, page.conclusions)
    context, footnotes, legend, conclusions = ([*map(visible, each)] for each in lines)
    return Page(context, sheets, footnotes, legend, conclusions)


def _fitted(sheet: Sheet, width: int) -> Iterator[Sheet]:
    """The sheet, split by columns into as few sheets as fit the width."""
    label = _label_width(sheet, width)
    left = list(sheet.columns)
    while True:
        room, taken = width - label, 0
        while taken < len(left) and (taken == 0 or room >= _GAP + _width(left[taken])):
            room -= _GAP + _width(left[taken])
            taken += 1
        yield Sheet(sheet.rows, left[:taken], sheet.title, sheet.caption)
        left = left[taken:]
        if not left:
            return


def _sheet_lines(sheet: Sheet, width: int, again: bool) -> Iterator[Text]:
    label = _label_width(sheet, width)
    widths = [_width(column) for column in sheet.columns]
    heads = [[sheet.caption], *(_broken(column.header) for column in sheet.columns)]
    deepest = max(map(len, heads))
    heads = [[""] * (deepest - len(head)) + head for head in heads]
    for line in zip(*heads, strict=True):
        yield Text(_line(line, label, widths, sheet.columns), "bold")
    yield Text("─" * (label + sum(w + _GAP for w in widths)), "dim")
    for index, row in enumerate(sheet.rows):
        names = chop_cells(row.label, label) or [""]
        if row.failure is not None:
            room = max(width - label - _GAP, _NARROWEST_LABEL)
            message = "failed" if again else _shortened(row.failure, room)
            yield Text.assemble(_padded(names[0], label), " " * _GAP, (message, "red"))
        else:
            cells = [column.cells[index] for column in sheet.columns]
            line_ = Text(_line([names[0], *cells], label, widths, sheet.columns))
            line_.highlight_regex(r"\S*!", "yellow")
            yield line_
        yield from (Text(name) for name in names[1:])


def _line(
    cells: Sequence[str], label: int, widths: Sequence[int], columns: Sequence[Column]
) -> str:
    line = _padded(cells[0], label)
    for cell, width, column in zip(cells[1:], widths, columns, strict=True):
        blank = " " * (width - cell_len(cell))
        line += " " * _GAP + (blank + cell if column.numeric else cell + blank)
    return line.rstrip()


def _label_width(sheet: Sheet, width: int) -> int:
    """The width of the longest label if that leaves room; longer labels are wrapped."""
    longest = max(cell_len(text) for text in (sheet.caption, *(row.label for row in sheet.rows)))
    widest = max((_width(column) for column in sheet.columns), default=0)
    most = max(_NARROWEST_LABEL, min(2 * width // 5, width - widest - _GAP))
    return min(longest, most)


def _width(column: Column) -> int:
    return max(cell_len(text) for text in (*_broken(column.header), *column.cells, " "))


def _broken(header: str) -> list[str]:
    return header.split(" ")


def _padded(text: str, width: int) -> str:
    return set_cell_size(text, max(width, cell_len(text)))


def _shortened(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _folded(line: str, width: int, style: str) -> Iterator[Text]:
    """A sentence wrapped at blanks, with indented continuation lines."""
    words, current = line.split(" "), ""
    for word in words:
        trial = f"{current} {word}" if current else word
        if current and cell_len(trial) > width:
            yield Text(current, style)
            trial = "  " + word
        current = trial
    yield Text(current, style)
