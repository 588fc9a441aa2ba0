"""One saved result on the page: its figures, its tables, what to mind, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sharpcli.documents.labels import clean
from sharpcli.documents.results import Document
from sharpcli.errors import counted
from sharpcli.render.emit import problems
from sharpcli.render.html_tables import by_class, fact_table, page_blocks
from sharpcli.render.kinds import kind_of, load
from sharpcli.render.report.figures import Drawing, drawings
from sharpcli.runtime.text import html_text

__all__ = ["Section", "section_of"]

HEADINGS = {
    "measure": "Sharpness",
    "interpolate": "Between minima",
    "landscape": "Loss surface",
    "spectrum": "Hessian spectrum",
    "compare": "Comparison",
    "train": "Training",
    "sweep": "Sweep",
    "search": "Search",
    "schedule": "Schedule",
    "policies": "Schedules",
    "inspect": "Checkpoint",
}
_ABOUT = {"failed": "Failed", "warning": "Warning", "note": "Note"}
_SHORT_HASH = 12  # hex digits: enough to tell checkpoints apart


@dataclass(frozen=True)
class Section:
    """A saved result with its file's name, and the commands that made it, if they are known."""

    file: str
    document: Document
    commands: tuple[str, ...] = field(default=())

    @property
    def heading(self) -> str:
        """What the result is, with the checkpoint or task that it is of."""
        kind = self.document["kind"]
        about = _subject(self.document)
        heading = HEADINGS.get(kind, str(kind).capitalize())
        return f"{heading} of {about}" if about else heading


def section_of(section: Section, anchor: str) -> str:
    """The result as an HTML section; `anchor` is its unique name on the page."""
    document = section.document
    blocks = [
        f"<section id='{anchor}'><h2>{html_text(section.heading)}</h2>",
        *_figures(drawings(document, anchor)),
        *_problems(document, ("failed", "warning")),
        *_tables(document),
        *_problems(document, ("note",)),
        _origin(section),
        "</section>",
    ]
    return "\n".join(block for block in blocks if block)


def _subject(document: Document) -> str:
    """The checkpoints or the schedule that a result is about; "" where a table names them."""
    kind, results = document["kind"], document["results"]
    if not results:
        return ""
    first = results[0]
    if kind in ("interpolate", "landscape"):
        anchors = [c for c in first.get("checkpoints", ()) if c.get("role") != "marked"]
        names = [clean(c.get("path", "")) for c in anchors]
        return (" and " if len(names) < 3 else ", ").join(filter(None, names))
    if kind == "schedule" and len(results) == 1:
        return clean(first["schedule"])
    checkpoints = [r["checkpoint"]["path"] for r in results if "checkpoint" in r]
    if kind in ("train", "inspect") and len(checkpoints) == 1:
        return clean(checkpoints[0])
    nouns = {
        "measure": "checkpoint",
        "spectrum": "checkpoint",
        "train": "checkpoint",
        "inspect": "checkpoint",
        "compare": "group",
        "sweep": "run",
        "search": "trial",
    }
    return counted(len(results), nouns[kind]) if kind in nouns else ""


def _figures(found: list[Drawing]) -> Iterator[str]:
    if not found:
        return
    yield "<div class='figures'>"
    for each in found:
        ground = " class='paper'" if each.paper else ""
        caption = f"<figcaption>{html_text(each.title)}</figcaption>" if len(found) > 1 else ""
        yield f"<figure{ground}>{each.svg}{caption}</figure>"
    yield "</div>"


def _tables(document: Document) -> Iterator[str]:
    kind = kind_of(document)
    page = load(kind.page)(document, *([None] if kind.curves else []))
    yield from page_blocks(page, by_class)


def _problems(document: Document, kinds: tuple[str, ...]) -> Iterator[str]:
    """Boxes of failures and warnings, or one closed box of notes."""
    found = [(kind, text) for kind, text in problems(document) if kind in kinds]
    if not found:
        return
    items = "".join(
        f"<li class='{kind}'><b>{_ABOUT[kind]}:</b> {html_text(text)}</li>" for kind, text in found
    )
    if kinds == ("note",):
        count = counted(len(found), "note")
        yield f"<details><summary>{count}</summary><ul class='problems'>{items}</ul></details>"
    else:
        yield f"<ul class='problems'>{items}</ul>"


def _origin(section: Section) -> str:
    """How the result was made: the command, the software, the checkpoints, all settings."""
    document = section.document
    commands = "\n".join(map(html_text, section.commands))
    commands = f"<pre><code>{commands}</code></pre>" if commands else ""
    facts = [("file", section.file), *_environment(document), *_checkpoints(document)]
    settings = [*_flat(document.get("settings") or {})]
    more = f"<h4>Settings</h4>{fact_table(settings)}" if settings else ""
    return (
        f"<details class='origin'><summary>How it was made</summary>{commands}"
        f"{fact_table(facts)}{more}</details>"
    )


def _environment(document: Document) -> Iterator[tuple[str, str]]:
    task, there = document.get("task") or {}, document.get("environment") or {}
    if task.get("name"):
        yield "task", str(task["name"])
    for name, value in _flat(task.get("options") or {}):
        yield f"task option {name}", value
    if task.get("fingerprint"):
        yield "fingerprint of task and data", str(task["fingerprint"])
    for split, count in (task.get("examples") or {}).items():
        yield f"{split} examples", f"{count:,}"
    names = {"sharpcli": "sharp", "torch": "torch", "python": "python", "date": "date"}
    for key, name in (names | {k: k for k in there if k not in names}).items():
        if there.get(key) is not None:
            yield name, str(there[key])


def _checkpoints(document: Document) -> Iterator[tuple[str, str]]:
    """Each checkpoint's file with the start of its SHA-256."""
    for result in document["results"]:
        for about in (
            *([result["checkpoint"]] if "checkpoint" in result else ()),
            *(result.get("checkpoints") or ()),
        ):
            digest = about.get("sha256")
            yield (
                str(about.get("name", "checkpoint")),
                str(about.get("path", ""))
                + (f" (sha256 {digest[:_SHORT_HASH]}…)" if digest else ""),
            )


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every setting by its dotted name, as a person writes it."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
        return
    yield key, _written(node)


def _written(value: Any) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
