"""One run of a sweep: trained into its folder, with what came of it beside."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from sharpcli.documents.results import Failure
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, settings_written_by
from sharpcli.runs.failures import own_failure
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.train import train_and_save
from sharpcli.runtime import interruption
from sharpcli.runtime.files import reserved
from sharpcli.runtime.progress import Progress
from sharpcli.runtime.reservations import InUseError
from sharpcli.tasks import Task, load_task
from sharpcli.training.outcome import DivergedError
from sharpcli.training.sweep_file import Sweep, SweepRun, as_key

__all__ = ["Tasks", "one_thread", "train_run"]


class Tasks:
    """The task of a sweep by the options that runs give it, loaded when a run first needs it."""

    def __init__(self, plan: Sweep) -> None:
        self._plan = plan
        self._loaded: dict[tuple[tuple[str, str], ...], Task] = {}

    def of(self, run: SweepRun) -> Task:
        """The task of a run; raises what `load_task` does, with the sweep file named."""
        key = tuple(sorted(run.options.items()))
        if key not in self._loaded:
            try:
                with settings_written_by(as_key):
                    task = load_task(self._plan.task_path, run.options)
            except UsageError as error:
                raise UsageError(f"{self._plan.path}: {error.message}", error.hint) from error
            # Checkpoints name the task; from where the sweep is started is not to change them.
            self._loaded[key] = replace(task, name=self._plan.task)
        return self._loaded[key]


def train_run(folder: SweepFolder, run: SweepRun, tasks: Tasks, progress: Progress) -> None:
    """Train one run, unless it is finished or another process is training it.

    What came of it, also a failure, is written beside its checkpoint. It takes one thread, so that
    its weights do not depend on how many runs are trained at once.

    Raises:
        RuntimeError: that an interrupt was turned into.
        SharpError: that an interrupt was turned into.
    """
    target = folder.checkpoint(run)
    try:
        target.parent.mkdir(exist_ok=True)
        with reserved(target):
            if folder.is_finished(run):
                return
            started = time.perf_counter()
            task = tasks.of(run)
            with settings_written_by(as_key), one_thread():
                train_and_save(
                    task,
                    run.settings,
                    target,
                    progress,
                    own_folder=True,
                    inits=folder.sweep.path.parent,
                    done=lambda trained: folder.keep_trained(
                        run, trained, time.perf_counter() - started
                    ),
                )
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


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """While active, torch computes in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
