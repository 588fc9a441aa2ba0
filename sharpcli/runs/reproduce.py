"""Run a claim's experiment: its stages one after the other, then the verdicts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharpcli.documents.claims.conclusions import conclude
from sharpcli.documents.claims.experiment import FILE, SCALES, Experiment, Stage
from sharpcli.documents.claims.runs import StageRuns, Trained, by_seed, chosen, read_stage
from sharpcli.documents.results import Document, dumps, is_interrupted, to_document
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, counted, did_you_mean, setting
from sharpcli.runs.claimed_values import check_values
from sharpcli.runs.experiments import RESULT, SWEEP, judged, read_finished
from sharpcli.runs.interpolate import interpolate_checkpoints
from sharpcli.runs.path_distances import write_distances
from sharpcli.runs.sweep import Watch, sweep
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_measures import measure_sweep, read_measure
from sharpcli.runs.sweep_run import Tasks
from sharpcli.runtime.files import save, write_whole
from sharpcli.runtime.progress import UNSAID, Begin, Notes, silent
from sharpcli.runtime.toml import read_toml
from sharpcli.settings.exploring import GridSettings, InterpolateSettings
from sharpcli.settings.measuring import RunSettings
from sharpcli.training.sweep_file import Sweep, read_sweep

__all__ = ["Asked", "reproduce"]

_SEEDS = re.compile(r"^seed\s*=\s*\[([^\]]*)\]", re.MULTILINE)


@dataclass(frozen=True)
class Asked:
    """How to run an experiment.

    Attributes:
        scale: "small", for two cores, or "paper", for GPUs.
        seeds: how many; None: those of the sweep files.
        jobs: trainings at once.
        on: "slurm" or "local", where jobs train; None: here.
    """

    scale: str = "small"
    seeds: int | None = None
    jobs: int = 1
    on: str | None = None


def reproduce(
    experiment: Experiment,
    output: Path,
    asked: Asked | None = None,
    *,
    watches: Callable[[str], AbstractContextManager[Watch]] = lambda _: nullcontext(Watch()),
    bars: Callable[[], AbstractContextManager[Begin]] = lambda: nullcontext(lambda _: silent),
    notes: Notes = UNSAID,
) -> Document | None:
    """Run the stages of an experiment that are not finished, and judge its claims.

    The folder gets the sweep files as they were run, a folder for each stage, and `reproduce.json`.
    A call that was interrupted goes on where it stopped; the result is the same to the last byte.

    Args:
        experiment: what to run.
        output: its folder.
        asked: scale, seeds, and where to train.
        watches: called with a stage's name; what watches its sweep.
        bars: called before something is measured or drawn; its `begin` is called with what it is.
        notes: what a person is to know.

    Returns:
        The document of kind `reproduce`; None if it was interrupted. A folder that holds something
        else, and a mistake in the experiment, are `UsageError`s.
    """
    asked = asked or Asked()
    _prepare(experiment, output, asked)
    _check(experiment, output)
    for stage in experiment.stages:
        if stage.is_sweep:
            file, folder = output / f"{stage.name}.toml", output / stage.name
            with watches(stage.name) as watch:
                trained = sweep(file, folder, jobs=asked.jobs, on=asked.on, watch=watch)
            if is_interrupted(trained):
                return None
            _refuse_failed(stage, trained, output)
            with bars() as begin:
                try:
                    measured = measure_sweep(file, folder, begin=begin, notes=notes)
                except KeyboardInterrupt:  # the folder keeps what was trained
                    return None
            _refuse_unmeasured(stage, read_sweep(file), trained, measured)
        elif stage.distances is not None:
            write_distances(stage.name, stage.distances, output)
        else:
            with bars() as begin:
                if not _run_lines(stage, output, begin):
                    return None
    document = judged(experiment, output, asked.scale)
    save(output / RESULT, dumps(document) + "\n")
    return document


def _prepare(experiment: Experiment, output: Path, asked: Asked) -> None:
    """Write the experiment's files into the folder, or see that it holds them."""
    if asked.scale not in SCALES:
        raise UsageError(
            f"{setting('scale', asked.scale)}: {did_you_mean(asked.scale, SCALES)}",
            f"scales: {', '.join(SCALES)}",
        )
    wanted = {FILE: (experiment.folder / FILE).read_text("utf-8")}
    for stage in experiment.stages:
        if stage.is_sweep:
            file = experiment.sweep_file(stage, asked.scale)
            if not file.is_file():
                known = sorted(each.name for each in experiment.folder.glob(f"{stage.name}.*.toml"))
                hint = f"it has {', '.join(known)}" if known else "name the experiment's own folder"
                raise UsageError(f"{experiment.folder}: has no {file.name}", hint)
            wanted[f"{stage.name}.toml"] = _seeded(file, asked.seeds)
            task = Path(str(read_toml(file).get("task", "")))
            if task.suffix == ".py" and not task.is_absolute() and task.parent != Path():
                raise UsageError(
                    f'{file}: task = "{task}": only the .py files beside {FILE} are copied '
                    "to where it runs",
                    "put the task file there, or write its absolute path",
                )
    wanted |= {each.name: each.read_text("utf-8") for each in experiment.folder.glob("*.py")}
    try:
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output}: is not a folder", "name a folder for the experiment")
        if output.resolve() == experiment.folder.resolve():
            raise UsageError(f"{output}: is the experiment itself", "name another folder")
        output.mkdir(parents=True, exist_ok=True)
        held = {each.name for each in output.iterdir() if not each.name.startswith(".")}
        if held and FILE not in held:
            raise UsageError(f"{output}: is not empty and holds no experiment", "name a new folder")
        # Until something has run, a mistake in the files can be corrected.
        begun = any((output / stage.name).exists() for stage in experiment.stages)
        for name, text in wanted.items():
            file = output / name
            if not file.exists() or not begun:
                write_whole(file, text)
            elif file.read_text("utf-8") != text:
                raise UsageError(
                    f"{file}: differs from what {experiment.name} asks for now: one of them was "
                    "changed since, or the folder holds another experiment, scale or number of "
                    "seeds",
                    "name a new folder, or give the same options and undo the change: what decides "
                    "is not changed after the runs",
                )
    except OSError as error:
        raise SharpError(
            f"{output}: cannot be written: {error.strerror}",
            "name a folder in one that exists and may be written to",
        ) from error


