r"""Text from files and arguments, made safe for where it is shown. Nothing else escapes text.

Names, paths, metadata and messages come from files that anyone may have written, and from file
names that need not even be text. What is not printable (control characters, half characters,
marks that reverse the writing direction) is spelled out everywhere as in Python: `\x1b`, `\u202e`.
Each function below adds what its own format would take for more than text, and imports what it
needs, so that help is shown at once.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = [
    "csv_cell",
    "figure_text",
    "folded",
    "html_text",
    "json_text",
    "markdown_text",
    "plotly_text",
    "visible",
    "visible_lines",
]

_LONGEST_LABEL = 120  # characters; a longer one leaves a figure no room
_NOT_ASCII = r"[^ -~\n]"
# What spreadsheets take for the beginning of a formula (OWASP, "CSV injection"), with the
# full-width forms that some of them read alike.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# One way only to match each text: with two, a long one takes the square of its length.
_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
# Markdown: characters that always mean something, and those that do in some places: underscores
# at the edge of a word, an entity, an address that GitHub links to, an emoji's name.
_MARKDOWN = r"(?i)[\\|*`<>\[\]~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|:(?=//|[\w+-]+:)|(?<=www)\."
# At the beginning of a line: a heading, a quotation, a list, a rule.
_MARKDOWN_BLOCK = r"^(\s*\d*)([#>=+-]|(?<=\d)[.)])"


def visible(text: str) -> str:
    r"""`text` in one line: what is not printable is spelled out (`\x1b`, `\n`, `\udcff`)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def visible_lines(text: str) -> str:
    """The same for text of several lines. Later lines are indented, so none passes for a new one.

    A message that quotes a name with a line break in it cannot imitate another message.
    """
    first, *rest = (visible(line.expandtabs(4)) for line in text.split("\n"))
    return "\n".join([first, *(f"  {line}" if line[:1].strip() else line for line in rest)])


def folded(text: str, width: int) -> str:
    """Lines wrapped at blanks to `width` columns; a word that is longer is left whole."""
    import textwrap

    lines = text.split("\n")
    begins = [line[: len(line) - len(line.lstrip(" "))] for line in lines]
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent=begin + "  ",
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
            drop_whitespace=True,
        )
        if len(line) > width
        else line
        for line, begin in zip(lines, begins, strict=True)
    )


def json_text(document: Any, *, ascii_only: bool = False) -> str:
    r"""Strict JSON of `document`: what is not printable is escaped as `\uXXXX`, no NaN.

    Reading it gives the same strings back. With `ascii_only` all that is not ASCII is escaped.
    Raises `ValueError` for a number that is not finite.
    """
    import json

    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)

    def escaped(found: re.Match[str]) -> str:
        character = found[0]
        if character.isprintable() and not ascii_only:
            return character
        units = character.encode("utf-16-be", "surrogatepass")
        return "".join(rf"\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))

    return re.sub(_NOT_ASCII, escaped, text)


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file; text that a spreadsheet would run as a formula gets a `'` before it.

    Numbers, also where they are written as text, stay as they are.
    """
    if not isinstance(value, str):
        return value
    text = visible(value)
    formula = text.lstrip().startswith(_FORMULA) and not re.fullmatch(_NUMBER, text)
    return f"'{text}" if formula else text


def markdown_text(text: str, *, begins_line: bool = False) -> str:
    """Text in GitHub's markdown, where nothing in it is markup, HTML, a link or mathematics.

    Text that begins a line must not become a heading or a list either.
    """
    safe = re.sub(_MARKDOWN, lambda found: "\\" + found[0], visible(text))
    return re.sub(_MARKDOWN_BLOCK, r"\1\\\2", safe, count=1) if begins_line else safe


def html_text(text: str) -> str:
    """Text between HTML tags or in a quoted attribute."""
    import html

    return html.escape(visible(text))


def plotly_text(text: str) -> str:
    """Text for plotly, which reads tags, entities and `%{…}` in labels, and `$…$` with MathJax."""
    import html

    safe = html.escape(_label(text), quote=False)
    return safe.replace("%{", "%&#123;").replace("$", "&#36;")


def figure_text(text: str) -> str:
    """Text for matplotlib, which reads formulas between dollars and hides labels with `_` first."""
    safe = _label(text).replace("$", r"\$")
    return f" {safe}" if safe.startswith("_") else safe


def _label(text: str) -> str:
    """One line that is short enough to stand in a drawing."""
    short = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    return visible(short)


def _spelled(character: str) -> str:
    """A blank for any kind of blank, else the character's escape."""
    import unicodedata

    return " " if unicodedata.category(character) == "Zs" else ascii(character)[1:-1]
