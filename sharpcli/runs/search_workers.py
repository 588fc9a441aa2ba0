"""The trials of a search in several processes, each of which asks the study for the next one."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.runs.sweep_run import Tasks
from sharpcli.runs.sweep_workers import end_with_parent
from sharpcli.runtime import interruption
from sharpcli.training.search_file import Search

if TYPE_CHECKING:
    from sharpcli.runs.search import SearchWatch

__all__ = ["search_in_processes"]

_BETWEEN = 0.2  # seconds between two messages of a worker's progress
_LOST = 3  # processes that die in a row before they begin a trial: then none can


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    began: bool = False  # a trial


def search_in_processes(
    search: Search, output: Path, storage: str | None, jobs: int, watch: SearchWatch
) -> None:
    """Run trials in `jobs` processes until there are enough.

    Where a process dies another one takes its place, and tries its trial again. Where this one
    ends, however it does, the others end too.

    Raises:
        SharpError: that ended one of them, or processes die again and again before they begin one.
    """
    lost = 0
    workers = [_started(search, output, storage) for _ in range(jobs)]
    try:
        while workers:
            with interruption.interruptible():
                ready = wait([worker.pipe for worker in workers])
            interruption.hold()
            for worker in [each for each in workers if each.pipe in ready]:
                try:
                    kind, *values = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    worker.process.join()
                    worker.pipe.close()
                    lost = 0 if worker.began else lost + 1
                    if lost == _LOST:
                        raise SharpError(*_none_begins(worker)) from None
                    workers.append(_started(search, output, storage))
                    continue
                if kind == "done":
                    workers.remove(worker)
                    worker.process.join()
                    worker.pipe.close()
                elif kind == "failed":
                    misuse, message, hint = values
                    raise (UsageError if misuse else SharpError)(message, hint)
                else:
                    worker.began |= kind == "began"
                    getattr(watch, kind)(*values)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _none_begins(worker: _Worker) -> tuple[str, str]:
    """Message and hint where process after process dies before it begins a trial."""
    code = worker.process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return (
        f"a process of the search {how} before it began a trial, and so did those before it",
        f"see its own message; where the memory is too small, lower {setting('jobs')}",
    )


def _started(search: Search, output: Path, storage: str | None) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, search, output, storage))
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _work(pipe: Connection, search: Search, output: Path, storage: str | None) -> None:
    """Run trials until there are enough, and say so through the pipe."""
    from sharpcli.runs.search import SearchWatch, run_trials
    from sharpcli.runs.search_study import SearchStudy

    for name in ("SIGINT", "SIGHUP"):  # the first process handles them, and ends this one
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr  # standard output is the result's
    torch.set_num_threads(1)
    last = 0.0

    def began(name: str) -> None:
        pipe.send(("began", name))

    def progress(name: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last > _BETWEEN:
            last = time.monotonic()
            pipe.send(("progress", name, done, total))

    def ended(name: str, trial: Mapping[str, Any]) -> None:
        pipe.send(("ended", name, trial))

    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            with SearchStudy.opened(search, output, storage) as study:
                study.mend()  # the trial of the process that this one replaces
                watch = SearchWatch(began=began, progress=progress, ended=ended)
                run_trials(study, Tasks(search.sweep), watch)
        except SharpError as error:
            pipe.send(("failed", isinstance(error, UsageError), error.message, error.hint))
        else:
            pipe.send(("done",))
