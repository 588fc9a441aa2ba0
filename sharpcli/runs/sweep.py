"""Train every run of a sweep file into a folder: the work of `sharp sweep`."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sharpcli.documents.results import Document, Failure
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, settings_written_by
from sharpcli.runs.failures import own_failure
from sharpcli.runs.sweep_folder import INTERRUPTED, SweepFolder
from sharpcli.runs.train import train_and_save
from sharpcli.runtime import interruption
from sharpcli.runtime.files import InUseError, reserved
from sharpcli.runtime.progress import Progress
from sharpcli.tasks import Task, load_task
from sharpcli.training.loop import DivergedError
from sharpcli.training.sweep_file import Sweep, SweepRun, as_key, read_sweep

__all__ = ["Watch", "load_tasks", "sweep", "train_run"]

_BETWEEN = 2.0  # seconds between two writings of sweep.json while runs are trained


@dataclass(frozen=True)
class Watch:
    """What is called while a sweep works.

    Attributes:
        added: runs that the file has more than the sweep that the folder holds.
        planned: the runs of this process, and the names of those that are finished already.
        progress: a run's name, how much of it is done, and of how much.
        ended: what is known of a run that has ended, as `sweep.json` has it.
    """

    added: Callable[[Sequence[str]], None] = lambda *_: None
    planned: Callable[[Sequence[SweepRun], Sequence[str]], None] = lambda *_: None
    progress: Callable[[str, int, int | None], None] = lambda *_: None
    ended: Callable[[str, Mapping[str, Any]], None] = lambda *_: None


def sweep(
    file: Path, output: Path, *, shard: tuple[int, int] = (1, 1), watch: Watch | None = None
) -> Document:
    """Train the runs of a sweep file that are not finished yet.

    A run that fails or diverges is kept as failed, and the others go on. Ctrl-C ends the sweep with
    what is finished. Each run takes one thread, so that its weights do not depend on how many are
    trained at once.

    Args:
        file: the sweep file.
        output: the folder, which gets `sweep.json` and a folder for each run.
        shard: (i, n) trains every n-th run from the i-th on, the others are left to other calls.
        watch: is called on the way.

    Returns: the document of kind `sweep`, which `sweep.json` holds.

    Raises:
        UsageError: for a mistake in the file, and for a folder that holds something else.
    """
    watch = watch or Watch()
    plan = read_sweep(file)
    tasks = load_tasks(plan)
    folder = SweepFolder(output, plan, [tasks[_key(run)] for run in plan.runs])
    watch.added(folder.open())
    index, count = shard
    mine = plan.runs[index - 1 :: count]
    waiting = [run for run in mine if not folder.is_finished(run)]
    watch.planned(mine, [run.name for run in mine if run not in waiting])
    states: dict[str, Mapping[str, Any]] = {}
    written = time.monotonic()
    try:
        for run in waiting:
            with interruption.interruptible():
                states[run.name] = INTERRUPTED
                task = tasks[_key(run)]
                train_run(folder, run, task, functools.partial(watch.progress, run.name))
                del states[run.name]
            watch.ended(run.name, folder.state(run))
            interruption.hold()
            if time.monotonic() - written > _BETWEEN:
                folder.write()
                written = time.monotonic()
    except (KeyboardInterrupt, SharpError, RuntimeError) as error:
        if not interruption.caused(error):
            folder.write()
            raise
    return folder.write(states)


def load_tasks(plan: Sweep) -> dict[tuple[tuple[str, str], ...], Task]:
    """The sweep's task, by the options that runs give it; raises `UsageError` for a wrong one."""
    tasks: dict[tuple[tuple[str, str], ...], Task] = {}
    for run in plan.runs:
        if _key(run) not in tasks:
            try:
                with settings_written_by(as_key):
                    tasks[_key(run)] = load_task(plan.task, run.options)
            except UsageError as error:
                raise UsageError(f"{plan.path}: {error.message}", error.hint) from error
    return tasks


def train_run(folder: SweepFolder, run: SweepRun, task: Task, progress: Progress) -> None:
    """Train one run, unless it is finished or another process is training it."""
    target = folder.checkpoint(run)
    try:
        target.parent.mkdir(exist_ok=True)
        with reserved(target):
            if folder.is_finished(run):
                return
            started = time.perf_counter()
            with settings_written_by(as_key), _one_thread():
                trained = train_and_save(task, run.settings, target, progress)
            folder.keep_trained(run, trained, time.perf_counter() - started)
    except InUseError:
        return
    except OSError as error:
        folder.keep_failed(run, Failure(f"{target.parent}: {error.strerror}"))
    except DivergedError as error:
        folder.keep_failed(run, Failure(error.message, error.hint, Outcome.DIVERGED))
    except (SharpError, RuntimeError) as error:
        if interruption.caused(error):
            raise
        folder.keep_failed(run, own_failure(error))


def _key(run: SweepRun) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(run.options.items()))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
