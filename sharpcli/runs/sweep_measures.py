"""What a sweep file asks to be measured at the end, of all runs that are trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from sharpcli.documents.reading import load_document
from sharpcli.documents.results import Document, Report, dumps, is_interrupted, to_document
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, did_you_mean, settings_written_by
from sharpcli.measures import Option, choose, known_measures, options_of
from sharpcli.runs.finished import Finished
from sharpcli.runs.measure import as_settings, measure_checkpoints
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_run import Tasks
from sharpcli.runtime.files import reserved, save
from sharpcli.runtime.progress import UNSAID, Begin, Notes, silent
from sharpcli.runtime.reservations import InUseError
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from sharpcli.settings.typed import typed
from sharpcli.training.sweep_file import Sweep, as_key, read_sweep

__all__ = ["MEASURES", "measure_sweep", "read_measure"]

MEASURES = "measures.json"
_ELSEWHERE = ("curvature", "options")  # fields whose own fields are keys


def read_measure(plan: Sweep) -> tuple[RunSettings, MeasureSettings] | None:
    """The settings of a sweep file's [measure] table, None where there is none.

    Keys are the fields of `RunSettings`, `MeasureSettings` and `CurvatureSettings`, and the options
    of measures.

    Raises:
        UsageError: for a key or value that these do not take; names file and key.
    """
    if plan.measure is None:
        return None
    homes: dict[str, type] = {}
    kinds: dict[str, Any] = {}
    for cls in (RunSettings, MeasureSettings, CurvatureSettings):
        for name, kind in get_type_hints(cls).items():
            if name not in _ELSEWHERE:
                homes[name], kinds[name] = cls, kind
    for option in (each for known in known_measures().values() for each in known.options):
        homes[option.name], kinds[option.name] = dict, _kind(option)
    values: dict[type, dict[str, Any]] = {cls: {} for cls in homes.values()}
    for key, value in plan.measure.items():
        if key not in homes:
            raise UsageError(
                f"{plan.path}: [measure] {key}: is no setting of a measurement: "
                f"{did_you_mean(key, homes)}",
                f"settings: {', '.join(homes)}",
            )
        given = value
        if key == "subspaces" and isinstance(value, list):
            given = [None if each == "full" else each for each in value]
        try:
            values[homes[key]][key] = typed(kinds[key], given)
        except ValueError as error:
            raise UsageError(
                f"{plan.path}: [measure] {as_key(key, value)}: is not {error}", "correct the line"
            ) from error
    fixed = {run.settings.fixed_batch for run in plan.runs}
    if len(fixed) == 1:
        values[RunSettings].setdefault("fixed_batch", *fixed)
    try:
        with settings_written_by(as_key):
            run = RunSettings(**values[RunSettings])
            settings = MeasureSettings(
                **values[MeasureSettings],
                curvature=CurvatureSettings(**values[CurvatureSettings]),
            )
            asked = choose(settings.measures)
            settings = replace(settings, options=options_of(asked, values.get(dict, {})))
    except UsageError as error:
        raise UsageError(f"{plan.path}: [measure] {error.message}", error.hint) from error
    if run.split == "both":
        raise UsageError(
            f'{plan.path}: [measure] split = "both": a measure is of one split', 'use "train"'
        )
    return run, settings


def measure_sweep(
    file: Path, output: Path, *, begin: Begin = lambda _: silent, notes: Notes = UNSAID
) -> Document | None:
    """Measure all runs of a sweep that are trained, as its file asks, into `measures.json`.

    What has been measured already, with the same settings of the same checkpoints, is not measured
    again; where the measuring was interrupted, that is in `measures.json.partial`.

    Returns: the document of kind `measure`; None where the file asks for none, where some run is
        still to be trained, where none is trained, and where another process is at it.

    Raises:
        KeyboardInterrupt: where the measuring was interrupted; what is finished is kept.
    """
    plan = read_sweep(file)
    asked = read_measure(plan)
    if asked is None:
        return None
    folder = SweepFolder(output, plan)
    states = {run.name: folder.state(run)["status"] for run in plan.runs}
    trained = [run for run in plan.runs if states[run.name] == Outcome.OK]
    if not trained or not {*states.values()} <= {Outcome.OK, Outcome.FAILED}:
        return None
    target, tasks = output / MEASURES, Tasks(plan)
    try:
        with reserved(target):
            wanted = [folder.state(run)["checkpoint"]["sha256"] for run in trained]
            if (known := _known(target, asked, wanted)) is not None:
                return known
            finished = Finished(target, notes=notes)
            reports = [
                measure_checkpoints(
                    [
                        folder.checkpoint(run)
                        for run in trained
                        if tasks.of(run).fingerprint == task.fingerprint
                    ],
                    task,
                    run=asked[0],
                    settings=asked[1],
                    begin=begin,
                    notes=notes,
                    finished=finished,
                )
                for task in {each.fingerprint: each for each in map(tasks.of, trained)}.values()
            ]
            results = {
                str(result.checkpoint["path"]): result
                for report in reports
                for result in report.results
            }
            ordered = [results[str(folder.checkpoint(run))] for run in trained]
            warnings = [each for report in reports for each in report.warnings]
            document = to_document(replace(reports[0], results=ordered, warnings=warnings))
            if is_interrupted(document):
                raise KeyboardInterrupt
            save(target, dumps(document) + "\n")
            finished.discard()
            return document
    except InUseError:
        return None


def _kind(option: Option) -> Any:
    """The annotation of an option that a measure brings."""
    return Literal[option.choices] if option.choices else type(option.default)


def _known(
    target: Path, asked: tuple[RunSettings, MeasureSettings], wanted: list[str]
) -> Document | None:
    """What is in the file, if it is of these settings and checkpoints and nothing failed."""
    if not target.exists():
        return None
    try:
        document = load_document(target)
    except SharpError:  # damaged, so measured again
        return None
    report = Report("measure", as_settings(*asked), {}, {}, [])
    same = document["settings"] == to_document(report)["settings"]
    found = [result["checkpoint"].get("sha256") for result in document["results"]]
    failed = any(result["status"] == Outcome.FAILED for result in document["results"])
    return document if same and found == wanted and not failed else None
