"""A page of markdown with the verdicts of experiments, and a figure beside it for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpcli.errors import counted
from sharpcli.render.files.plotting import draw
from sharpcli.render.numbers import format_number
from sharpcli.render.pages.reproductions import interval_text, verdict_text
from sharpcli.runtime.files import save
from sharpcli.runtime.text import markdown_text
from sharpcli.settings.output import FigureSettings

__all__ = ["write_claims_page"]

_VERDICTS = (
    "Each claim has one number, set before the runs. It is computed for each seed, and its "
    "interval is Student's 95 % interval over seeds. **not confirmed**: the interval excludes an "
    "effect large enough to support the claim. **reversed**: it is on the other side of no effect. "
    "**confirmed**: neither, and all of it is where the claim predicts the number. "
    "**undecided**: none of these, or a seed has no number, because a run diverged; the seeds that "
    "would decide are those that the variance seen asks for."
)


def write_claims_page(documents: Sequence[Mapping[str, Any]], page: Path) -> list[Path]:
    """Write the page, and NAME.svg in a folder of the page's name for each experiment.

    The same documents give the same bytes.

    Returns: the files.
    """
    folder = page.with_suffix("")
    blocks = ["# Claims", _VERDICTS, _summary(documents)]
    written = []
    for document in documents:
        about = document["settings"]["experiment"]
        blocks += [f"## {markdown_text(about['title'])}", *_section(document)]
        if document.get("figures"):
            folder.mkdir(parents=True, exist_ok=True)
            picture = folder / f"{about['name']}.svg"
            draw(dict(document), picture, FigureSettings())
            written.append(picture)
            blocks.append(f"![{markdown_text(about['title'])}]({folder.name}/{picture.name})")
    save(page, "\n\n".join(blocks) + "\n")
    return [page, *written]


def _summary(documents: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| experiment | claim | verdict |", "| --- | --- | --- |"]
    for document in documents:
        name = document["settings"]["experiment"]["name"]
        for result in document["results"]:
            cells = (name, result["claim"], verdict_text(result))
            lines.append(f"| {' | '.join(map(markdown_text, cells))} |")
    return "\n".join(lines)


def _section(document: Mapping[str, Any]) -> list[str]:
    about = document["settings"]["experiment"]
    seeds = counted(about["seeds"], "seed")
    few = f" {about['few_seeds']}" if about.get("few_seeds") else ""
    blocks = [
        f"{markdown_text(about['source'])}. {markdown_text(about['design'])}; {about['scale']} "
        f"scale, {seeds}.{few} `sharp reproduce {about['name']}` runs it."
    ]
    lines = [
        "| claim | statistic | predicted | value | 95 % interval | verdict |",
        "| --- | --- | --- | ---: | --- | --- |",
    ]
    for result in document["results"]:
        found = result["statistic"]
        value = "–" if found["value"] is None else format_number(found["value"], 3)
        cells = (
            result["claim"],
            found["name"].replace("_", " "),
            result["prediction"],
            value,
            interval_text(found["interval"]),
            verdict_text(result),
        )
        lines.append(f"| {' | '.join(map(markdown_text, cells))} |")
    blocks.append("\n".join(lines))
    notes = [
        f"- {markdown_text(result['claim'])}: {markdown_text(note)}"
        for result in document["results"]
        for note in result.get("notes", ())
    ]
    notes += [f"- {markdown_text(note)}" for note in document.get("notes", ())]
    return [*blocks, "\n".join(notes)] if notes else blocks
