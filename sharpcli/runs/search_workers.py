"""The trials of a search in several processes, each of which asks the study for the next one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, UsageError
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


def search_in_processes(
    search: Search, output: Path, storage: str | None, jobs: int, watch: SearchWatch
) -> None:
    """Run trials in `jobs` processes until there are enough.

    Where a process dies another one takes its place, and tries its trial again. Where this one
    ends, however it does, the others end too. What ends one of them by a `SharpError` ends all.
    """

    def started() -> WorkerProcess:
        return WorkerProcess(*start(_work, search, output, storage, duplex=False))

    workers = [started() for _ in range(jobs)]
    with ended_with(workers):
        while workers:
            for worker in with_messages(workers):
                try:
                    kind, *values = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    worker.joined()
                    workers.append(started())
                    continue
                if kind == "done":
                    workers.remove(worker)
                    worker.joined()
                elif kind == "failed":
                    misuse, message, hint = values
                    raise (UsageError if misuse else SharpError)(message, hint)
                else:
                    getattr(watch, kind)(*values)


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
