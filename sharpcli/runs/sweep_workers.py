"""The runs of a sweep in several processes, each of which trains one group after another."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from sharpcli.documents.results import Failure
from sharpcli.errors import SharpError, setting
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_run import Tasks
from sharpcli.runs.sweep_together import GroupWatch, Way, train_group
from sharpcli.runs.worker_processes import (
    BETWEEN,
    WorkerProcess,
    become_worker,
    ended_with,
    start,
    with_messages,
)
from sharpcli.training.sweep_file import Sweep, SweepRun

__all__ = ["train_in_processes"]

_LEAVE = 5.0  # seconds that a worker has to end by itself


@dataclass
class _Worker(WorkerProcess):
    group: list[SweepRun]  # its runs that have not ended


def train_in_processes(
    folder: SweepFolder,
    groups: Sequence[Sequence[SweepRun]],
    jobs: int,
    way: Way,
    watch: GroupWatch,
) -> None:
    """Train the groups of runs in up to `jobs` processes.

    Where a process dies, a run by itself is kept as failed, and those of a group are trained one by
    one: the others are not to blame. Another process takes over. Where this one ends, however it
    does, the others end too, and what they have not finished is not kept.

    Raises:
        SharpError: if the folder cannot be written to.
    """
    queue, workers = deque(list(group) for group in groups), list[_Worker]()

    def begin(worker: _Worker) -> None:
        worker.group = queue.popleft()
        try:
            worker.pipe.send([folder.sweep.runs.index(run) for run in worker.group])
        except OSError:  # it has died after its last run, which the next look at its pipe shows
            queue.appendleft(worker.group)
            worker.group = []

    with ended_with(workers):
        while queue or workers:
            while queue and len(workers) < jobs:
                workers.append(_Worker(*start(_work, folder.path, folder.sweep, way), []))
                begin(workers[-1])
            for worker in with_messages(workers):
                try:
                    number, *done = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    worker.joined()
                    if len(worker.group) > 1:
                        queue.extendleft([run] for run in reversed(worker.group))
                        continue
                    for run in worker.group:
                        _bury(worker, run, folder)
                        watch.ended(run)
                    continue
                if number is None:
                    watch.apart(*done)
                    continue
                if isinstance(number, Failure):
                    raise SharpError(number.message, number.hint)
                run = folder.sweep.runs[number]
                if done == [None]:
                    watch.began(run)
                    continue
                if done:
                    watch.progress(run.name, *done)
                    continue
                worker.group.remove(run)
                watch.ended(run)
                if worker.group:
                    continue
                if queue:
                    begin(worker)
                else:
                    workers.remove(worker)
                    _dismiss(worker)


def _dismiss(worker: _Worker) -> None:
    """Let a worker that has nothing to do end."""
    worker.pipe.close()
    worker.process.join(_LEAVE)
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join()


def _bury(worker: _Worker, run: SweepRun, folder: SweepFolder) -> None:
    """Keep the run of a worker that died as failed, unless it was finished."""
    if folder.is_finished(run):
        return
    code = worker.process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    folder.keep_failed(
        run,
        Failure(
            f"the process that trained it {how}",
            f"where the memory is too small, lower {setting('jobs')}; the same command trains it "
            "again",
        ),
    )


def _work(pipe: Connection, output: Path, plan: Sweep, way: Way) -> None:
    """Train the groups of runs whose numbers come through the pipe, until it is closed."""
    become_worker()
    folder, tasks = SweepFolder(output, plan), Tasks(plan)
    numbers = {run.name: number for number, run in enumerate(plan.runs)}
    last: dict[str, float] = {}

    def progress(name: str, done: int, total: int | None) -> None:
        if time.monotonic() - last.get(name, 0.0) > BETWEEN:
            last[name] = time.monotonic()
            pipe.send((numbers[name], done, total))

    def began(run: SweepRun) -> None:
        pipe.send((numbers[run.name], None))

    def ended(run: SweepRun) -> None:
        pipe.send((numbers[run.name],))

    def apart(runs: int, why: str) -> None:
        pipe.send((None, runs, why))

    watch = GroupWatch(began, progress, ended, apart)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            group = [plan.runs[number] for number in pipe.recv()]
            try:
                train_group(folder, group, tasks, way, watch)
            except SharpError as error:  # not the run's: the folder cannot be written
                pipe.send((Failure(error.message, error.hint),))
                return
