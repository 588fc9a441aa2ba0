"""Read the runs of sweeps and trainings from their files and score them, for `sharp compare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sharpcli.documents.reading import load_document
from sharpcli.documents.results import Document, Report
from sharpcli.documents.scoring import Asked, score
from sharpcli.documents.scoring.runs import Run, runs_of_sweep, trained_run
from sharpcli.errors import SharpError
from sharpcli.runtime.progress import Begin, Progress, silent

__all__ = ["documents_of_runs", "read_runs", "runs_of", "score_files"]

_SWEEP, _MEASURES = "sweep.json", "measures.json"
_CURVES = "curves.json"  # what a run's training writes beside its checkpoint


def score_files(
    names: Sequence[str],
    asked: Asked,
    piped: Callable[[], tuple[str, Document]] | None = None,
    begin: Begin = lambda _: silent,
) -> Report:
    """The scores of the runs in these folders and files, as a report of kind "compare".

    Args:
        names: folders and files.
        asked: what to score.
        piped: reads what `-` stands for: its name in messages, and the document.
        begin: called with what is read.

    Cost: about 20 ms a run, to read and check its curves.
    """
    runs: list[Run] = []
    progress = begin("reading runs")
    for done, name in enumerate(names):
        if piped and name == "-":
            runs += runs_of(*piped())
        else:
            runs += read_runs(Path(name), progress if len(names) == 1 else silent)
        if len(names) > 1:
            progress(done + 1, len(names))
    return score(runs, asked, names)


def read_runs(path: Path, progress: Progress = silent) -> list[Run]:
    """The runs of a sweep's folder, of its `sweep.json`, or of a training's `MODEL.curves.json`.

    Raises:
        SharpError: names the file that cannot be read, or holds something else.
    """
    file = path
    if path.is_dir():
        file = path / _SWEEP
        if not file.exists():
            raise SharpError(
                f"{path}: is a folder without {_SWEEP}",
                "name the folder of a sweep, or files that `sharp train` wrote: MODEL.curves.json",
            )
    return runs_of(str(path), load_document(file), file.parent, progress)


def runs_of(
    name: str, document: Document, folder: Path | None = None, progress: Progress = silent
) -> list[Run]:
    """The runs of a document of kind train or sweep; of a sweep with the curves in its folder.

    Raises:
        SharpError: it is of another kind, or a file in the folder cannot be read.
    """
    if document["kind"] == "train":
        return trained_run(name, document)
    if document["kind"] != "sweep":
        raise SharpError(
            f'{name}: holds a result of kind "{document["kind"]}", not of a training',
            "only trainings are scored: name a sweep's folder, or MODEL.curves.json",
        )
    if folder is None:
        return runs_of_sweep(document, {})
    return runs_of_sweep(document, *documents_of_runs(document, folder, progress))


def documents_of_runs(
    sweep: Document, folder: Path, progress: Progress = silent
) -> tuple[dict[str, Document], Document | None]:
    """What a sweep's folder holds beside `sweep.json`: each run's curves, and the measures."""
    curves: dict[str, Document] = {}
    for done, result in enumerate(sweep["results"]):
        progress(done, len(sweep["results"]))
        own = folder / result["run"] / _CURVES
        if own.exists():
            curves[result["run"]] = load_document(own)
    measures = folder / _MEASURES
    return curves, load_document(measures) if measures.exists() else None
