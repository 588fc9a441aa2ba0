"""A page as HTML without scripts or style sheets, for a notebook's cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sharpcli.render.terminal.table import Page, Sheet
from sharpcli.runtime.text import html_text

__all__ = ["page_html", "paragraphs"]

_DIM, _MARKED = "opacity:.7;margin:.2em 0", "color:#9a6700;margin:.2em 0"
_LABEL, _NUMBER = "text-align:left;vertical-align:top", "text-align:right;vertical-align:top"


def page_html(page: Page) -> str:
    """The page's sentences and tables."""
    parts = [paragraphs(page.context, _DIM)]
    for sheet in page.sheets:
        parts += [paragraphs([sheet.title] if sheet.title else []), "\n".join(_table(sheet))]
    parts.append(paragraphs(page.conclusions))
    parts += [paragraphs(page.footnotes, _MARKED), paragraphs(page.legend, _DIM)]
    return "\n".join(part for part in parts if part)


def paragraphs(lines: Sequence[str], style: str = "margin:.2em 0") -> str:
    """A paragraph for each line."""
    return "\n".join(f'<p style="{style}">{html_text(line)}</p>' for line in lines)


def _table(sheet: Sheet) -> Iterator[str]:
    yield "<table>"
    heads = [(sheet.caption, _LABEL)]
    heads += [(each.header, _NUMBER if each.numeric else _LABEL) for each in sheet.columns]
    cells = "".join(f'<th style="{style}">{html_text(text)}</th>' for text, style in heads)
    yield f"<thead><tr>{cells}</tr></thead>"
    yield "<tbody>"
    for index, row in enumerate(sheet.rows):
        label = f'<th style="{_LABEL}">{html_text(row.label)}</th>'
        if row.failure is not None:
            span = max(len(sheet.columns), 1)
            failed = f'<td colspan="{span}" style="{_LABEL};color:#cf222e">'
            yield f"<tr>{label}{failed}{html_text(row.failure)}</td></tr>"
            continue
        own = "".join(
            f'<td style="{_NUMBER if each.numeric else _LABEL}">{html_text(each.cells[index])}</td>'
            for each in sheet.columns
        )
        yield f"<tr>{label}{own}</tr>"
    yield "</tbody>"
    yield "</table>"
