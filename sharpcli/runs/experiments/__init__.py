"""The built-in experiments, what a run of one left, and the results that are kept.

Each folder here is an experiment: `experiment.toml`, its sweep files, and `result.json`, the result
of the last run. Reads only files, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from sharpcli.documents.claims.conclusions import conclude, prediction_text
from sharpcli.documents.claims.experiment import FILE, Claim, Experiment, Stage, read_experiment
from sharpcli.documents.claims.runs import Lines, StageRuns, chosen, read_stage
from sharpcli.documents.environment import environment
from sharpcli.documents.reading import load_document
from sharpcli.documents.reproductions import ListedClaim, ListedExperiment
from sharpcli.documents.results import Document, Report, to_document
from sharpcli.errors import SharpError, UsageError, did_you_mean
from sharpcli.runs.score import documents_of_runs

__all__ = [
    "DISTANCES",
    "RESULT",
    "SWEEP",
    "experiments",
    "find_experiment",
    "judged",
    "list_experiments",
    "read_finished",
    "saved_results",
]

RESULT, SWEEP, DISTANCES = "reproduce.json", "sweep.json", "distances.json"
_KEPT = "result.json"
# In the order in which the papers were published; others come after them.
_ORDER = (
    *("keskar-sharpness", "keskar-warm-start", "keskar-remedies", "dinh-rescaling"),
    *("smith-growing-batches", "smith-batch-scaling", "lrbench-steps", "jiang-measures"),
    *("cohen-gradient-descent", "cohen-adam", "cattaneo-adam-perturbed-norm"),
    *("lrbench-fine-tuning", "ademamix-memory"),
    *("cattaneo-adam-batch-images", "cattaneo-adam-batch-text"),
)


def experiments() -> dict[str, Path]:
    """The folders of the built-in experiments by name, in the order of their papers."""
    home = Path(str(resources.files(__name__)))
    found = {each.parent.name: each.parent for each in sorted(home.glob(f"*/{FILE}"))}
    places = {name: place for place, name in enumerate(_ORDER)}
    return dict(sorted(found.items(), key=lambda each: places.get(each[0], len(places))))


def find_experiment(name: str) -> Experiment:
    """The built-in experiment of this name, or that in a folder.

    Raises:
        UsageError: there is none.
    """
    known = experiments()
    if name in known:
        return read_experiment(known[name])
    if (Path(name) / FILE).is_file():
        return read_experiment(Path(name))
    raise UsageError(
        f"{name}: there is no such experiment: {did_you_mean(name, known)}",
        f"name one of the list that `sharp reproduce` prints, or a folder with {FILE}",
    )


def list_experiments() -> Document:
    """All built-in experiments with their claims, and the verdicts that are kept."""
    listed = []
    for name, folder in experiments().items():
        experiment, kept = read_experiment(folder), folder / _KEPT
        known = load_document(kept)["results"] if kept.exists() else ()
        verdicts = {_asked(each): each["verdict"] for each in known}
        claims = [
            ListedClaim(
                each.name,
                each.claim,
                each.source,
                each.statistic,
                prediction_text(each.prediction),
                verdicts.get(_planned(each)),
            )
            for each in experiment.claims
        ]
        listed.append(
            ListedExperiment(
                name=name,
                title=experiment.title,
                source=experiment.source,
                design=experiment.design,
                minutes=experiment.minutes,
                claims=claims,
            )
        )
    return to_document(Report("experiments", {}, environment(), {}, listed))


def _planned(claim: Claim) -> str:
    """What a claim asks; a verdict that is kept is of this, and not of what was asked before."""
    asked = [claim.name, claim.statistic, prediction_text(claim.prediction), {**claim.arguments}]
    return json.dumps(asked, sort_keys=True)


def _asked(result: Mapping[str, Any]) -> str:
    statistic = result["statistic"]
    asked = [result["name"], statistic["name"], result["prediction"], statistic["arguments"]]
    return json.dumps(asked, sort_keys=True)


def saved_results(names: Sequence[str]) -> list[Document]:
    """The results in these folders, or without names those that are kept.

    Raises:
        UsageError: a folder has no result, or a file holds another kind of one.
    """
    files = [Path(name) / RESULT if Path(name).is_dir() else Path(name) for name in names]
    for file in files:
        if not file.exists():
            raise UsageError(f"{file}: there is no such file", f"name folders that hold a {RESULT}")
    kept = [folder / _KEPT for folder in experiments().values()]
    documents = []
    for file in files or [each for each in kept if each.exists()]:
        document = load_document(file)
        if document["kind"] != "reproduce":
            raise UsageError(
                f'{file}: holds a result of kind "{document["kind"]}", not of an experiment',
                f"name folders that hold a {RESULT}",
            )
        documents.append(document)
    return documents


def judged(experiment: Experiment, output: Path, scale: str) -> Document:
    """The document of what the folder holds, of its files alone."""
    stages: dict[str, StageRuns] = {}
    task: Mapping[str, Any] = {}
    for stage in experiment.stages:
        folder = output / stage.name
        if stage.interpolate is not None:
            stages[stage.name] = _read_lines(stage, folder, stages)
            continue
        if stage.distances is not None:
            stages[stage.name] = _read_distances(stage, folder, stages)
            continue
        sweep = read_finished(folder / SWEEP)
        task = task or sweep["task"]
        stages[stage.name] = read_stage(stage.name, sweep, *documents_of_runs(sweep, folder))
    seeds = max(len(each.seeds) for each in stages.values())
    return to_document(conclude(experiment, scale, seeds, stages, task))


def _read_lines(stage: Stage, folder: Path, stages: Mapping[str, StageRuns]) -> StageRuns:
    plan = stage.interpolate or {}
    seeds = [{run.seed for run in chosen(stages[plan["stage"]], plan[side])} for side in "ab"]
    lines = []
    for file in sorted(folder.glob("seed-*.json")):
        (result,) = load_document(file)["results"]
        places = [place["alpha"] for place in result["coordinates"]]
        lines.append(Lines(int(file.stem.removeprefix("seed-")), places, result["curves"]))
    held = {line.seed for line in lines}
    return StageRuns(stage.name, lines=lines, without_line=sorted((seeds[0] & seeds[1]) - held))


def _read_distances(stage: Stage, folder: Path, stages: Mapping[str, StageRuns]) -> StageRuns:
    """The runs of the earlier stage that have distances, with them."""
    file = folder / DISTANCES
    if not file.exists():
        raise _not_run(folder)
    found, runs = json.loads(file.read_text("utf-8")), []
    for run in stages[(stage.distances or {})["stage"]].runs:
        if (own := found.get(run.run.name)) is not None:
            pairs = [*zip(own["steps"], own["distances"], strict=True)]
            runs.append(replace(run, distances=pairs))
        elif run.is_lost:
            runs.append(run)
    return StageRuns(stage.name, runs)


def read_finished(file: Path) -> Document:
    """A stage's document; raises `SharpError` where the stage has not run."""
    if not file.exists():
        raise _not_run(file.parent)
    return load_document(file)


def _not_run(folder: Path) -> SharpError:
    return SharpError(
        f"{folder}: this stage has not run yet", "run the experiment to its end first"
    )
