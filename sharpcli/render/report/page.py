"""The page: its head, its contents, and a section for each result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from sharpcli.errors import counted
from sharpcli.render.report.figures import can_draw
from sharpcli.render.report.sections import Section, section_of
from sharpcli.runtime.text import html_text
from sharpcli.runtime.version import __version__

__all__ = ["report_page"]

# No script runs, and nothing is requested: the icon would otherwise be.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';
 form-action 'none'">
<meta name="generator" content="sharp {version}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{about}
</header>
{contents}
<main>
{sections}
</main>
<footer>Made by sharp {version}. This page holds no script and loads nothing.</footer>
</body>
</html>
"""


def report_page(sections: Sequence[Section], title: str, problems: Sequence[str] = ()) -> str:
    """The complete page; `problems` are sentences about files that it does not show.

    The same documents give the same page: it has the dates of the data and none of its own.
    """
    anchors = [f"result-{number}" for number in range(1, len(sections) + 1)]
    boxes = [*problems]
    if not can_draw():
        boxes.append("no figures: matplotlib is not installed (pip install 'sharpcli[plot]')")
    about = f"<p class='about'>{html_text(' · '.join(_facts(sections)))}</p>"
    if boxes:
        items = "".join(f"<li class='warning'>{html_text(text)}</li>" for text in boxes)
        about += f"<ul class='problems'>{items}</ul>"
    return _PAGE.format(
        title=html_text(title),
        version=html_text(__version__),
        style=files("sharpcli.render.report").joinpath("style.css").read_text(encoding="utf-8"),
        about=about,
        contents=_contents(sections, anchors),
        sections="\n".join(map(section_of, sections, anchors)),
    )


def _contents(sections: Sequence[Section], anchors: Sequence[str]) -> str:
    if len(sections) < 2:
        return ""
    links = "".join(
        f"<li><a href='#{anchor}'>{html_text(section.heading)}</a></li>"
        for section, anchor in zip(sections, anchors, strict=True)
    )
    return f"<nav aria-label='Contents'><ol>{links}</ol></nav>"


def _facts(sections: Sequence[Section]) -> list[str]:
    """What all results share: how many, the task, when they were computed, and by what."""
    documents = [section.document for section in sections]
    environments = [document.get("environment") or {} for document in documents]
    tasks = [document.get("task") or {} for document in documents]
    dates = sorted({str(e["date"])[:10] for e in environments if e.get("date")})
    facts = [counted(len(sections), "result")]
    facts += [_named("task", (t.get("name") for t in tasks))]
    if dates:
        facts.append("computed " + " to ".join(dict.fromkeys((dates[0], dates[-1]))))
    facts += [
        _named(name, (e.get(key) for e in environments))
        for key, name in (("sharpcli", "sharp"), ("torch", "torch"))
    ]
    prints = (str(t["fingerprint"])[:12] for t in tasks if t.get("fingerprint"))
    facts += [_named("fingerprint", prints)]
    return [fact for fact in facts if fact]


def _named(name: str, values: Iterable[object]) -> str:
    found = list(dict.fromkeys(str(value) for value in values if value))
    return f"{name} {', '.join(found)}" if found else ""
