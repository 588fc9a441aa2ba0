"""Groups of a sweep's runs that are trained together, each run into its own folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sharpcli.checkpoint.safetensors_file import read_safetensors
from sharpcli.documents.results import Failure
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, settings_written_by
from sharpcli.runs.failures import own_failure
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_run import Tasks, one_thread, train_run
from sharpcli.runs.train import metadata, save_trained
from sharpcli.runs.training_files import TrainingFiles
from sharpcli.runtime import interruption
from sharpcli.runtime.files import reserved
from sharpcli.runtime.reservations import InUseError
from sharpcli.tasks import Task
from sharpcli.training.outcome import DivergedError, Trained
from sharpcli.training.state import StateFile
from sharpcli.training.sweep_file import SweepRun, as_key
from sharpcli.training.together import Keeping, alike, train_together

__all__ = ["GroupWatch", "Way", "groups_of", "train_group"]

_STATE = ".together-"
_MOST = 32  # runs of a group: more of them make a step longer, and hardly a run shorter


class Way(StrEnum):
    """Which runs are trained together, where that is faster."""

    SAME_BYTES = "same-bytes"  # those whose checkpoints get the bytes that they get one by one
    TOGETHER = "together"  # also those whose weights differ by rounding
    ONE_BY_ONE = "one-by-one"


@dataclass(frozen=True)
class GroupWatch:
    """Who is called while groups of runs are trained.

    Attributes:
        began: with a run, before its first step.
        progress: with its name, what is done, and of how much.
        ended: with a run.
        apart: with how many runs are trained one by one, and why.
    """

    began: Callable[[SweepRun], None]
    progress: Callable[[str, int, int | None], None]
    ended: Callable[[SweepRun], None]
    apart: Callable[[int, str], None]


def groups_of(
    folder: SweepFolder, runs: Sequence[SweepRun], way: Way, jobs: int
) -> list[list[SweepRun]]:
    """The runs in groups that may be trained together, enough of them for all jobs.

    A run that has a state already goes on from it by itself.
    """
    most = max(1, min(_MOST, -(-len(runs) // jobs)))
    groups: dict[object, list[SweepRun]] = {}
    kept = [] if way is Way.ONE_BY_ONE else _kept_groups(folder, runs)
    for number, run in enumerate(runs):
        if any(run in group for group in kept):
            continue
        key = None if way is Way.ONE_BY_ONE else alike(run.settings)
        if key is None or _state_exists(folder, run):
            groups[number] = [run]
        else:
            groups.setdefault((key, tuple(sorted(run.options.items()))), []).append(run)
    return kept + [
        group[first : first + most]
        for group in groups.values()
        for first in range(0, len(group), most)
    ]


def _kept_groups(folder: SweepFolder, runs: Sequence[SweepRun]) -> list[list[SweepRun]]:
    """The groups that have a state to go on from."""
    waiting = {run.name: run for run in runs}
    groups: list[list[SweepRun]] = []
    for names in _states(folder).values():
        group = [waiting[name] for name in names if name in waiting]
        if len(group) > 1 and not any(run in other for run in group for other in groups):
            groups.append(group)
    return groups


def _states(folder: SweepFolder) -> dict[Path, list[str]]:
    """The runs of each file with a group's state; a file that cannot be read has none."""
    found: dict[Path, list[str]] = {}
    for path in sorted(folder.path.glob(f"{_STATE}*.state")):
        try:
            found[path] = json.loads(str(read_safetensors(path).metadata["training"]))["run"][
                "runs"
            ]
        except (SharpError, KeyError, ValueError):
            found[path] = []
    return found


