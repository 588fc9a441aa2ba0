r"""Make text from files and arguments safe to show. All escaping is in this module.

Names, paths, metadata and messages come from files that anyone may have written, and from file
names that need not even be text. What is not printable (control characters, half characters,
marks that reverse the writing direction) is spelled out everywhere as in Python: `\x1b`, `\u202e`.
Each function below adds what its own format would take for more than text, and imports what it
needs, so that help is shown at once.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import json

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

_LONGEST_LABEL = 120  # characters; a longer one leaves no room for the figure
_NOT_ASCII = r"[^ -~\n]"
# Characters that begin a formula in spreadsheets (OWASP, "CSV injection"), with the full-width
# forms that some of them accept too.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# Each text matches in one way only; with two, long text would take quadratic time.
_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
# Markdown: characters that are always markup, and those that are in some places: underscores at
# the edge of a word, an entity, an address that GitHub links, an emoji's name.
_MARKDOWN = r"(?i)[\\|*`<>\[\]~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|:(?=//|[\w+-]+:)|(?<=www)\."
# At the beginning of a line: a heading, a quotation, a list, a rule.
_MARKDOWN_BLOCK = r"^(\s*\d*)([#>=+-]|(?<=\d)[.)])"


def visible(text: str) -> str:
    r"""`text` on one line, with unprintable characters escaped (`\x1b`, `\n`, `\udcff`)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def visible_lines(text: str) -> str:
    """The same for several lines; later lines are indented.

    So a message that quotes a name with a line break in it cannot imitate another message.
    """
    first, *rest = (visible(line.expandtabs(4)) for line in text.split("\n"))
    return "\n".join([first, *(f"  {line}" if line[:1].strip() else line for line in rest)])


def folded(text: str, width: int) -> str:
    """Lines wrapped at blanks to `width` columns; longer words are not broken."""
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
    r"""Strict JSON of `document`, with unprintable characters escaped as `\uXXXX`.

    Reading it gives the same strings back. With `ascii_only` every non-ASCII character is escaped.
    A number that is not finite is a `ValueError`.
    """
    text = _indented(document)

    def escaped(found: re.Match[str]) -> str:
        character = found[0]
        if character.isprintable() and not ascii_only:
            return character
        units = character.encode("utf-16-be", "surrogatepass")
        return "".join(rf"\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))

    return re.sub(_NOT_ASCII, escaped, text)


def _indented(node: Any, begin: str = "\n") -> str:
    """What `json.dumps` gives with an indent of 2, in a fifth of the time for long flat lists.

    `begin` is how a line begins where the node ends.
    """
    import json

    inner = f"{begin}  "
    if type(node) is dict and node and all(type(key) is str for key in node):
        named = (f"{_flat(key)}: {_indented(each, inner)}" for key, each in node.items())
        return f"{{{inner}{f',{inner}'.join(named)}{begin}}}"
    if type(node) is list and node:
        if _FLAT.issuperset(map(type, node)):  # json's fast encoder knows no indent
            return f"[{inner}{_flat(node, f',{inner}')[1:-1]}{begin}]"
        return f"[{inner}{f',{inner}'.join(_indented(each, inner) for each in node)}{begin}]"
    if type(node) in _FLAT:
        return _flat(node)
    text = json.dumps(node, indent=2, allow_nan=False, ensure_ascii=False)
    return text.replace("\n", begin)


_FLAT = {float, int, bool, str, type(None)}


def _flat(node: Any, between: str = ", ") -> str:
    return _encoder(between).encode(node)


@functools.lru_cache(maxsize=16)
def _encoder(between: str) -> json.JSONEncoder:
    import json

    return json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(between, ": "))


def csv_cell(value: Any) -> Any:
    """A CSV cell; text that a spreadsheet would run as a formula gets a leading `'`.

    Numbers, also those written as text, stay as they are.
    """
    if not isinstance(value, str):
        return value
    text = visible(value)
    formula = text.lstrip().startswith(_FORMULA) and not re.fullmatch(_NUMBER, text)
    return f"'{text}" if formula else text


def markdown_text(text: str, *, begins_line: bool = False) -> str:
    """Text escaped for GitHub's markdown: no markup, HTML, links or mathematics.

    With `begins_line` it cannot become a heading or a list either.
    """
    safe = re.sub(_MARKDOWN, lambda found: "\\" + found[0], visible(text))
    return re.sub(_MARKDOWN_BLOCK, r"\1\\\2", safe, count=1) if begins_line else safe


def html_text(text: str) -> str:
    """Text escaped for HTML content or a quoted attribute."""
    import html

    return html.escape(visible(text))


def plotly_text(text: str) -> str:
    """Text for plotly, which interprets tags, entities and `%{…}`, and `$…$` with MathJax."""
    import html

    safe = html.escape(_label(text), quote=False)
    return safe.replace("%{", "%&#123;").replace("$", "&#36;")


def figure_text(text: str) -> str:
    """Text for matplotlib, which reads `$…$` as formulas and hides labels that begin with `_`."""
    safe = _label(text).replace("$", r"\$")
    return f" {safe}" if safe.startswith("_") else safe


def _label(text: str) -> str:
    """One line that is short enough for a figure."""
    short = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    return visible(short)


def _spelled(character: str) -> str:
    """A space for any kind of blank, else the character's escape."""
    import unicodedata

    return " " if unicodedata.category(character) == "Zs" else ascii(character)[1:-1]
