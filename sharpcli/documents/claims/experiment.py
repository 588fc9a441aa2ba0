"""An experiment's file, `experiment.toml`, read and checked.

title = "Large batches find sharp minima"
source = "Keskar et al. 2017, arXiv:1609.04836"
design = "what is trained, and what varies"     # this, limits and minutes: at the small scale
limits = "what it does not show"
paper = "what is trained at the paper's scale, and what varies"
minutes = 6                         # on two cores
[[stage]]
name = "trained"                    # trained.small.toml and trained.paper.toml are sweep files
[[stage]]
name = "between"                    # lines between pairs of the runs of an earlier stage
interpolate = { stage = "trained", a = { batch_size = "smallest" }, b = { batch_size = "largest" } }
[[stage]]
name = "apart"                      # how far runs are, on their way, from those with other settings
distances = { stage = "trained", to = { optimizer = "adam" } }
[[claim]]
name = "sharper"
claim = "the minima of large batches are sharper by φ"
statistic = "ratio"                 # one of `sharpcli.documents.claims.statistics`
value = "epsilon_sharpness[1e-3]"   # of a run: see `sharpcli.documents.claims.runs`
of = { batch_size = "largest" }
to = { batch_size = "smallest" }
direction = "above"
null = 1
least = 1.5
[[figure]]
kind = "levels"                     # one of `sharpcli.documents.claims.figures`
title = "φ over the batch size"
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from sharpcli.documents.claims.verdicts import Direction, Prediction
from sharpcli.errors import UsageError, did_you_mean
from sharpcli.runtime.toml import read_toml

__all__ = ["SCALES", "Claim", "Experiment", "FigurePlan", "Stage", "read_experiment"]

SCALES = ("small", "paper")
FILE = "experiment.toml"
_OF_EXPERIMENT = (
    *("title", "source", "design", "limits", "paper", "minutes", "few_seeds"),
    *("stage", "claim", "figure"),
)
# What the statistics take, so that a misspelt one is found before the runs.
ARGUMENTS = (
    *("value", "stage", "of", "to", "to_stage", "over", "log", "tuned", "tuned_by"),
    *("other", "than", "along", "by", "chosen_in", "distance", "factor", "factors", "split"),
    *("high_end", "low_end", "margin", "minus", "reached", "rises", "stages", "target", "to_value"),
)
_TYPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("stage", "to_stage", "other", "tuned_by"), (str, "text")),
    **dict.fromkeys(("of", "to"), (dict, "table of settings")),
    **dict.fromkeys(("tuned", "factors", "stages", "by"), (list, "list of names")),
    **dict.fromkeys(("log", "rises"), (bool, "true or false")),
}
_OF_LINES = ("stage", "a", "b", "points", "range")
_OF_PREDICTION = tuple(each.name for each in dataclasses.fields(Prediction))


@dataclass(frozen=True)
class Stage:
    """One step: a sweep, lines between runs of an earlier stage, or distances between their paths.

    `interpolate` and `distances` are None in a sweep.
    """

    name: str
    interpolate: Mapping[str, Any] | None = None
    distances: Mapping[str, Any] | None = None

    @property
    def is_sweep(self) -> bool:
        """Whether it has a sweep file."""
        return self.interpolate is None and self.distances is None


@dataclass(frozen=True)
class Claim:
    """A claim, the statistic that decides it, and what is predicted of it."""

    name: str
    claim: str
    source: str
    statistic: str
    prediction: Prediction
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FigurePlan:
    """A figure: its kind, and what it shows."""

    kind: str
    title: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """All of an experiment's file.

    `few_seeds` says why it has fewer than five, `limits` what it does not show at the small scale,
    `paper` what its design is at the paper's.
    """

    name: str
    folder: Path
    title: str
    source: str
    design: str
    minutes: float
    stages: Sequence[Stage]
    claims: Sequence[Claim]
    figures: Sequence[FigurePlan]
    few_seeds: str | None = None
    limits: str | None = None
    paper: str | None = None

    def sweep_file(self, stage: Stage, scale: str) -> Path:
        """The sweep file of a stage at a scale."""
        return self.folder / f"{stage.name}.{scale}.toml"


def read_experiment(folder: Path) -> Experiment:
    """The experiment in a folder.

    Raises:
        UsageError: names the file and the key, for what is missing or does not exist.
    """
    file = folder / FILE
    content = read_toml(file)
    _check_keys(file, "", content, _OF_EXPERIMENT)
    texts = {key: _text(file, "", content, key) for key in ("title", "source", "design")}
    stages = [_stage(file, table) for table in _tables(file, content, "stage")]
    names = [stage.name for stage in stages]
    claims = [
        _claim(file, table, texts["source"], names) for table in _tables(file, content, "claim")
    ]
    figures = (
        [_figure(file, t) for t in _tables(file, content, "figure")] if "figure" in content else []
    )
    for index, stage in enumerate(stages):
        _check_lines(file, stage, [each.name for each in stages[:index] if each.is_sweep])
    for what, known in (("stage", names), ("claim", [claim.name for claim in claims])):
        if len({*known}) < len(known):
            raise UsageError(f"{file}: two {what}s have one name", "give each its own")
    return Experiment(
        name=folder.resolve().name,
        folder=folder,
        **texts,
        minutes=_minutes(file, content.get("minutes", 0)),
        stages=stages,
        claims=claims,
        figures=figures,
        **{
            key: _text(file, "", content, key)
            for key in ("few_seeds", "limits", "paper")
            if key in content
        },
    )


def _minutes(file: Path, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UsageError(f"{file}: minutes = {value!r}: is no time", "write a number of minutes")
    return float(value)


def _stage(file: Path, table: Mapping[str, Any]) -> Stage:
    _check_keys(file, "[[stage]] ", table, ("name", "interpolate", "distances"))
    name = _text(file, "[[stage]] ", table, "name")
    if not re.fullmatch(r"[\w-]+", name):
        raise UsageError(f"{file}: stage {name!r}: is no name of a folder", "use letters and -")
    if f"{name}.toml" == FILE:
        raise UsageError(f"{file}: stage {name!r}: its sweep file would be {FILE}", "rename it")
    return Stage(name, table.get("interpolate"), table.get("distances"))


def _check_lines(file: Path, stage: Stage, earlier: Sequence[str]) -> None:
    """Refuse lines between runs that are not there."""
    plan = stage.interpolate
    if plan is None:
        return
    where = f"stage {stage.name}: interpolate: "
    if not isinstance(plan, dict):
        raise UsageError(f"{file}: {where}is no table", 'write { stage = "…", a = {…}, b = {…} }')
    _check_keys(file, where, plan, _OF_LINES)
    if (of := _text(file, where, plan, "stage")) not in earlier:
        raise UsageError(
            f"{file}: {where}stage: {did_you_mean(of, earlier)}", "name a sweep that comes before"
        )
    for side in ("a", "b"):
        if not isinstance(plan.get(side), dict):
            raise UsageError(f"{file}: {where}{side} = {{…}} is missing", "name settings of a run")


def _claim(file: Path, table: Mapping[str, Any], source: str, stages: Sequence[str]) -> Claim:
    name = _text(file, "[[claim]] ", table, "name")
    where = f"claim {name}: "
    direction = _text(file, where, table, "direction")
    if direction not in get_args(Direction):
        raise UsageError(
            f"{file}: {where}direction: {did_you_mean(direction, get_args(Direction))}",
            f"directions: {', '.join(get_args(Direction))}",
        )
    own = ("name", "claim", "source", "statistic")
    arguments = {k: v for k, v in table.items() if k not in (*own, *_OF_PREDICTION)}
    _check_keys(file, where, table, (*own, *_OF_PREDICTION, *ARGUMENTS))
    _check_types(file, where, arguments)
    _check_value(file, where, table)
    for key in ("stage", "to_stage"):
        if (stage := arguments.get(key, stages[0])) not in stages:
            raise UsageError(f"{file}: {where}{key}: {did_you_mean(stage, stages)}", "name a stage")
    return Claim(
        name=name,
        claim=_text(file, where, table, "claim"),
        source=_text(file, where, {"source": source, **table}, "source"),
        statistic=_text(file, where, table, "statistic"),
        prediction=_prediction(file, where, table),
        arguments=arguments,
    )


def _prediction(file: Path, where: str, table: Mapping[str, Any]) -> Prediction:
    given = {key: table[key] for key in _OF_PREDICTION if key in table}
    for key, value in given.items():
        if key != "direction" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{file}: {where}{key} = {value!r}: is not a number", "correct it")
    try:
        return Prediction(**given)
    except ValueError as error:
        raise UsageError(f"{file}: {where}{error}", "correct the prediction") from error


def _check_types(file: Path, where: str, arguments: Mapping[str, Any]) -> None:
    for key, value in arguments.items():
        kind, said = _TYPES.get(key, (object, ""))
        if not isinstance(value, kind):
            raise UsageError(f"{file}: {where}{key} = {value!r}: is no {said}", "correct it")


def _check_value(file: Path, where: str, table: Mapping[str, Any]) -> None:
    """Refuse a value that is no name of a number, or several where the statistic takes one."""
    value = table.get("value", "")
    several = str(table.get("statistic")).startswith("granulated") and isinstance(value, list)
    if not all(isinstance(each, str) for each in (value if several else [value])):
        raise UsageError(
            f"{file}: {where}value = {value!r}: is no name of a number",
            "write one as text; the granulated correlations also take a list of them",
        )


def _figure(file: Path, table: Mapping[str, Any]) -> FigurePlan:
    kind, title = (_text(file, "[[figure]] ", table, key) for key in ("kind", "title"))
    return FigurePlan(kind, title, {k: v for k, v in table.items() if k not in ("kind", "title")})


def _tables(file: Path, content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(e, dict) for e in found):
        raise UsageError(f"{file}: has no {key}", f"write a table for each: [[{key}]]")
    return found


def _text(file: Path, where: str, table: Mapping[str, Any], key: str) -> str:
    found = table.get(key)
    if not isinstance(found, str) or not found.strip():
        raise UsageError(f'{file}: {where}{key} = "…" is missing', "add the line")
    return found


def _check_keys(file: Path, where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UsageError(
                f"{file}: {where}{key}: {did_you_mean(key, known)}", f"keys: {', '.join(known)}"
            )
