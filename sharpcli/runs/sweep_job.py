"""What one job of a sweep does on the machine where it runs, and the notes that it leaves.

A job is submitted with submitit, which pickles a `Job`: names, paths and settings. Its notes are a
small JSON file, from which the first process knows how far it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sharpcli.documents.results import Failure
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_run import Tasks, train_run
from sharpcli.runtime.files import write_whole
from sharpcli.training.sweep_file import Sweep, SweepRun

__all__ = ["Job", "Notes", "notes_file", "read_notes"]

_BETWEEN = 1.0  # seconds between two notes of progress; the folder may be on a network


@dataclass
class Notes:
    """What a job has done so far.

    Attributes:
        ended: the status of each run that it is done with.
        run: the run that it is training, with what is done of it, and of how much.
        finished: whether it has come to its end.
        error: why it gave up.
    """

    ended: dict[str, str] = field(default_factory=dict)
    run: str | None = None
    done: int = 0
    total: int | None = None
    finished: bool = False
    error: Mapping[str, Any] | None = None

    def tried(self, name: str) -> bool:
        """Whether the job trains this run, or has done so, or ended while it did."""
        return name == self.run or name in self.ended


def notes_file(folder: Path, number: int) -> Path:
    """Where the job of this number keeps its notes, in the folder of its submission."""
    return folder / f"job-{number}.json"


def read_notes(folder: Path, number: int) -> Notes:
    """The notes of a job, empty where it has not begun."""
    try:
        return Notes(**json.loads(notes_file(folder, number).read_text("utf-8")))
    except FileNotFoundError:
        return Notes()


@dataclass(frozen=True)
class Job:
    """One of `count` jobs that train the runs `names` of a sweep.

    It trains every `count`-th of them first. Then it looks for others: those that no job has begun.
    So a job that waits in the queue, or has died, holds nobody up. A run during which a job died is
    left alone, as it might end this one too.

    Attributes:
        number: which of the jobs it is, from 0.
        count: how many jobs there are.
        plan: the sweep. All its paths are absolute.
        names: the runs to train.
        output: the sweep's folder.
        notes: the folder of the notes of these jobs.
        environment: variables to set before anything else.
        ends_at_sigterm: whether SIGTERM ends it. Slurm sends one as a warning before it takes a
            machine away, and submitit lets the job go on until then.
    """

    number: int
    count: int
    plan: Sweep
    names: tuple[str, ...]
    output: Path
    notes: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    ends_at_sigterm: bool = False

    def __call__(self) -> None:
        """Train, as submitit calls it in the job.

        Raises:
            SharpError: if the folder holds another sweep by now, or cannot be written to.
        """
        os.environ.update(self.environment)
        if self.ends_at_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        notes, last = read_notes(self.notes, self.number), 0.0
        sys.stdout = sys.stderr  # one log

        def keep(**changes: Any) -> None:
            for name, value in changes.items():
                setattr(notes, name, value)
            write_whole(notes_file(self.notes, self.number), json.dumps(asdict(notes)) + "\n")

        def progress(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last > _BETWEEN:
                last = time.monotonic()
                # Notes of progress are for the eye; a disk that is full ends the training itself.
                with contextlib.suppress(SharpError):
                    keep(done=done, total=total)

        try:
            tasks = Tasks(self.plan)
            folder = SweepFolder(self.output, self.plan, [*map(tasks.of, self.plan.runs)])
            folder.open()
            for run in self._untried(folder):
                keep(run=run.name, done=0, total=None)
                train_run(folder, run, tasks, progress)
                status = folder.state(run)["status"]
                # One that another process is training is that one's.
                ended = {} if status == Outcome.WAITING else {run.name: str(status)}
                keep(run=None, ended={**notes.ended, **ended})
            keep(finished=True)
        except SharpError as error:
            keep(error=asdict(Failure(error.message, error.hint)))
            raise

    def checkpoint(self) -> Any:
        """What submitit runs when the job is requeued: the same, which goes on from the states."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _untried(self, folder: SweepFolder) -> Iterator[SweepRun]:
        """The runs to train next: this job's part of them, then those that nobody has begun."""
        runs = {run.name: run for run in self.plan.runs if run.name in self.names}
        names = [name for name in self.names if name in runs]
        own = names[self.number :: self.count]
        for name in [*own, *(each for each in names if each not in own)]:
            others = (number for number in range(self.count) if number != self.number)
            if any(read_notes(self.notes, number).tried(name) for number in others):
                continue
            if not folder.is_finished(runs[name]):
                yield runs[name]
