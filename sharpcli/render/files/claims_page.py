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
    "Each claim has one number, which was chosen before the runs, with what is predicted of it. It "
    "is computed for each seed. The mean over seeds has Student's 95 % interval, which decides:",
    "\n".join(
        (
            "| verdict | the interval |",
            "| --- | --- |",
            "| confirmed | is where the claim predicts the number |",
            "| reversed | is on the other side of no effect |",
            "| not confirmed | is outside the predicted range, or excludes an effect that is large "
            "enough to count |",
            "| undecided | does none of these, or a seed has no number; the seeds that would "
            "decide are estimated from the mean and variance of these |",
        )
    ),
    "A verdict is on the setting that its section describes, not on larger networks or other data.",
)

# What a number is, where its name does not say it.
_STATISTICS = {
    "ratio": "a number of some runs over that of others; of several runs of a seed it is the "
    "geometric mean",
    "value": "a number of the runs, or its median over the last half of a course",
    "slope": "how much a number rises for each doubling of a setting, by least squares over the "
    "runs of a seed; of eigenvalues and gaps it is their logarithm to base 2 that rises",
    "slope_difference": "the slope of some runs minus that of others",
    "crossing_ratio": "the batch size at which a slope changes its sign, over the one that is "
    "equal to the critical batch size of its runs",
    "length_ratio": "how many steps a training needs to end at the loss of the other one, over the "
    "steps of the other one; from trainings of several lengths, along a line over the logarithm of "
    "the length",
    "target_ratio": "the steps of some runs to a target over those of others",
    "half_life_ratio": "the steps in which half of what was gained is lost, of some runs over "
    "those of others",
    "cost_of_choice": "what is best in another stage is used in this one: how much worse it is "
    "than what is best here; other seeds choose both",
    "rank_correlation_difference": "the size of Kendall's coefficient of a measure and one number, "
    "minus that of the measure and another number",
    "granulated_correlation": "Kendall's coefficient over pairs of runs that differ in one setting "
    "only, averaged over the settings (Jiang et al. 2020)",
    "granulated_correlation_difference": "the mean granulated correlation of some measures minus "
    "that of others",
    "count_above": "how many numbers of a list, such as eigenvalues, are above the largest one of "
    "the other run",
    "worse_from": "the setting, such as the batch size, from which on a number is worse than the "
    "best one by more than a margin",
    "rise_ratio": "how much the loss rises near one end of a line, on both sides of it, over how "
    "much it does near the other end",
    "rise": "the median over the last half of a course, over its first number",
    "highest": "the largest number of a course",
    "share_within": "the share of a course's numbers that are in a range, once it has come close",
}


def write_claims_page(documents: Sequence[Mapping[str, Any]], page: Path) -> list[Path]:
    """Write the page, and NAME.svg in a folder of the page's name for each experiment.

    The same documents give the same bytes.

    Returns: the files.

    Raises:
        SharpError: the folder cannot be made.
    """
    folder, pictures = page.with_suffix(""), _picture_names(documents)
    blocks = ["# Claims", *_VERDICTS, _summary(documents)]
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
            if any("low" in series for e in document["figures"] for series in e["series"]):
                blocks.append(
                    f"Means over {counted(about['seeds'], 'seed')} at the {about['scale']} scale, "
                    "with their 95 % intervals."
                )
            blocks += _tables(document["figures"])
    blocks += _glossary(documents)
    save(page, "\n\n".join(blocks) + "\n")
    return [page, *written]


def _tables(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """The numbers of figures in which groups of runs are compared at the same settings."""
    blocks = []
    for figure in figures:
        series = figure["series"] if figure["style"] == "points" else []
        at = [dict(zip(e["x"], _intervals(e), strict=True)) for e in series]
        places = sorted({x for each in at for x in each})
        if len(places) < 2 or any(sum(x in each for each in at) < 2 for x in places):
            continue
        header = [figure["x_name"], *(each["name"] for each in series)]
        lines = [f"| {' | '.join(map(markdown_text, header))} |", "| ---: " * len(header) + "|"]
        for x in places:
            lines.append(f"| {x:.4g} | {' | '.join(_cell(each.get(x)) for each in at)} |")
        blocks += [f"**{markdown_text(figure['title'])}**", "\n".join(lines)]
    return blocks


def _intervals(series: Mapping[str, Any]) -> list[tuple[float, float, float]]:
    return [*zip(*(series[key] for key in ("y", "low", "high")), strict=True)]


def _cell(numbers: tuple[float, float, float] | None) -> str:
    """A mean with its interval: `0.62 (0.57 to 0.67)`."""
    if numbers is None or None in numbers:
        return "–"
    value, low, high = (format_number(each, 3) for each in numbers)
    return f"{value} ({low} to {high})"


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
    """A row for each claim; the experiment's name is in its first row."""
    lines = ["| experiment | claim | verdict |", "| --- | --- | --- |"]
    for document in documents:
        about = document["settings"]["experiment"]
        scale = "" if about["scale"] == "small" else f" ({about['scale']} scale)"
        name = about["name"] + scale
        for result in document["results"]:
            cells = (name, result["claim"], verdict_text(result))
            lines.append(f"| {' | '.join(map(markdown_text, cells))} |")
            name = ""
    return "\n".join(lines)


def _glossary(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the statistics of these documents are, where their names do not say it."""
    used = {result["statistic"]["name"] for each in documents for result in each["results"]}
    lines = [f"- {name.replace('_', ' ')}: {what}." for name, what in _STATISTICS.items()]
    kept = [line for name, line in zip(_STATISTICS, lines, strict=True) if name in used]
    tuned = any("tuned" in r["statistic"]["arguments"] for e in documents for r in e["results"])
    if tuned:
        kept.append("- Where settings are tuned, another seed chooses those of a seed.")
    return ["## Statistics", "\n".join(kept)] if kept else []


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
