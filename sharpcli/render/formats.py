"""The output formats: how a document becomes text, also in a limited encoding."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharpcli.documents.results import Document, dumps
from sharpcli.errors import UsageError, did_you_mean
from sharpcli.render.console import console
from sharpcli.render.kinds import kind_of, load
from sharpcli.runtime.text import json_text

if TYPE_CHECKING:
    from sharpcli.render.terminal.table import Page

__all__ = ["FORMATS", "Format", "format_of", "page_of"]


@dataclass(frozen=True)
class Format:
    """One format: the suffix of its files and its text.

    `text(document, metric, to_file)` is the result. `encodable(text, encoding, document)` is the
    text with substitutes for characters that an encoding lacks.
    """

    suffix: str
    text: Callable[[Document, str | None, bool], str]
    encodable: Callable[[str, str, Document], str]


def format_of(name: str) -> Format:
    """The format of this name; raises `UsageError` if there is none."""
    if name not in FORMATS:
        raise UsageError(f"there is no format '{name}'", did_you_mean(name, FORMATS))
    return FORMATS[name]


def _table(document: Document, metric: str | None, to_file: bool) -> str:
    """The page as shown in a terminal, with charts or maps if the kind has them."""
    from sharpcli.render.terminal.table import page_lines

    kind, screen, written = kind_of(document), console(plain=to_file), io.StringIO()
    if kind.lines:
        colour = screen.color_system in ("256", "truecolor") and not screen.no_color
        asked = {"colour": colour, "metric": metric} if kind.curves else {}
        lines = [*load(kind.lines)(document, screen.width, **asked)]
    else:
        lines = [*page_lines(page_of(document, metric), screen.width)]
    screen.file = written
    for line in lines:
        screen.print(line)
    return written.getvalue()


def _markdown(document: Document, metric: str | None, _to_file: bool) -> str:
    from sharpcli.render.terminal.table import markdown

    return markdown(page_of(document, metric))


def page_of(document: Document, metric: str | None) -> Page:
    """The page of a document: its tables and sentences; raises `UsageError` as `kind_of`."""
    kind = kind_of(document)
    page: Page = load(kind.page)(document, *([metric] if kind.curves else []))
    return page


def _csv(document: Document, _metric: str | None, _to_file: bool) -> str:
    from sharpcli.render.files.spreadsheet import rows_as_csv

    return rows_as_csv(load(kind_of(document).rows)(document))


def _plainer(text: str, encoding: str, _document: Document) -> str:
    from sharpcli.render.terminal.plain import plainer

    return plainer(text, encoding)


FORMATS: dict[str, Format] = {
    "table": Format(".txt", _table, _plainer),
    "json": Format(
        ".json",
        lambda document, _metric, _to_file: dumps(document) + "\n",
        lambda _text, _encoding, document: json_text(document, ascii_only=True) + "\n",
    ),
    "csv": Format(
        ".csv",
        _csv,
        lambda text, encoding, _: text.encode(encoding, "backslashreplace").decode(encoding),
    ),
    "markdown": Format(".md", _markdown, _plainer),
}