def _keeping(
    folder: SweepFolder, mine: Sequence[SweepRun], held: contextlib.ExitStack
) -> Keeping | None:
    """Where a group keeps its state: in the file that it has, or in a new one, which is reserved.

    Two processes may share the runs of a killed group; the file is that of the one that is first.
    None if both files are another process's.
    """
    names = [run.name for run in mine]
    settings = {run.name: run.settings for run in folder.sweep.runs}
    known = [each for each in _states(folder).values() if set(names) <= set(each)]
    for first in [*reversed(known), names]:
        digest = hashlib.sha256("\0".join(first).encode()).hexdigest()[:16]
        file = StateFile(folder.path / f"{_STATE}{digest}")
        with contextlib.suppress(InUseError):
            held.enter_context(reserved(file.path))
            return Keeping(file, {name: settings[name] for name in first}, names)
    return None


def train_group(
    folder: SweepFolder,
    group: Sequence[SweepRun],
    tasks: Tasks,
    way: Way,
    watch: GroupWatch,
) -> None:
    """Train the runs of a group together, or one by one where that is right or faster.

    What came of each run, also a failure, is written beside its checkpoint. A run that is finished,
    or that another process is training, is left out. An interrupt is raised as `train_run` does.
    """
    left = [*group]
    if len(group) > 1:
        left = _train_together(folder, group, tasks, way, watch)
    for run in left:
        watch.began(run)
        train_run(folder, run, tasks, functools.partial(watch.progress, run.name))
        watch.ended(run)


def _train_together(
    folder: SweepFolder,
    group: Sequence[SweepRun],
    tasks: Tasks,
    way: Way,
    watch: GroupWatch,
) -> list[SweepRun]:
    """The runs that are left, because they could not be trained together."""
    left = [*group]
    with contextlib.ExitStack() as held:
        mine = [run for run in group if _is_mine(folder, run, held)]
        try:
            task = tasks.of(group[0])
        except (SharpError, RuntimeError) as error:
            if interruption.caused(error):
                raise
            return left
        started, count, begun = time.perf_counter(), len(mine), set[str]()

        def begin(run: SweepRun) -> None:
            if run.name not in begun:
                begun.add(run.name)
                watch.began(run)

        def end(number: int, outcome: Trained | SharpError) -> None:
            run = mine[number]
            begin(run)
            with interruption.deferred():
                _keep(folder, run, task, outcome, (time.perf_counter() - started) / count)
                left.remove(run)
                watch.ended(run)

        def show(done: int, total: int | None) -> None:
            for run in (run for run in mine if run in left):
                begin(run)
                watch.progress(run.name, done, total)

        if count > 1:
            settings = [run.settings for run in mine]
            with settings_written_by(as_key), one_thread():
                exact = way is Way.SAME_BYTES
                keeping = _keeping(folder, mine, held)
                train_together(
                    task,
                    settings,
                    end,
                    show,
                    exact=exact,
                    keeping=keeping,
                    refused=lambda why: watch.apart(len(left), why),
                )
    return left


def _is_mine(folder: SweepFolder, run: SweepRun, held: contextlib.ExitStack) -> bool:
    """Whether a run can be trained here; if so, its checkpoint is reserved."""
    target = folder.checkpoint(run)
    try:
        target.parent.mkdir(exist_ok=True)
        held.enter_context(reserved(target))
    except (SharpError, OSError):  # trained by itself, it says why
        return False
    return not folder.is_finished(run)


def _keep(
    folder: SweepFolder, run: SweepRun, task: Task, outcome: Trained | SharpError, seconds: float
) -> None:
    """Write what came of a run."""
    try:
        if isinstance(outcome, SharpError):
            raise outcome
        files = TrainingFiles.in_folder(folder.checkpoint(run))
        about = metadata(task, run.settings, outcome)
        trained = save_trained(task, run.settings, files, outcome, about)
        folder.keep_trained(run, trained, seconds)
    except DivergedError as error:
        folder.keep_failed(run, Failure(error.message, error.hint, Outcome.DIVERGED))
    except (SharpError, RuntimeError) as error:
        folder.keep_failed(run, own_failure(error))


def _state_exists(folder: SweepFolder, run: SweepRun) -> bool:
    target = folder.checkpoint(run)
    return target.with_name(f"{target.name}.state").exists()
