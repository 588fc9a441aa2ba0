"""Look for the settings with the best result: the work of `sharp search`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sharpcli.documents.results import Document, dumps
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.runs.search_report import search_document, trial_of
from sharpcli.runs.search_study import SearchStudy, home_of
from sharpcli.runs.search_trial import run_trial
from sharpcli.runs.search_workers import search_in_processes
from sharpcli.runs.sweep_run import Tasks
from sharpcli.runtime import interruption
from sharpcli.runtime.files import write_whole
from sharpcli.training.search_file import read_search
from sharpcli.training.sweep_file import SweepRun
from sharpcli.training.train_settings import TrainSettings

__all__ = ["SearchWatch", "run_trials", "search"]

_HOPELESS = 5  # trials that fail, and none that does not: then the fault is in what all share


@dataclass(frozen=True)
class SearchWatch:
    """What is called while a search works.

    Attributes:
        planned: how many trials there will be, and how many have ended.
        began: a trial that is being trained.
        progress: a trial's name, how much of it is done, and of how much.
        ended: what is known of a trial that has ended, as the document has it.
    """

    planned: Callable[[int, int], None] = lambda *_: None
    began: Callable[[str], None] = lambda *_: None
    progress: Callable[[str, int, int | None], None] = lambda *_: None
    ended: Callable[[str, Mapping[str, Any]], None] = lambda *_: None


def search(
    file: Path,
    output: Path,
    *,
    task: str | None = None,
    storage: str | None = None,
    trials: int | None = None,
    jobs: int = 1,
    watch: SearchWatch | None = None,
) -> Document:
    """Run the trials of a search file that are not finished yet.

    A trial that fails or diverges is kept as that, and the others go on. Ctrl-C ends the search
    with what is finished; the next call goes on.

    Args:
        file: the search file.
        output: the folder, which gets `search.json` and a folder for each trial.
        task: the task, where the file names none.
        storage: where Optuna keeps the trials; default: `search.db` in the folder.
        trials: how many there are in all, in place of the file's number.
        jobs: how many processes train at once.
        watch: is called on the way.

    Returns:
        The document of kind `search`, which `search.json` holds. A mistake in the file, and a
        folder or storage that holds another search, are `UsageError`s.

    Raises:
        SharpError: Optuna is missing, storage or folder fail, or every trial does.
        RuntimeError: for a bug.
    """
    watch = watch or SearchWatch()
    plan = read_search(file, task)
    if trials is not None:
        plan = replace(plan, settings=replace(plan.settings, trials=trials))
    tasks = Tasks(plan.sweep)
    shared = tasks.of(SweepRun("", TrainSettings(), plan.options))
    _open(output)
    with SearchStudy.opened(plan, output, storage) as study:
        study.mend()
        done = sum(trial.state.is_finished() for trial in study.trials)
        watch.planned(plan.settings.trials, done)
        interrupted = False
        try:
            if min(jobs, plan.settings.trials - done) > 1:
                search_in_processes(plan, output, storage, jobs, watch)
            else:
                run_trials(study, tasks, watch)
        except KeyboardInterrupt:
            interrupted = True  # the search ends with what is finished
        except (SharpError, RuntimeError) as error:
            interrupted = interruption.caused(error)
            if not interrupted:
                raise
        with interruption.deferred():
            if interrupted:
                study.stopped()
            with study.alone():  # or an older document could replace a newer one
                document = search_document(study, shared)
                write_whole(output / "search.json", dumps(document) + "\n")
    return document


def run_trials(study: SearchStudy, tasks: Tasks, watch: SearchWatch) -> None:
    """Run trials, one after another, as long as the study has too few."""
    while True:
        with study.next_trial(study.search.settings.trials) as trial:
            if trial is None:
                if study.mend():  # of another process, which died meanwhile
                    continue
                return
            name = study.name(trial)
            watch.began(name)
            with interruption.interruptible():
                run_trial(study, trial, tasks, functools.partial(watch.progress, name))
            interruption.hold()
        ended = study.study.get_trials()[trial.number]
        watch.ended(name, asdict(trial_of(study, ended)))
        _check_hope(study)


def _check_hope(study: SearchStudy) -> None:
    """End a search of which every trial fails."""
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    if len(ended) == _HOPELESS and all(trial.state.name == "FAIL" for trial in ended):
        message, hint = ended[-1].user_attrs["error"]
        raise SharpError(f"the first {_HOPELESS} trials failed, the last one by: {message}", hint)


def _open(output: Path) -> None:
    """Make the folder, or see that it holds a search."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is not a folder", "name a folder for the search")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SharpError(
            f"{output}: cannot be made: {error.strerror}",
            "name a folder in one that exists and may be written to",
        ) from error
    others = [each.name for each in output.iterdir() if not each.name.startswith(".")]
    if others and not (output / ".home").exists():
        raise UsageError(
            f"{output}: is not empty and holds no search ({', '.join(sorted(others)[:4])})",
            f"give another {setting('output')}",
        )
    home_of(output)  # before the storage, so that the folder is known again after a kill
