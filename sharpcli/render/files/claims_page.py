"""A page of markdown with the verdicts of experiments, and a figure beside it for each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sharpcli.errors import SharpError, counted
from sharpcli.render.files.plotting import draw
from sharpcli.render.numbers import format_number
from sharpcli.render.pages.reproductions import interval_text, statistic_text, verdict_text
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

    Raises:
        SharpError: the folder cannot be made.
    """
    folder, pictures = page.with_suffix(""), _picture_names(documents)
    blocks = ["# Claims", _VERDICTS, _summary(documents)]
    written = []
    for document, name in zip(documents, pictures, strict=True):
        about = document["settings"]["experiment"]
        blocks += [f"## {markdown_text(about['title'])}", *_section(document)]
        if any(figure["series"] for figure in document.get("figures", ())):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SharpError(
                    f"{folder}: cannot be made for the figures: {error.strerror}",
                    "name a page in a folder that may be written to",
                ) from error
            picture = folder / name
            draw(dict(document), picture, FigureSettings())
            written.append(picture)
            place = quote(f"{folder.name}/{name}")
            blocks.append(f"![{markdown_text(about['title'])}]({place})")
    save(page, "\n\n".join(blocks) + "\n")
    return [page, *written]


def _picture_names(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """A file name for each experiment, also where two results are of one."""
    names: list[str] = []
    for document in documents:
        # A document may come from somewhere else: its name is not to lead out of the folder.
        own = re.sub(r"[^\w.-]+", "-", document["settings"]["experiment"]["name"]).lstrip(".")
        several = (f"{own}-{count}" for count in itertools.count(2))
        names.append(next(e for e in itertools.chain([own], several) if f"{e}.svg" not in names))
        names[-1] += ".svg"
    return names


def _summary(documents: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| experiment | claim | verdict |", "| --- | --- | --- |"]
    for document in documents:
        about = document["settings"]["experiment"]
        scale = "" if about["scale"] == "small" else f" ({about['scale']} scale)"
        for result in document["results"]:
            cells = (about["name"] + scale, result["claim"], verdict_text(result))
            lines.append(f"| {' | '.join(map(markdown_text, cells))} |")
    return "\n".join(lines)


def _section(document: Mapping[str, Any]) -> list[str]:
    about = document["settings"]["experiment"]
    seeds = counted(about["seeds"], "seed")
    few = f" {markdown_text(about['few_seeds'])}" if about.get("few_seeds") else ""
    source = markdown_text(about["source"], begins_line=True)
    blocks = [
        f"{source}. {markdown_text(about['design'])}; {about['scale']} "
        f"scale, {seeds}.{few} `sharp reproduce {about['name'].replace('`', '')}` runs it."
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
            statistic_text(found),
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
    if notes:
        blocks.append("\n".join(notes))
    if about.get("limits"):
        blocks.append(f"What it does not show: {markdown_text(about['limits'])}")
    return blocks
