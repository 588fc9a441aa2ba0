"""A search's trials in Optuna's storage: opened, asked for, marked when their process has died.

A trial's attributes say where it is kept: `folder` is its name in the search's folder, `home` that
folder's own mark. A process holds its trial's checkpoint until the study knows how the trial ended,
so a running trial that nobody holds is dead.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.runtime.files import reserved, reserved_within, write_whole
from sharpcli.runtime.reservations import InUseError
from sharpcli.training.ranges import Choice
from sharpcli.training.search_file import Search

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

__all__ = ["SearchStudy", "home_of"]

_KILLED = "killed"  # the attribute of a trial whose process has died; another one replaces it
_STOPPED = "stopped"  # the attribute of a trial that was interrupted: no death of its process
_DEATHS = 3  # of processes that run one trial, until it is given up: it may be what kills them
_PLAN = "sharp_plan"
_CLAIM = ".study"  # the file that says whose trials a folder holds
_MARK = "sharp_mark"  # the attributes of a study by which its folders know it again
_PATIENCE = 60.0  # seconds: others hold the folder for as long as choosing values takes
_RETRIES = (0.1, 0.3, 1.0, 3.0)  # seconds that another machine may take to make the tables
_TIMEOUT = 60  # seconds that SQLite waits for other processes
_SQLITE = "sqlite:///"
_LONGEST = 200  # characters of a storage's own message


class SearchStudy:
    """The study of a search and its folder. Made by `SearchStudy.opened`."""

    def __init__(
        self, search: Search, output: Path, study: optuna.Study, storage: Any, *, shared: bool
    ) -> None:
        self.search, self.output, self.study = search, output, study
        self._storage = storage
        self._home = home_of(output)
        self._shared = shared

    @classmethod
    @contextlib.contextmanager
    def opened(cls, search: Search, output: Path, storage: str | None) -> Iterator[SearchStudy]:
        """The study in `storage` (default: `search.db` in the folder), made if it is not there.

        A storage that has this study with another file's content is a `UsageError`.

        Raises:
            SharpError: Optuna is missing, or the storage cannot be reached, now or later.
        """
        optuna = _optuna()
        own = output / "search.db"
        url = storage or str(own)
        with _reached(url), contextlib.ExitStack() as opened:
            # Two processes that begin a search at once cannot both make the tables.
            begun = (output / _CLAIM).exists()
            with contextlib.nullcontext() if begun else _alone(output):
                try:
                    kept = _storage(storage) if storage else _file(own)
                except (ImportError, LookupError, ValueError) as error:  # no driver, or no URL
                    raise SharpError(*_unusable(url, error)) from error
                opened.callback(_close, kept)
                study = optuna.create_study(
                    storage=kept,
                    study_name=search.sweep.path.stem,
                    direction="maximize" if search.settings.highest else "minimize",
                    pruner=_pruner(search),
                    load_if_exists=True,
                )
                found = cls(search, output, study, kept, shared=storage is not None)
                found._compare()
                found._claim()
            yield found

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials but those whose process has died, in their order."""
        return [each for each in self.study.get_trials() if _KILLED not in each.user_attrs]

    def name(self, trial: FrozenTrial | Trial) -> str:
        """The name of its folder."""
        return str(trial.user_attrs.get("folder", _folder(trial.number)))

    def checkpoint(self, name: str) -> Path:
        """Where a trial's weights go."""
        return self.output / name / "model.safetensors"

    def values(self, trial: FrozenTrial | Trial) -> dict[str, Any]:
        """What was chosen, as the trainings have it."""
        found = {}
        for name, kind in self.search.space.items():
            if name in trial.params:
                drawn = trial.params[name]
                if isinstance(kind, Choice):
                    drawn = {_label(each): each for each in kind.values}[drawn]
                found[name] = self.search.value(name, drawn)
        return found

    @contextlib.contextmanager
    def next_trial(self, trials: int) -> Iterator[Trial | None]:
        """A trial to run, which is held meanwhile; None where there are enough."""
        with contextlib.ExitStack() as held:
            with _alone(self.output):
                trial = self._asked(trials)
                if trial is not None:
                    held.enter_context(self._held(self.name(trial)))
            yield trial

    def mend(self) -> int:
        """Mark the trials of this folder whose process has died, to be tried again; how many."""
        from optuna.trial import TrialState

        with _alone(self.output):
            dead = self._dead()
            for trial in dead:
                attempt = trial.user_attrs.get("attempt", 1)
                again, deaths = attempt + 1, trial.user_attrs.get("deaths", attempt - 1)
                deaths += _STOPPED not in trial.user_attrs
                mark = functools.partial(self._storage.set_trial_user_attr, trial._trial_id)
                if "folder" not in trial.user_attrs:  # the next one has its number and its choices
                    mark(_KILLED, True)
                elif deaths < _DEATHS:
                    # A kill between these lines leaves a trial that is still to be marked.
                    if (self.name(trial), again) not in self._attempts():
                        known = {"folder": self.name(trial), "attempt": again, "deaths": deaths}
                        self.study.enqueue_trial(trial.params, user_attrs=known)
                    mark(_KILLED, True)
                else:
                    mark("error", [f"the process that trained it has died {deaths} times", None])
                self.study.tell(trial.number, state=TrialState.FAIL)
        return len(dead)

    def stopped(self) -> None:
        """Mark the trials that nobody runs any more: they were interrupted, and did not die."""
        with _alone(self.output):
            for trial in self._dead():
                self._storage.set_trial_user_attr(trial._trial_id, _STOPPED, True)

    def _dead(self) -> list[FrozenTrial]:
        """The trials of this folder that run, and that no process holds."""
        from optuna.trial import TrialState

        running = self.study.get_trials(states=(TrialState.RUNNING,))
        return [trial for trial in running if self._is_dead(trial)]

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """While active, no other process of this folder asks for a trial or writes the result."""
        return _alone(self.output)

    @contextlib.contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """Hold a trial by its checkpoint's file; `InUseError` where another process does."""
        target = self.checkpoint(name)
        target.parent.mkdir(exist_ok=True)
        with reserved(target):
            yield

    def _attempts(self) -> set[tuple[str, int]]:
        """The names of all trials, with which attempt each is."""
        return {(self.name(t), t.user_attrs.get("attempt", 1)) for t in self.study.get_trials()}

    def _asked(self, trials: int) -> Trial | None:
        from optuna.trial import TrialState

        counted = self.trials
        waiting = [each for each in counted if each.state == TrialState.WAITING]
        if len(counted) - len(waiting) >= trials:
            return None
        # A kill within `mend` leaves a gap, which the next one fills: no two have one folder.
        taken = {self.name(each) for each in counted if "folder" in each.user_attrs}
        index = next(n for n in itertools.count() if _folder(n) not in taken)
        if self.search.settings.sampler == "grid" and not waiting:
            combinations = itertools.product(*(each.values for each in self._choices()))
            combination = next(itertools.islice(combinations, index, None), None)
            if combination is None:
                return None
            names = self.search.space
            self.study.enqueue_trial(dict(zip(names, map(_label, combination), strict=True)))
        # The choices depend on the seed and on the trials so far, not on how often it was killed.
        self.study.sampler = self._sampler(index)
        trial = self.study.ask(self._distributions())
        trial.set_user_attr("home", self._home)
        if "folder" not in trial.user_attrs:
            trial.set_user_attr("folder", _folder(index))
        return trial

    def _choices(self) -> list[Choice]:
        return [each for each in self.search.space.values() if isinstance(each, Choice)]

    def _sampler(self, index: int) -> optuna.samplers.BaseSampler:
        from optuna.samplers import RandomSampler, TPESampler

        seed = (self.search.settings.seed * 1_000_003 + index) % 2**32
        if self.search.settings.sampler == "tpe":
            # Trials that run are taken for bad ones: several processes do not choose the same.
            return TPESampler(seed=seed, constant_liar=True)
        return RandomSampler(seed=seed)

    def _distributions(self) -> dict[str, Any]:
        from optuna import distributions as of

        found: dict[str, Any] = {}
        for name, kind in self.search.space.items():
            if isinstance(kind, Choice):
                found[name] = of.CategoricalDistribution([_label(each) for each in kind.values])
            elif kind.whole:
                log = kind.scale == "log"
                found[name] = of.IntDistribution(int(kind.low), int(kind.high), log=log)
            else:
                log = kind.scale == "log"
                found[name] = of.FloatDistribution(kind.low, kind.high, log=log)
        return found

    def _is_dead(self, trial: FrozenTrial) -> bool:
        home = trial.user_attrs.get("home")
        if home is None and self._shared:  # its process may have ended right after it was asked for
            begun = trial.datetime_start
            return begun is not None and time.time() - begun.timestamp() > _PATIENCE
        if home not in (None, self._home):
            return False  # a machine with another folder has it
        if "folder" not in trial.user_attrs:
            return True  # who asks for one holds the folder until it has this, and we hold it now
        try:
            with self._held(self.name(trial)):  # it may have ended since it was read
                return not self._storage.get_trial(trial._trial_id).state.is_finished()
        except InUseError:
            return False

    def _compare(self) -> None:
        """Refuse a study of another search, naming what differs."""
        plan = json.loads(json.dumps(_plan(self.search)))
        found = self.study.user_attrs.get(_PLAN)
        if found is None:
            self.study.set_user_attr(_PLAN, plan)
            return
        path = self.search.sweep.path
        differences = [
            f"{key} was {_shown(found.get(key))}, is {_shown(plan.get(key))}"
            for key in {**found, **plan}
            if found.get(key) != plan.get(key)
        ]
        if differences:
            raise UsageError(
                f"{self.output}: was begun with another {path}: {'; '.join(differences)}",
                f"undo the changes, or give another {setting('output')}: trials of different "
                "searches are not mixed; with a storage of your own, rename the file too",
            )

    def _claim(self) -> None:
        """Let the folder be this study's: another one has trials of the same names."""
        file, ours = self.output / _CLAIM, self.study.study_name
        with _alone(self.output):
            if not file.exists():
                mark = uuid.uuid4().hex
                # Each folder has an attribute of its own: machines may claim one study at once.
                self.study.set_user_attr(f"{_MARK}_{mark}", True)
                write_whole(file, f"{mark} {ours}")
                return
        mark, _, name = file.read_text("utf-8").partition(" ")
        known = self.study.user_attrs
        if name != ours or not (f"{_MARK}_{mark}" in known or known.get(_MARK) == mark):
            where = "" if name != ours else " in another storage"
            raise UsageError(
                f"{self.output}: holds the trials of another search, {name}{where}",
                f"give another {setting('output')}: each search has a folder of its own",
            )


