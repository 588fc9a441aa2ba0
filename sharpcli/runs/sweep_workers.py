"""The runs of a sweep in several processes, each of which trains one run after another."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from sharpcli.documents.results import Failure
from sharpcli.errors import setting
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_run import Tasks, train_run
from sharpcli.runtime import interruption
from sharpcli.training.sweep_file import Sweep, SweepRun

__all__ = ["end_with_parent", "train_in_processes"]

_BETWEEN = 0.2  # seconds between two messages of a worker's progress
_LEAVE = 5.0  # seconds that a worker has to end by itself


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    run: SweepRun


def train_in_processes(
    folder: SweepFolder,
    runs: Sequence[SweepRun],
    jobs: int,
    *,
    began: Callable[[SweepRun], None],
    progress: Callable[[str, int, int | None], None],
    ended: Callable[[SweepRun], None],
) -> None:
    """Train the runs in up to `jobs` processes.

    A run whose process dies is kept as failed, and another process takes over. Where this one ends,
    however it does, the others end too, and what they have not finished is not kept.
    """
    queue, workers = deque(runs), list[_Worker]()

    def begin(run: SweepRun, pipe: Connection) -> None:
        began(run)
        pipe.send(folder.sweep.runs.index(run))

    try:
        while queue or workers:
            while queue and len(workers) < jobs:
                process, pipe = _started(folder)
                workers.append(_Worker(process, pipe, queue[0]))
                begin(queue.popleft(), pipe)
            with interruption.interruptible():
                ready = wait([worker.pipe for worker in workers])
            interruption.hold()
            for worker in [each for each in workers if each.pipe in ready]:
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    _bury(worker, folder)
                    ended(worker.run)
                    continue
                if message is not None:
                    progress(worker.run.name, *message)
                    continue
                ended(worker.run)
                if queue:
                    worker.run = queue.popleft()
                    begin(worker.run, worker.pipe)
                else:
                    workers.remove(worker)
                    _dismiss(worker)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _started(folder: SweepFolder) -> tuple[SpawnProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, folder.path, folder.sweep))
    process.start()
    theirs.close()
    return process, ours


def _dismiss(worker: _Worker) -> None:
    """Let a worker that has nothing to do end."""
    worker.pipe.close()
    worker.process.join(_LEAVE)
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join()


def _bury(worker: _Worker, folder: SweepFolder) -> None:
    """Keep the run of a worker that died as failed, unless it was finished."""
    worker.process.join()
    worker.pipe.close()
    if folder.is_finished(worker.run):
        return
    code = worker.process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    folder.keep_failed(
        worker.run,
        Failure(
            f"the process that trained it {how}",
            f"where the memory is too small, lower {setting('jobs')}; the same command trains it "
            "again",
        ),
    )


def _work(pipe: Connection, output: Path, plan: Sweep) -> None:
    """Train the runs whose numbers come through the pipe, until it is closed."""
    for name in ("SIGINT", "SIGHUP"):  # the first process handles them, and ends this one
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr  # standard output is the result's
    torch.set_num_threads(1)
    folder, tasks = SweepFolder(output, plan), Tasks(plan)
    last = 0.0

    def progress(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last > _BETWEEN:
            last = time.monotonic()
            pipe.send((done, total))

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            run = plan.runs[pipe.recv()]
            train_run(folder, run, tasks, progress)
            pipe.send(None)


def end_with_parent() -> None:
    """End this process as soon as the first one has ended: it holds the file of its run."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)
