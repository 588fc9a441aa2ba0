"""Train every run of a sweep file into a folder: the work of `sharp sweep`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpcli.documents.results import Document
from sharpcli.errors import SharpError, UsageError, counted, setting
from sharpcli.runs.sweep_folder import INTERRUPTED, SweepFolder
from sharpcli.runs.sweep_jobs import find_jobs, train_in_jobs
from sharpcli.runs.sweep_measures import read_measure
from sharpcli.runs.sweep_run import Tasks
from sharpcli.runs.sweep_together import GroupWatch, Way, groups_of, train_group
from sharpcli.runs.sweep_workers import train_in_processes
from sharpcli.runtime import interruption
from sharpcli.training.sweep_file import SweepRun, read_sweep
from sharpcli.training.together import OTHER_BITS

__all__ = ["Watch", "sweep"]

_BETWEEN = 2.0  # seconds between two writings of sweep.json while runs are trained


@dataclass(frozen=True)
class Watch:
    """What is called while a sweep works.

    Attributes:
        added: runs that the file has more than the sweep that the folder holds.
        together: how many runs each group has that may be trained together.
        planned: the runs of this process, and the names of those that are finished already.
        began: a run that is being trained.
        progress: a run's name, how much of it is done, and of how much.
        ended: what is known of a run that has ended, as `sweep.json` has it.
        noted: what a person is to know.
    """

    added: Callable[[Sequence[str]], None] = lambda *_: None
    planned: Callable[[Sequence[SweepRun], Sequence[str]], None] = lambda *_: None
    together: Callable[[Sequence[int]], None] = lambda *_: None
    began: Callable[[str], None] = lambda *_: None
    progress: Callable[[str, int, int | None], None] = lambda *_: None
    ended: Callable[[str, Mapping[str, Any]], None] = lambda *_: None
    noted: Callable[[str], None] = lambda *_: None


def sweep(
    file: Path,
    output: Path,
    *,
    jobs: int = 1,
    shard: tuple[int, int] = (1, 1),
    way: Way = Way.SAME_BYTES,
    on: str | None = None,
    detach: bool = False,
    watch: Watch | None = None,
) -> Document:
    """Train the runs of a sweep file that are not finished yet.

    A run that fails or diverges is kept as failed, and the others go on. Ctrl-C ends the sweep with
    what is finished. Each run takes one thread, so that its weights do not depend on how many are
    trained at once.

    Args:
        file: the sweep file.
        output: the folder, which gets `sweep.json` and a folder for each run.
        jobs: how many processes, or with `on` jobs, train at once.
        shard: (i, n) trains every n-th run from the i-th on, the others are left to other calls.
        way: which runs are trained together; with `on` none are.
        on: "slurm" or "local", for jobs that submitit starts; None trains in this process's own.
        detach: with `on`, leave the jobs alone once they are submitted.
        watch: is called on the way.

    Returns:
        The document of kind `sweep`, which `sweep.json` holds. A mistake in the file, and a folder
        that holds something else, are `UsageError`s.

    Raises:
        RuntimeError: for a bug; the state of the sweep is written first.
        UsageError: if there is no such place for jobs, or it is not here.
        SharpError: if a worker or the folder fails; the state of the sweep is written first.
    """
    watch = watch or Watch()
    plan = read_sweep(file)
    read_measure(plan)  # a mistake in it is found before hours of training
    tasks = Tasks(plan)
    if detach and on is None:
        raise UsageError(f"{setting('detach')} is for jobs", f"add {setting('on', 'slurm')}")
    submitted = None if on is None else find_jobs(on, plan)
    folder = SweepFolder(output, plan, [tasks.of(run) for run in plan.runs])
    watch.added(folder.open())
    index, count = shard
    mine = plan.runs[index - 1 :: count]
    waiting = [run for run in mine if not folder.is_finished(run)]
    watch.planned(mine, [run.name for run in mine if run not in waiting])
    states: dict[str, Mapping[str, Any]] = {}
    written = time.monotonic()

    def began(run: SweepRun) -> None:
        states[run.name] = INTERRUPTED  # unless it ends
        watch.began(run.name)

    def ended(run: SweepRun) -> None:
        nonlocal written
        states.pop(run.name, None)
        watch.ended(run.name, folder.state(run))
        if time.monotonic() - written > _BETWEEN:
            folder.write()
            written = time.monotonic()

    allows = setting("together")  # as whoever reads it writes it, and not as a file does

    def apart(runs: int, why: str) -> None:
        allowed = f", which {allows} allows" if why == OTHER_BITS else ""
        watch.noted(f"{counted(runs, 'run')} trained one by one: {why}{allowed}")

    of_groups = GroupWatch(began, watch.progress, ended, apart)
    try:
        groups = [] if submitted is not None else groups_of(folder, waiting, way, jobs)
        watch.together([len(group) for group in groups if len(group) > 1])
        if submitted is not None and waiting:
            train_in_jobs(
                folder,
                waiting,
                jobs,
                submitted,
                detach=detach,
                began=began,
                progress=watch.progress,
                ended=ended,
                noted=watch.noted,
            )
        elif min(jobs, len(groups)) > 1:
            train_in_processes(folder, groups, jobs, way, of_groups)
        else:
            for group in groups:
                with interruption.interruptible():
                    train_group(folder, group, tasks, way, of_groups)
                interruption.hold()
    except KeyboardInterrupt:  # the sweep ends with what is finished
        left = [run.name for run in waiting if not folder.is_finished(run)]
        if states.keys().isdisjoint(left):  # jobs wait in a queue, or were between two runs
            states = dict.fromkeys(left, INTERRUPTED)
    except (SharpError, RuntimeError) as error:
        if not interruption.caused(error):
            folder.write()
            raise
    return folder.write(states)