def _check(experiment: Experiment, output: Path) -> None:
    """Judge the runs that the files ask for before they run: this finds mistakes in claims."""
    stages: dict[str, StageRuns] = {}
    sweeps: list[Sweep] = []
    for stage in experiment.stages:
        if stage.interpolate is not None:
            plan, of = stage.interpolate, stages[stage.interpolate["stage"]]
            ends = [_one_a_seed(stage, of, plan[side]) for side in ("a", "b")]
            seeds = sorted({*ends[0]} & {*ends[1]})
            stages[stage.name] = StageRuns(stage.name, without_line=seeds)
            continue
        if stage.distances is not None:
            stages[stage.name] = replace(stages[stage.distances["stage"]], name=stage.name)
            continue
        swept = read_sweep(output / f"{stage.name}.toml")
        read_measure(swept)
        sweeps.append(swept)
        tasks = Tasks(swept)
        folder = SweepFolder(output / stage.name, swept, [tasks.of(run) for run in swept.runs])
        planned = dumps(folder.document())
        stages[stage.name] = read_stage(stage.name, json.loads(planned), {}, None)
    check_values(experiment, sweeps)
    conclude(experiment, SCALES[0], 0, stages, {})


def _one_a_seed(stage: Stage, of: StageRuns, where: Mapping[str, Any]) -> dict[Any, Trained]:
    """The chosen run of each seed; raises `UsageError` where there are several."""
    runs = by_seed(chosen(of, where))
    if any(len(own) > 1 for own in runs.values()):
        raise UsageError(
            f"stage {stage.name}: several runs of a seed in {of.name} have {dict(where)}",
            "name more settings",
        )
    return {seed: run for seed, (run,) in runs.items()}


