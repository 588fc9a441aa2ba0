"""A sweep's folder: `sweep.json`, and for each run `RUN/model.safetensors` and `RUN/run.json`.

Each run is written by whoever trains it, so that processes and machines can share a folder. A run
is trained where its checkpoint is there. `sweep.json` is put together from all of them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharpcli.checkpoint import load_checkpoint
from sharpcli.documents.environment import environment
from sharpcli.documents.reading import load_document
from sharpcli.documents.results import (
    Document,
    Failure,
    MeasuredCheckpoint,
    Report,
    dumps,
    to_document,
)
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import Outcome
from sharpcli.documents.sweeps import SweptRun
from sharpcli.errors import SharpError, UsageError, counted, setting
from sharpcli.runtime import interruption
from sharpcli.runtime.files import reserved_within, write_whole
from sharpcli.tasks import Task
from sharpcli.training.outcome import Trained
from sharpcli.training.sweep_file import Sweep, SweepRun
from sharpcli.training.train_settings import TrainSettings

__all__ = ["INTERRUPTED", "SweepFolder"]

_PATIENCE = 30.0  # seconds; others hold sweep.json for as long as reading small files takes
_SHOWN = 4  # names that a message lists
_DONE = (Outcome.OK, Outcome.FAILED)

INTERRUPTED = {"status": Outcome.INTERRUPTED}


class SweepFolder:
    """The folder of a sweep; `tasks` are those of its runs, for who writes `sweep.json`."""

    def __init__(self, path: Path, sweep: Sweep, tasks: Sequence[Task] = ()) -> None:
        self.path = path
        self.sweep = sweep
        self._tasks = tasks
        self._known: dict[str, dict[str, Any]] = {}
        self._environment = environment()

    @property
    def file(self) -> Path:
        """`sweep.json`."""
        return self.path / "sweep.json"

    def checkpoint(self, run: SweepRun) -> Path:
        """Where a run's weights go."""
        return self.path / run.name / "model.safetensors"

    def open(self) -> list[str]:
        """Make the folder, or see that it holds this sweep, perhaps with fewer runs.

        Returns:
            The runs that it did not have before, if it held a sweep.

        Raises:
            UsageError: if it holds something else, another sweep, or this one with other settings.
            SharpError: if it cannot be made.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is not a folder", "name a folder for the sweep")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SharpError(
                f"{self.path}: cannot be made: {error.strerror}",
                "name a folder in one that exists and may be written to",
            ) from error
        with self._alone():
            if self.file.exists():
                return self._compare(load_document(self.file))
            others = [e.name for e in self.path.iterdir() if not e.name.startswith(".")]
            if others:
                raise UsageError(
                    f"{self.path}: is not empty and holds no sweep ({_some(others)})",
                    "name a new folder",
                )
            write_whole(self.file, dumps(self.document()) + "\n")
        return []

    def document(self, states: Mapping[str, Mapping[str, Any]] | None = None) -> Document:
        """The document of kind `sweep`; `states` say more of runs that have not ended."""
        results = []
        for run, task in zip(self.sweep.runs, self._tasks, strict=True):
            state = self.state(run)
            if state["status"] == Outcome.WAITING:
                state = {**state, **(states or {}).get(run.name, {})}
            known = {key: value for key, value in state.items() if key != "checkpoint"}
            checkpoint = {**state.get("checkpoint", {}), "path": str(self.checkpoint(run))}
            results.append(
                SweptRun(
                    run=run.name,
                    checkpoint=MeasuredCheckpoint(**checkpoint),
                    settings=asdict(run.settings),
                    options=run.options,
                    fingerprint=task.fingerprint,
                    **known,
                )
            )
        about = {
            "name": self._tasks[0].name,
            "options": _common([task.options for task in self._tasks]),
            "fingerprint": _one({task.fingerprint for task in self._tasks}),
        }
        asked = {"task": self.sweep.task, "measure": self.sweep.measure}
        return to_document(Report("sweep", asked, self._environment, about, results))

    def state(self, run: SweepRun) -> dict[str, Any]:
        """What is known of a run: its status, and how it ended."""
        if run.name in self._known:
            return self._known[run.name]
        # In this order: a run that ends in between, in another process, has its checkpoint then.
        state = self._read(run)
        trained = self.checkpoint(run).exists()
        if trained and (state is None or state["status"] != Outcome.OK):
            # The training was killed after it wrote the checkpoint, or is about to write the rest.
            return self._rebuilt(run)
        if state is None or (state["status"] == Outcome.OK and not trained):
            return {"status": Outcome.WAITING}
        if state["status"] == Outcome.OK:
            self._known[run.name] = state
        return state

    def is_finished(self, run: SweepRun) -> bool:
        """Whether there is nothing to train: it is trained, or trains to no finite loss."""
        state = self.state(run)
        kind = (state.get("error") or {}).get("kind")
        return state["status"] == Outcome.OK or kind == Outcome.DIVERGED

    def keep_trained(self, run: SweepRun, trained: Trained, seconds: float) -> None:
        """Write what came of a training beside its checkpoint."""
        saved = trained.saved or load_checkpoint(self.checkpoint(run))
        self._write(
            run,
            {
                "status": Outcome.OK,
                "checkpoint": {"sha256": saved.sha256, "metadata": dict(saved.metadata)},
                "epochs": trained.epochs,
                "steps": trained.steps,
                "loss": {"train": asdict(Scalar(trained.train_loss))},
                "seconds": seconds,
            },
        )

    def keep_failed(self, run: SweepRun, failure: Failure) -> None:
        """Write why a run failed."""
        self._write(run, {"status": Outcome.FAILED, "error": asdict(failure)})

    def write(self, states: Mapping[str, Mapping[str, Any]] | None = None) -> Document:
        """Write `sweep.json` anew from all runs, also those of other processes."""
        with self._alone(), interruption.deferred():
            document = self.document(states)
            write_whole(self.file, dumps(document) + "\n")
        return document

    def _write(self, run: SweepRun, state: Mapping[str, Any]) -> None:
        write_whole(self._of(run), json.dumps(state, allow_nan=False) + "\n")

    def _of(self, run: SweepRun) -> Path:
        return self.path / run.name / "run.json"

    def _read(self, run: SweepRun) -> dict[str, Any] | None:
        """What was written of a run; None where nothing was, or where it is damaged."""
        try:
            found = json.loads(self._of(run).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("status") not in _DONE:
            return None
        if isinstance(found.get("error"), dict):
            found["error"] = _without_none(found["error"])
        return found

    def _rebuilt(self, run: SweepRun) -> dict[str, Any]:
        """What a checkpoint itself says of a training; it is the last file that is written."""
        saved = load_checkpoint(self.checkpoint(run))
        metadata = saved.metadata
        known: dict[str, Any] = {k: metadata[k] for k in ("epochs", "steps") if k in metadata}
        loss = metadata.get("train_loss")
        return {
            "status": Outcome.OK,
            "checkpoint": {"sha256": saved.sha256, "metadata": dict(metadata)},
            **known,
            **({"loss": {"train": asdict(Scalar(float(loss)))}} if loss is not None else {}),
        }

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes of the sweep from `sweep.json`."""
        return reserved_within(_PATIENCE, self.file)

    def _compare(self, saved: Document) -> list[str]:
        """The runs that the file has more than the folder's sweep.

        Raises:
            UsageError: if that is another sweep, has more runs, or other settings.
        """
        name = self.sweep.path
        if saved["kind"] != "sweep":
            raise UsageError(f'{self.file}: is of kind "{saved["kind"]}"', "name a new folder")
        old = {result["run"]: result for result in saved["results"]}
        new = {result["run"]: result for result in self.document()["results"]}
        if not old.keys() & new.keys():
            raise UsageError(
                f"{self.path}: holds another sweep ({saved['settings']['task']}, "
                f"{counted(len(old), 'run')}: {_some([*old])})",
                f"give another {setting('output')}",
            )
        gone = [name for name in old if name not in new]
        differences = [f"runs that are gone: {_some(gone)}"] if gone else []
        differences += _changed(old, new)
        added = [name for name in new if name not in old]
        if added and differences:
            differences.append(f"runs that are new: {_some(added)}")
        if differences:
            raise UsageError(
                f"{self.path}: was begun with other settings than {name} gives: "
                f"{'; '.join(differences)}",
                f"undo the changes, or give another {setting('output')}: results of different "
                "settings are not mixed",
            )
        if added:
            write_whole(self.file, dumps(self.document()) + "\n")
        return added


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """`lr was 0.1, is 0.2 (8 runs)` for what differs in runs of both."""
    runs: dict[str, int] = {}
    for name in (name for name in new if name in old):
        for change in _changes(old[name], new[name]):
            runs[change] = runs.get(change, 0) + 1
    for change, count in runs.items():
        yield f"{change} ({counted(count, 'run')})"


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    # A setting that an earlier release did not have was what its default says.
    defaults = json.loads(json.dumps(asdict(TrainSettings())))
    before = {**defaults, **old["settings"]}
    for key in {**before, **new["settings"]}:
        was, is_ = before.get(key), new["settings"].get(key)
        if was != is_:
            yield f"{key} was {_shown(was)}, is {_shown(is_)}"
    options = {**old["options"], **new["options"]}
    changed = [key for key in options if old["options"].get(key) != new["options"].get(key)]
    for key in changed:
        was, is_ = old["options"].get(key), new["options"].get(key)
        yield f"options.{key} was {_shown(was)}, is {_shown(is_)}"
    if not changed and old["fingerprint"] != new["fingerprint"]:
        yield "the task's code has changed"


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _some(names: Sequence[str]) -> str:
    names = sorted(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _common(options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The options that all tasks have with one value."""
    first, *others = options
    return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}


def _one(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _without_none(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not None or key == "hint"}
