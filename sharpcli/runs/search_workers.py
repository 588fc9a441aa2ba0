"""The trials of a search in several processes, each of which asks the study for the next one."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.runs.sweep_run import Tasks
from sharpcli.runs.worker_processes import (
    BETWEEN,
    WorkerProcess,
    become_worker,
    ended_with,
    start,
    with_messages,
)
from sharpcli.training.search_file import Search

if TYPE_CHECKING:
    from sharpcli.runs.search import SearchWatch

__all__ = ["search_in_processes"]

_LOST = 3  # processes that die in a row before they begin a trial: then none can


@dataclass
class _Worker(WorkerProcess):
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

    def started() -> _Worker:
        return _Worker(*start(_work, search, output, storage, duplex=False))

    lost = 0
    workers = [started() for _ in range(jobs)]
    with ended_with(workers):
        while workers:
            for worker in with_messages(workers):
                try:
                    kind, *values = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    worker.joined()
                    lost = 0 if worker.began else lost + 1
                    if lost == _LOST:
                        raise SharpError(*_none_begins(worker)) from None
                    workers.append(started())
                    continue
                if kind == "done":
                    workers.remove(worker)
                    worker.joined()
                elif kind == "failed":
                    misuse, message, hint = values
                    raise (UsageError if misuse else SharpError)(message, hint)
                else:
                    worker.began |= kind == "began"
                    getattr(watch, kind)(*values)


def _none_begins(worker: _Worker) -> tuple[str, str]:
    """Message and hint where process after process dies before it begins a trial."""
    code = worker.process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return (
        f"a process of the search {how} before it began a trial, and so did those before it",
        f"see its own message; where the memory is too small, lower {setting('jobs')}",
    )


def _work(pipe: Connection, search: Search, output: Path, storage: str | None) -> None:
    """Run trials until there are enough, and say so through the pipe."""
    from sharpcli.runs.search import SearchWatch, run_trials
    from sharpcli.runs.search_study import SearchStudy

    become_worker()
    last = 0.0

    def began(name: str) -> None:
        pipe.send(("began", name))

    def progress(name: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last > BETWEEN:
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
