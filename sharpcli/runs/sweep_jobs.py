"""The runs of a sweep in jobs that submitit starts: submitted, watched and cancelled from here."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from sharpcli.documents.results import Failure
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, counted, did_you_mean, setting
from sharpcli.runs.local_jobs import LocalJobs
from sharpcli.runs.slurm import SlurmJobs, read_slurm
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_job import Job, Notes, read_notes
from sharpcli.runtime import interruption
from sharpcli.runtime.files import write_whole
from sharpcli.training.sweep_file import Sweep, SweepRun

__all__ = ["PLACES", "Jobs", "find_jobs", "train_in_jobs"]

PLACES = ("slurm", "local")
FOLDER = ".jobs"
_LOOK = 0.5  # seconds between two looks at the notes of the jobs
_PATIENCE = 60.0  # seconds; a network folder may show a file of another machine so late
_TAIL = 4096  # bytes of a log that are searched for its last line


class Jobs(Protocol):
    """Jobs of one submission, wherever they run."""

    ids: list[str]
    name: str
    waiting: str | None  # why a job does not begin, as the last call of `over` showed it

    @property
    def between(self) -> float:
        """Seconds between two calls of `over`."""

    @property
    def look(self) -> str:
        """A command that shows the jobs."""

    def submit(self, jobs: Sequence[Job], folder: Path) -> None:
        """Submit them; submitit keeps its files and their logs in the folder."""

    def over(self) -> Mapping[str, str]:
        """How those ended that are over, by their id."""

    def cancel(self) -> None:
        """End them."""

    def close(self) -> None:
        """Take back those that have not begun: all runs are done."""

    def how(self, state: str) -> str:
        """What `over` says of a job, in words: `was cancelled`."""


def find_jobs(place: str, plan: Sweep) -> Jobs:
    """Jobs at a place of `PLACES`, not submitted yet.

    Raises:
        UsageError: for a place that does not exist or is not here, where submitit is missing, and
            for a mistake in the sweep file's [slurm].
    """
    if place not in PLACES:
        raise UsageError(f"{setting('on', place)}: {did_you_mean(place, PLACES)}")
    if importlib.util.find_spec("submitit") is None:
        raise UsageError(
            f"{setting('on', place)} needs submitit, which is not installed",
            "pip install 'sharpcli[slurm]'",
        )
    if place == "slurm":
        return SlurmJobs.of(plan)
    read_slurm(plan)
    return LocalJobs()


def train_in_jobs(
    folder: SweepFolder,
    runs: Sequence[SweepRun],
    count: int,
    jobs: Jobs,
    *,
    detach: bool,
    began: Callable[[SweepRun], None],
    progress: Callable[[str, int, int | None], None],
    ended: Callable[[SweepRun], None],
    noted: Callable[[str], None],
) -> None:
    """Train the runs in up to `count` jobs, and watch these until they are over.

    A run whose job dies is kept as failed, and the other jobs train what it has left. Where this
    process ends by an error or an interrupt the jobs are cancelled.

    Args:
        folder: the sweep's folder, which gets a folder `.jobs` with the jobs' files and logs.
        runs: the runs to train.
        count: how many jobs there are at most.
        jobs: where they run, from `find_jobs`.
        detach: submit them only.
        began: is called with a run that a job trains.
        progress: is called with how far a run is.
        ended: is called with a run that has ended.
        noted: is called with what a person is to know.

    `SharpError` if the jobs are not taken, or end with work left that is not one run's.
    """
    count = min(count, len(runs))
    own = _new_folder(folder.path / FOLDER)
    plan = _absolute(folder.sweep)
    names = tuple(run.name for run in runs)
    output = folder.path.resolve()
    works = [Job(number, count, plan, names, output, own) for number in range(count)]
    watched = _Watched(folder, own, jobs, runs, began, progress, ended, noted)
    try:
        with interruption.deferred():
            jobs.submit(works, own)
            write_whole(own / "jobs.json", json.dumps({"on": jobs.name, "jobs": jobs.ids}) + "\n")
        if not detach:
            watched.until_over()
    except BaseException:  # however this process ends, no job trains on unseen
        jobs.cancel()
        raise
    if detach:
        noted(
            f"{counted(len(jobs.ids), 'job')} submitted: {jobs.look} shows them; the same command "
            f"without {setting('detach')} trains what they leave and shows the result"
        )
    else:
        watched.end()


@dataclass
class _Watched:
    """Jobs that are watched."""

    folder: SweepFolder
    own: Path
    jobs: Jobs
    runs: Sequence[SweepRun]
    began: Callable[[SweepRun], None]
    progress: Callable[[str, int, int | None], None]
    ended: Callable[[SweepRun], None]
    noted: Callable[[str], None]
    _begun: set[str] = field(default_factory=set, init=False)
    _ended: set[str] = field(default_factory=set, init=False)
    _reasons: set[str] = field(default_factory=set, init=False)
    _awaited: dict[str, float] = field(default_factory=dict, init=False)
    _notes: Sequence[Notes] = field(default=(), init=False)
    _over: Mapping[str, str] = field(default_factory=dict, init=False)

    def until_over(self) -> None:
        """Watch until all runs have ended, or all jobs are over."""
        asked = 0.0
        while True:
            with interruption.interruptible():
                time.sleep(_LOOK)
            interruption.hold()
            self._notes = self._look()
            if len(self._ended) == len(self.runs):
                return  # a job that still waits in the queue has nothing to do
            if time.monotonic() - asked < self.jobs.between:
                continue
            # Over for two looks: a job that is requeued may seem so for a moment, and what one
            # wrote last may come late.
            before, self._over, asked = self._over, self.jobs.over(), time.monotonic()
            self._say_why_they_wait()
            if all(each in before and each in self._over for each in self.jobs.ids):
                return

    def end(self) -> None:
        """Take back jobs that have nothing to do, or keep what has died; its error is raised."""
        if len(self._ended) == len(self.runs):
            self.jobs.close()
            return
        left = self._bury(self._over, self._notes)
        for run in self.runs:
            if run.name in self._begun - self._ended:
                self._end(run)  # a process that is no job of these trains it
        if left:
            raise left[0]

    def _say_why_they_wait(self) -> None:
        """Pass on why a job waits, each reason once."""
        reason = self.jobs.waiting
        if reason is not None and reason not in self._reasons:
            self._reasons.add(reason)
            self.noted(f"jobs wait in the queue: {reason} ({self.jobs.look})")

    def _look(self) -> list[Notes]:
        """Read the notes of all jobs, and pass on what is new."""
        notes = [read_notes(self.own, number) for number in range(len(self.jobs.ids))]
        for run in self.runs:
            if run.name in self._ended:
                continue
            # Two jobs may have come to a run; one of them trained it.
            if any(run.name in each.ended for each in notes):
                if self._arrived(run):
                    self._end(run)
                continue
            for each in notes:
                if run.name == each.run:
                    self._begin(run)
                    self.progress(run.name, each.done, each.total)
        return notes

    def _arrived(self, run: SweepRun) -> bool:
        """Whether what a job wrote of a run is here, or does not come any more."""
        first = self._awaited.setdefault(run.name, time.monotonic())
        late = time.monotonic() - first > _PATIENCE
        return late or self.folder.state(run)["status"] != Outcome.WAITING

    def _begin(self, run: SweepRun) -> None:
        if run.name not in self._begun:
            self._begun.add(run.name)
            self.began(run)

    def _end(self, run: SweepRun) -> None:
        self._begin(run)
        self._ended.add(run.name)
        self.ended(run)

    def _bury(self, over: Mapping[str, str], notes: Sequence[Notes]) -> list[SharpError]:
        """Keep the runs as failed in which jobs died; gives why others died, if they left runs."""
        runs = {run.name: run for run in self.runs}
        lost: list[SharpError] = []
        for job, each in zip(self.jobs.ids, notes, strict=True):
            if each.finished:
                continue
            log = self.own / f"{job}_0_log.err"
            how = f"job {job} {self.jobs.how(over[job])}"
            if each.error is not None:
                lost.append(SharpError(f"job {job}: {each.error['message']}", each.error["hint"]))
                continue
            last = _last_line(log)
            why = how + (f": {last}" if last else "")
            run = runs.get(each.run or "")
            if run is None or self.folder.is_finished(run):
                lost.append(SharpError(why, f"its log is {log}"))
                continue
            self.folder.keep_failed(
                run,
                Failure(
                    f"{how} while it trained this run" + (f": {last}" if last else ""),
                    f"its log is {log}; the same command goes on with the run",
                ),
            )
            if run.name not in self._ended:
                self._end(run)
        left = [r.name for r in self.runs if self.folder.state(r)["status"] == Outcome.WAITING]
        return lost if left else []


def _new_folder(parent: Path) -> Path:
    """A folder for one submission: submitit names files by job, and numbers of jobs come again."""
    try:
        parent.mkdir(exist_ok=True)
        taken = [int(each.name) for each in parent.iterdir() if each.name.isdecimal()]
        own = parent / str(max(taken, default=0) + 1)
        own.mkdir()
    except OSError as error:
        raise SharpError(
            f"{parent}: cannot be made: {error.strerror}",
            "see that the sweep's folder is writable and has free space",
        ) from error
    return own.resolve()


def _absolute(plan: Sweep) -> Sweep:
    """The sweep with paths that hold wherever a job runs."""
    task = Path(plan.task_path)
    path = str(task.resolve()) if task.is_file() else plan.task_path
    return replace(plan, path=plan.path.resolve(), task_path=path)


def _last_line(log: Path) -> str:
    """The last line that a job left, without submitit's own; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            lines: Iterable[str] = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    kept = [line.strip() for line in lines if line.strip() and not line.startswith("submitit ")]
    # srun says last that a task ended, and before that the task says why.
    telling = [line for line in kept if not line.startswith("srun: ")]
    return (telling or kept or [""])[-1]
