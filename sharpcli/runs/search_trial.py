"""One trial of a search: trained, evaluated on the way, ended early where it is hopeless."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, settings_written_by
from sharpcli.runs.failures import own_failure
from sharpcli.runs.search_study import SearchStudy
from sharpcli.runs.sweep_run import Tasks, one_thread
from sharpcli.runs.train import train_and_save
from sharpcli.runtime import interruption
from sharpcli.runtime.progress import Progress
from sharpcli.tasks import Task
from sharpcli.training.held_out import VALIDATION, with_validation
from sharpcli.training.outcome import DivergedError, Trained
from sharpcli.training.scoring import ObjectiveError, Scorer
from sharpcli.training.search_file import Search
from sharpcli.training.state import StateFile
from sharpcli.training.sweep_file import as_key

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["run_trial", "task_of"]


class _PrunedError(Exception):
    """The trial is worse than those before it."""


def task_of(search: Search, task: Task) -> Task:
    """The task with the split on which the search takes its objective."""
    settings = search.settings
    if settings.split != VALIDATION:
        return task
    return with_validation(task, settings.validation, settings.seed)


def run_trial(study: SearchStudy, trial: Trial, tasks: Tasks, progress: Progress) -> None:
    """Train one trial, and tell the study what came of it; a failure is kept, too.

    It takes one thread, so that its weights do not depend on how many are trained at once.

    Raises:
        ObjectiveError: The objective does not exist, in this trial or any other.
        RuntimeError: that an interrupt was turned into.
        SharpError: that an interrupt was turned into.
    """
    from optuna.trial import TrialState

    search, name = study.search, study.name(trial)
    target = study.checkpoint(name)
    asked = search.settings
    started = time.perf_counter()

    def report(at: int, value: float) -> None:
        trial.report(value, at)
        if trial.should_prune():
            raise _PrunedError

    def end(value: float | None, state: TrialState, **known: Any) -> None:
        with interruption.deferred():
            if state != TrialState.COMPLETE:
                StateFile(target).remove()
            known["seconds"] = time.perf_counter() - started
            for key, each in known.items():
                trial.set_user_attr(key, each)
            study.study.tell(trial, value, state)

    def done(trained: Trained) -> None:
        known = {"epochs": trained.epochs, "steps": trained.steps}
        end(scorer.value, TrialState.COMPLETE, **known, train_loss=trained.train_loss)

    try:
        with settings_written_by(as_key), one_thread():
            run = search.trial(name, study.values(trial))
            task = task_of(search, tasks.of(run))
            scorer = Scorer(task, asked.objective, asked.split, asked.every, report)
            about: dict[str, Any] = {"searched": f"{asked.split} {asked.objective}"}
            if asked.split == VALIDATION:
                about["held_out"] = asked.validation
            train_and_save(
                task,
                run.settings,
                target,
                progress,
                inits=search.sweep.path.parent,
                watchers=(scorer,),
                beside=lambda: {**about, "objective": f"{scorer.value:.6g}"},
                done=done,
            )
    except _PrunedError:
        end(None, TrialState.PRUNED)
    except DivergedError as error:
        # To the sampler it is worse than all that finished; a failure would tell it nothing.
        end(None, TrialState.PRUNED, error=[error.message, error.hint], kind=Outcome.DIVERGED)
    except ObjectiveError:
        raise
    except OSError as error:
        end(None, TrialState.FAIL, error=[f"{target.parent}: {error.strerror}", None])
    except (SharpError, RuntimeError) as error:
        if interruption.caused(error):
            raise
        failure = own_failure(error)
        end(None, TrialState.FAIL, error=[failure.message, failure.hint])
