"""The tables and sentences of a `Page` as HTML, for a style sheet or with styles of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from sharpcli.render.terminal.table import Page, Sheet
from sharpcli.runtime.text import html_text

__all__ = ["Look", "by_class", "fact_table", "inline", "page_blocks", "paragraphs"]

Look = Callable[..., str]
"""Gives the attributes of an element from its tag and its roles, such as "td", "number"."""

_DOUBT = re.compile(r"[!?]$|\?[(±!]")  # as the terminal marks what did not converge
_VERDICTS = ("sharper", "flatter", "undecided")
_INLINE = {
    "p": "margin:.2em 0",
    "th": "text-align:left;vertical-align:top",
    "td": "text-align:left;vertical-align:top",
    "number": "text-align:right",
    "wide": "overflow-x:auto",
    "context": "opacity:.7",
    "legend": "opacity:.7",
    "note": "opacity:.7",
    "footnotes": "color:#9a6700",
    "warning": "color:#9a6700",
    "doubt": "color:#9a6700",
    "failed": "color:#cf222e",
    "sharper": "font-weight:600",
    "flatter": "font-weight:600",
    "undecided": "opacity:.7",
}


def by_class(_tag: str, *roles: str) -> str:
    """The roles as classes, for a page with a style sheet."""
    return f" class='{' '.join(roles)}'" if roles else ""


def inline(tag: str, *roles: str) -> str:
    """The roles as styles: a notebook shows a cell on pages without our style sheet."""
    styles = ";".join(_INLINE[name] for name in (tag, *roles) if name in _INLINE)
    return f" style='{styles}'" if styles else ""


def page_blocks(page: Page, look: Look) -> Iterator[str]:
    """The page from its context to its legend, each part one block of HTML."""
    yield _block(page.context, "context", look)
    yield _block(page.conclusions, "conclusions", look)
    for sheet in page.sheets:
        yield _sheet_table(sheet, look)
    yield _block(page.footnotes, "footnotes", look)
    if page.legend:
        yield (
            f"<details{look('details', 'legend')}><summary>How to read the columns</summary>"
            f"{paragraphs(page.legend, look)}</details>"
        )


def paragraphs(texts: Sequence[str], look: Look, *roles: str) -> str:
    """Sentences, a paragraph each."""
    return "".join(f"<p{look('p', *roles)}>{html_text(text)}</p>" for text in texts)


def fact_table(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns, for a style sheet; long values wrap."""
    rows = "".join(
        f"<tr><th scope='row'>{html_text(name)}</th><td>{html_text(value)}</td></tr>"
        for name, value in facts
    )
    return f"<table class='facts'><tbody>{rows}</tbody></table>"


def _block(texts: Sequence[str], role: str, look: Look) -> str:
    return f"<div{look('div', role)}>{paragraphs(texts, look)}</div>" if texts else ""


def _sheet_table(sheet: Sheet, look: Look) -> str:
    """A sheet as a table in a box that scrolls when the table is wider than the page."""
    head = f"<th scope='col'{look('th')}>{html_text(sheet.caption)}</th>" + "".join(
        f"<th scope='col'{look('th', *_roles(column.numeric))}>{html_text(column.header)}</th>"
        for column in sheet.columns
    )
    body = []
    for index, row in enumerate(sheet.rows):
        label = f"<th scope='row'{look('th')}>{_breakable(row.label)}</th>"
        if row.failure is not None:
            wide = max(1, len(sheet.columns))
            failed = f"<td{look('td', 'failed')} colspan='{wide}'>"
            cells = f"{failed}{html_text(row.failure)}</td>"
        else:
            cells = "".join(
                _cell(column.cells[index] or "", look, numeric=column.numeric)
                for column in sheet.columns
            )
        body.append(f"<tr>{label}{cells}</tr>")
    title = f"<h3>{html_text(sheet.title)}</h3>" if sheet.title else ""
    # A box that scrolls can be reached by the keyboard, so it needs a name.
    name = html_text(sheet.title or sheet.caption)
    return (
        f"{title}<div{look('div', 'wide')} role='region' tabindex='0' aria-label='{name}'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(text: str, look: Look, *, numeric: bool) -> str:
    doubted = ["doubt"] if numeric and _DOUBT.search(text) else []
    verdict = [text] if text in _VERDICTS else []
    return f"<td{look('td', *_roles(numeric), *doubted, *verdict)}>{html_text(text)}</td>"


def _roles(numeric: bool) -> tuple[str, ...]:
    return ("number",) if numeric else ()


def _breakable(label: str) -> str:
    """A label that a narrow page breaks after its commas and slashes."""
    return re.sub("([,/])", r"\1<wbr>", html_text(label))