def _refuse_unmeasured(
    stage: Stage, swept: Sweep, trained: Document, measured: Document | None
) -> None:
    """Raise `SharpError` where what the claims are about was not measured."""
    if swept.measure is None or all(each["status"] != Outcome.OK for each in trained["results"]):
        return
    if measured is None:
        raise SharpError(*_busy(stage))
    failed = [each for each in measured["results"] if each["status"] == Outcome.FAILED]
    if failed:
        error = failed[0]["error"]
        raise SharpError(
            f"stage {stage.name}: {counted(len(failed), 'run')} of {len(measured['results'])} "
            f"could not be measured, the first one because of {error['message']}",
            _then_goes_on(error["hint"]),
        )


def _refuse_failed(stage: Stage, trained: Document, output: Path) -> None:
    """Refuse to judge where runs failed, or are still being trained by another process.

    Those that diverged are results, and judged, and so are those that were to start from these.

    Raises:
        SharpError: names the first one's reason.
    """
    if any(each["status"] not in (Outcome.OK, Outcome.FAILED) for each in trained["results"]):
        raise SharpError(*_busy(stage))
    failed = [
        each
        for each in trained["results"]
        if each["status"] == Outcome.FAILED
        and each["error"].get("kind") != Outcome.DIVERGED
        and not _starts_from_lost(each["settings"].get("init"), output)
    ]
    if failed:
        error = failed[0]["error"]
        raise SharpError(
            f"stage {stage.name}: {counted(len(failed), 'run')} of {len(trained['results'])} "
            f"failed, the first one because of {error['message']}",
            _then_goes_on(error["hint"]),
        )


def _then_goes_on(hint: str) -> str:
    joint = " Then" if hint.endswith("?") else "; then"
    return f"{hint}{joint} the same command goes on"


def _busy(stage: Stage) -> tuple[str, str]:
    return (
        f"stage {stage.name}: another process is at work on it",
        "wait until it has finished; then the same command goes on",
    )


def _starts_from_lost(init: str | None, output: Path) -> bool:
    """Whether a run was to start from one of an earlier stage that ended without weights."""
    if init is None:
        return False
    weights = (output / init).with_name("model.safetensors")
    return weights.with_name("run.json").exists() and not weights.exists()


def _seeded(file: Path, seeds: int | None) -> str:
    """A sweep file's text with so many seeds."""
    text = file.read_text("utf-8")
    if seeds is None:
        return text
    if not _SEEDS.search(text):
        raise UsageError(f"{file}: has no line seed = […]", "change the file itself")
    return _SEEDS.sub(f"seed = {list(range(seeds))}", text)


def _run_lines(stage: Stage, output: Path, begin: Begin) -> bool:
    """Draw the lines of a stage that are not there yet; whether it is finished."""
    plan = dict(stage.interpolate or {})
    home = output / plan["stage"]
    runs = read_stage(plan["stage"], read_finished(home / SWEEP), {}, None)
    swept = read_sweep(output / f"{plan['stage']}.toml")
    asked, tasks = {run.name: run for run in swept.runs}, Tasks(swept)
    ends = {side: _one_a_seed(stage, runs, plan[side]) for side in ("a", "b")}
    progress = begin(stage.name)
    seeds = sorted({*ends["a"]} & {*ends["b"]})
    for done, seed in enumerate(seeds):
        progress(done, len(seeds))
        target = output / stage.name / f"seed-{seed}.json"
        a, b = (ends[side][seed] for side in ("a", "b"))
        if target.exists() or a.is_lost or b.is_lost:
            continue
        target.parent.mkdir(exist_ok=True)
        report = interpolate_checkpoints(
            [home / each.run.name / "model.safetensors" for each in (a, b)],
            tasks.of(asked[a.run.name]),
            run=RunSettings(split="both"),
            settings=InterpolateSettings(
                grid=GridSettings(
                    points=(plan.get("points", 25),),
                    ranges=(tuple(plan.get("range", (-1.0, 2.0))),),
                )
            ),
        )
        document = to_document(report)
        if is_interrupted(document):
            return False
        save(target, dumps(document) + "\n")
    progress(len(seeds), len(seeds))
    return True
