"""The tables and sentences of a `Page` as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sharpcli.render.terminal.table import Page, Sheet
from sharpcli.runtime.text import html_text

__all__ = ["fact_table", "lines", "page_blocks", "sheet_table"]

_DOUBT = re.compile(r"[!?]$|\?[(±!]")  # as the terminal marks what did not converge
_VERDICTS = {"sharper": "sharper", "flatter": "flatter", "undecided": "undecided"}


def page_blocks(page: Page) -> Iterator[str]:
    """The page from its context to its legend, each part one block of HTML."""
    yield lines(page.context, "context")
    yield lines(page.conclusions, "conclusions")
    for sheet in page.sheets:
        yield sheet_table(sheet)
    yield lines(page.footnotes, "footnotes")
    if page.legend:
        yield (
            f"<details class='legend'><summary>How to read the columns</summary>"
            f"{lines(page.legend, '')}</details>"
        )


def lines(texts: Sequence[str], kind: str) -> str:
    """Sentences, a paragraph each; no HTML without any."""
    if not texts:
        return ""
    paragraphs = "".join(f"<p>{html_text(text)}</p>" for text in texts)
    return f"<div class='{kind}'>{paragraphs}</div>" if kind else paragraphs


def sheet_table(sheet: Sheet) -> str:
    """A sheet as a table in a box that scrolls when the table is wider than the page."""
    head = f"<th scope='col'>{html_text(sheet.caption)}</th>" + "".join(
        f"<th scope='col'{_number(column.numeric)}>{html_text(column.header)}</th>"
        for column in sheet.columns
    )
    body = []
    for index, row in enumerate(sheet.rows):
        label = f"<th scope='row'>{_breakable(row.label)}</th>"
        if row.failure is not None:
            wide = max(1, len(sheet.columns))
            cells = f"<td class='failed' colspan='{wide}'>{html_text(row.failure)}</td>"
        else:
            cells = "".join(
                _cell(column.cells[index] or "", numeric=column.numeric) for column in sheet.columns
            )
        body.append(f"<tr>{label}{cells}</tr>")
    title = f"<h3>{html_text(sheet.title)}</h3>" if sheet.title else ""
    # A box that scrolls can be reached by the keyboard, so it needs a name.
    name = html_text(sheet.title or sheet.caption)
    return (
        f"{title}<div class='wide' role='region' tabindex='0' aria-label='{name}'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def fact_table(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns; long values wrap."""
    rows = "".join(
        f"<tr><th scope='row'>{html_text(name)}</th><td>{html_text(value)}</td></tr>"
        for name, value in facts
    )
    return f"<table class='facts'><tbody>{rows}</tbody></table>"


def _cell(text: str, *, numeric: bool) -> str:
    names = ["number"] if numeric else []
    if numeric and _DOUBT.search(text):
        names.append("doubt")
    if text in _VERDICTS:
        names.append(_VERDICTS[text])
    about = f" class='{' '.join(names)}'" if names else ""
    return f"<td{about}>{html_text(text)}</td>"


def _breakable(label: str) -> str:
    """A label that a narrow page breaks after its commas and slashes."""
    return re.sub("([,/])", r"\1<wbr>", html_text(label))


def _number(numeric: bool) -> str:
    return " class='number'" if numeric else ""
