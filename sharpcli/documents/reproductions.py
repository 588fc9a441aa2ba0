"""The results of `sharp reproduce`: claims with their verdicts, and what its figures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sharpcli.documents.fields import Number, Sentences, absent
from sharpcli.settings.fields import Keywords

__all__ = [
    "ClaimResult",
    "Figure",
    "ListedClaim",
    "ListedExperiment",
    "Reproduced",
    "Series",
    "Statistic",
]

_COUNT = Keywords(minimum=0)


@dataclass(frozen=True)
class Statistic:
    """The number that decides a claim."""

    name: Annotated[str, "How it is computed for each seed."]
    value: Annotated[float | None, "The mean over seeds, of a ratio the geometric one."]
    interval: Annotated[
        tuple[float, float] | None, "Student's 95 % interval over seeds; null for fewer than two."
    ]
    by_seed: Annotated[Mapping[str, float], "Its value for each seed."]
    arguments: Annotated[Mapping[str, Any], "What it is computed of."]


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A result of `reproduce`: one claim."""

    name: Annotated[str, "Its short name in the experiment."]
    claim: Annotated[str, "What is claimed."]
    source: Annotated[str, "Where."]
    prediction: Annotated[str, "What the claim says of the statistic, set before the runs."]
    statistic: Statistic
    verdict: Annotated[
        Literal["confirmed", "not confirmed", "reversed", "undecided"],
        "not confirmed: the interval excludes an effect large enough to support the claim; "
        "reversed: it is on the other side of no effect; confirmed: neither, and it is where the "
        "claim predicts the statistic; undecided: none of these, or a seed has no statistic.",
    ]
    seeds: Annotated[int, "Seeds that have the statistic.", _COUNT]
    seeds_needed: Annotated[
        int | None,
        "Of an undecided claim: the seeds that would decide, if mean and variance stay the same.",
        _COUNT,
    ] = absent()
    notes: Sentences = absent(())


@dataclass(frozen=True)
class Series:
    """One line or set of points of a figure, in lists of one length."""

    name: Annotated[str, "In the legend."]
    x: Annotated[Sequence[Number], "Places along the axis."]
    y: Annotated[Sequence[Number], "Values; of curves and points the mean over seeds."]
    low: Annotated[Sequence[Number], "The lower end of the 95 % interval over seeds."] = absent(())
    high: Annotated[Sequence[Number], "The upper end."] = absent(())


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a figure shows."""

    title: Annotated[str, "Above the panel."]
    x_name: Annotated[str, "Of the axis."]
    y_name: Annotated[str, "Of the axis."]
    style: Annotated[
        Literal["points", "curves", "scatter", "rows"],
        "points: joined points with intervals. rows: each series is one number y on the horizontal "
        "axis, in a row with its name.",
    ]
    x_log: Annotated[bool, "Whether the axis is logarithmic."] = False
    y_log: Annotated[bool, "Whether the axis is logarithmic."] = False
    level: Annotated[float | None, "A value of y to mark."] = absent()
    series: Annotated[Sequence[Series], "Lines or sets of points."]


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """An experiment: what it does, and at which scale."""

    name: Annotated[str, "As in `sharp reproduce NAME`."]
    title: Annotated[str, "What it is about."]
    source: Annotated[str, "The paper."]
    design: Annotated[str, "What is trained, and what varies."]
    scale: Annotated[Literal["small", "paper"], "The sizes."]
    seeds: Annotated[int, "Seeds that were asked for.", _COUNT]
    few_seeds: Annotated[str | None, "Why fewer than five seeds."] = absent()
    limits: Annotated[str | None, "What it does not show."] = absent()


@dataclass(frozen=True)
class ListedClaim:
    """A claim of a built-in experiment."""

    name: Annotated[str, "Its short name in the experiment."]
    claim: Annotated[str, "What is claimed."]
    source: Annotated[str, "Where."]
    statistic: Annotated[str, "The number that decides, computed for each seed."]
    prediction: Annotated[str, "What the claim says of the statistic."]
    verdict: Annotated[str | None, "That of the last run that is kept; null where none is."]


@dataclass(frozen=True, kw_only=True)
class ListedExperiment:
    """A result of `experiments`: a built-in experiment."""

    name: Annotated[str, "As in `sharp reproduce NAME`."]
    title: Annotated[str, "What it is about."]
    source: Annotated[str, "The paper."]
    design: Annotated[str, "What is trained, and what varies."]
    minutes: Annotated[float, "On two cores, at the small scale."]
    claims: Annotated[Sequence[ListedClaim], "In the order of its file."]
