"""The figures of a document as SVG that stands inside the page and takes its colours."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass

from sharpcli.documents.results import Document
from sharpcli.errors import SharpError
from sharpcli.render.files.plotting import narrowed
from sharpcli.render.kinds import KINDS, load, read_drawing
from sharpcli.runtime.text import html_text
from sharpcli.settings.output import FigureSettings

__all__ = ["Drawing", "can_draw", "drawings"]

# Inches: at 360 px a figure of this width shows its 8-point labels at about 9 px.
_NARROW = 3.6
# Inks of the figures that would be dark on a dark page.
_INKS = re.compile(r"#(?:000000|262626|333333|404040|595959)\b")
_HEAD = re.compile(r"<svg[^>]*?viewBox=\"0 0 ([\d.]+) ([\d.]+)\"[^>]*>")
# The style is `*{…}`, which would reach the whole page.
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*|<style[^>]*>.*?</style>\s*", re.DOTALL)
_COMMENTS = re.compile(r"\s*<!--.*?-->", re.DOTALL)
_PATHS = re.compile(r'(?<= d=")[^"]+')
_FINE = re.compile(r"(\d+\.\d{2})\d+")  # a hundredth of a point is less than a printer resolves
_PIXELS_A_POINT = 96 / 72


@dataclass(frozen=True)
class Drawing:
    """One figure: its HTML, what it shows, and whether it needs a white ground (a map)."""

    svg: str
    title: str
    paper: bool


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def drawings(document: Document, name: str) -> list[Drawing]:
    """The figures of a document; empty for one that has none.

    `name` is unique on the page: the SVG's own names are made from it. A plane has a figure for
    each split, one below the other on a narrow screen.
    """
    kind = KINDS.get(document["kind"])
    if kind is None or ".svg" not in kind.figures or not can_draw():
        return []
    try:
        found = [
            _drawing(part, f"{name}-{index}", title)
            for index, (title, part) in enumerate(_parts(document))
        ]
    except SharpError:  # a table only, such as measures that are not of one training
        return []
    return found


def _parts(document: Document) -> list[tuple[str, Document]]:
    """The figures' titles and what each draws."""
    results = document["results"]
    plane = results and len(results[0].get("axes") or ()) == 2
    if not plane or not results[0].get("curves"):
        return [(document["kind"], document)]
    return [
        (f"{document['kind']}, {split} data", narrowed(document, split, None))
        for split in results[0]["curves"]
    ]


def _drawing(document: Document, name: str, title: str) -> Drawing:
    drawing = read_drawing(document)
    settings = FigureSettings(width=_NARROW, inline=True)
    content: bytes = load(KINDS[document["kind"]].figures[".svg"])(drawing, ".svg", settings)
    paper = bool(getattr(drawing, "is_plane", False)) or hasattr(drawing, "down")
    return Drawing(_inlined(content.decode(), name, title), title, paper)


def _inlined(svg: str, name: str, title: str) -> str:
    """An SVG file's element without its prolog, with unique names, the page's ink and no size."""
    found = _HEAD.search(svg)
    assert found is not None, "matplotlib writes the viewBox"
    width, height = found[1], found[2]
    body = svg[found.end() :]
    body = _COMMENTS.sub("", _METADATA.sub("", body))
    used = {*re.findall(r'xlink:href="#([^"]+)"', body), *re.findall(r"url\(#([^)]+)\)", body)}
    body = re.sub(
        r' id="([^"]+)"', lambda own: f' id="{name}-{own[1]}"' if own[1] in used else "", body
    )
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = _PATHS.sub(lambda path: _FINE.sub(r"\1", path[0]), _INKS.sub("currentColor", body))
    pixels = round(float(width) * _PIXELS_A_POINT)
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{1.6 * pixels:.0f}px" role="img" '
        f'aria-label="{html_text(title)}" fill="currentColor" stroke-linejoin="round" '
        f'stroke-linecap="butt">{body}'
    )
