"""Read the runs of sweeps and trainings from their files and score them, for `sharp compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sharpcli.documents.reading import load_document
from sharpcli.documents.results import Document, Report
from sharpcli.documents.scoring import Asked, score
from sharpcli.documents.scoring.runs import Run, runs_of_sweep, trained_run
from sharpcli.errors import SharpError

__all__ = ["read_runs", "score_files"]

_SWEEP, _MEASURES = "sweep.json", "measures.json"
_CURVES = "model.safetensors.curves.json"  # what a run's training writes beside its checkpoint


def score_files(names: Sequence[str], asked: Asked) -> Report:
    """The scores of the runs in these folders and files, as a report of kind "compare"."""
    return score([run for name in names for run in read_runs(Path(name))], asked, names)


def read_runs(path: Path) -> list[Run]:
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
    document = load_document(file)
    if document["kind"] == "train":
        return trained_run(str(path), document)
    if document["kind"] != "sweep":
        raise SharpError(
            f'{file}: holds a result of kind "{document["kind"]}", not of a training',
            "only trainings are scored: name a sweep's folder, or MODEL.curves.json",
        )
    curves: dict[str, Document] = {}
    for result in document["results"]:
        own = file.parent / result["run"] / _CURVES
        if own.exists():
            curves[result["run"]] = load_document(own)
    measures = file.parent / _MEASURES
    measured = load_document(measures) if measures.exists() else None
    return runs_of_sweep(document, curves, measured)