def _folder(index: int) -> str:
    return f"trial-{index:04}"


def _alone(output: Path) -> contextlib.AbstractContextManager[None]:
    """Keep other processes of this folder from choosing at the same time."""
    return reserved_within(_PATIENCE, output / "search.lock")


def home_of(output: Path) -> str:
    """The folder's own mark, the same for all who see this folder; made where there is none."""
    mark = output / ".home"
    if not mark.exists():
        with _alone(output):
            if not mark.exists():
                write_whole(mark, uuid.uuid4().hex)
    return mark.read_text("ascii")


def _plan(search: Search) -> dict[str, Any]:
    """All that trials depend on, by the file's keys."""
    asked = {k: v for k, v in asdict(search.settings).items() if k != "trials"}
    space = {f"search.{k}": _range_text(each) for k, each in search.space.items()}
    templates = {f"search.{k}": each for k, each in search.templates.items()}
    fixed = {f"fixed.{k}": each for k, each in search.fixed.items()}
    return {"task": search.sweep.task, **asked, **fixed, **space, **templates}


def _range_text(kind: Any) -> Any:
    return list(kind.values) if isinstance(kind, Choice) else asdict(kind)


def _label(value: Any) -> Any:
    """A value as Optuna can keep it: a list as text."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


def _shown(value: Any) -> str:
    return "not given" if value is None else json.dumps(value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SharpError(
            "a search needs Optuna, which is not installed", "pip install 'sharpcli[search]'"
        ) from error
    optuna.logging.disable_default_handler()  # what it says is in the table
    return optuna


def _pruner(search: Search) -> optuna.pruners.BasePruner:
    from optuna.pruners import MedianPruner, NopPruner

    return MedianPruner() if search.settings.pruner == "median" else NopPruner()


def _file(path: Path) -> Any:
    """The storage in a file, whose path may have characters that mean something in a URL."""
    from optuna.storages import RDBStorage
    from sqlalchemy.pool import NullPool

    connect = functools.partial(sqlite3.connect, path, timeout=_TIMEOUT, check_same_thread=False)
    return RDBStorage("sqlite://", engine_kwargs={"creator": connect, "poolclass": NullPool})


def _storage(url: str) -> Any:
    """The storage at a URL, tried again while another machine makes the tables that it lacked."""
    from sqlalchemy.exc import DatabaseError, IntegrityError

    for seconds in _RETRIES:
        try:
            return _reached_once(url)
        except DatabaseError as error:
            if not isinstance(error, IntegrityError) and "already exists" not in str(error.orig):
                raise
            time.sleep(seconds)
    return _reached_once(url)


def _reached_once(url: str) -> Any:
    from optuna.storages import RDBStorage, get_storage

    if url.startswith(_SQLITE):
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _TIMEOUT}})
    return get_storage(url)


def _close(storage: Any) -> None:
    if engine := getattr(storage, "engine", None):
        storage.remove_session()
        engine.dispose()


@contextlib.contextmanager
def _reached(url: str) -> Iterator[None]:
    """Say in one message that a storage cannot be reached."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise SharpError(*_unusable(url, error)) from error


def _unusable(url: str, error: BaseException) -> tuple[str, str]:
    """Message and hint, with the innermost error in one line, and without the URL's password."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(getattr(error, "orig", None) or error).split())[:_LONGEST]
    shown = re.sub(r"(?<=://)([^:/@]*):[^/]*@", r"\1:***@", url)
    return (
        f"{shown}: the storage of the search cannot be used: {said}",
        "see that it is there, may be written to, and has its driver installed; "
        f"{setting('storage')} names another",
    )
