"""Measure the checkpoints of a folder as a training writes them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpcli.documents.labels import CHECKPOINT_SUFFIXES, natural_order
from sharpcli.documents.results import CheckpointResult, Failure
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.runs.failures import each_checkpoint
from sharpcli.runtime import interruption
from sharpcli.runtime.processes import size
from sharpcli.runtime.progress import UNSAID, Notes
from sharpcli.settings.measuring import MeasureSettings

__all__ = ["Arrivals", "Watch", "check_watch", "each_arrival"]

# Seconds between two looks at the folder, and for which a file must not change to be complete: long
# enough for a write that stalls on a network file system.
_PAUSE, _SETTLED = 0.5, 2.0
# Seconds after which a file that does not change and cannot be read is broken, not half-written.
_PATIENCE = 60.0
# Not checkpoints: what is being written under another name, what trainers write next to weights
# (transformers, accelerate), and the parts of a sharded checkpoint.
_OTHERS = re.compile(
    r"\.|tmp|optimizer|scheduler|scaler|training_args|rng_state|random_states|.*-\d+-of-\d+\."
)

_State = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Watch:
    """A folder that a training writes checkpoints to, and who learns of each result.

    With `idle` the watch ends when no new checkpoint has come for so many seconds.
    """

    folder: Path
    idle: float | None = None
    told: Callable[[CheckpointResult], None] = lambda _: None


@dataclass
class _Sight:
    """A checkpoint as it was seen last, and since when it has not changed."""

    state: _State
    since: float
    given: bool = False
    tried: bool = False


@dataclass
class Arrivals:
    """The checkpoints of a folder, each once, when it is complete.

    A checkpoint is a file with a suffix of checkpoints, or a subfolder that holds such files. It is
    complete when nothing in it has changed for two seconds. What changes after it was measured is
    not measured again.
    """

    folder: Path
    idle: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _seen: dict[Path, _Sight] = field(default_factory=dict)

    def next(self) -> Path | None:
        """Wait for the next complete checkpoint; None if none has come for too long."""
        begun = self.clock()
        while True:
            now = self.clock()
            waiting = self._waiting(now)
            for path, sight in waiting.items():
                still = now - sight.since
                if still >= (_PATIENCE if sight.tried else _SETTLED):
                    return self._give(path)
            last = max([begun, *(sight.since for sight in waiting.values())])
            if self.idle is not None and now - last >= max(self.idle, _SETTLED):
                if not waiting:
                    return None
                return self._give(next(iter(waiting)), last=True)
            self.sleep(_PAUSE)

    def comes_again(self, path: Path) -> bool:
        """Whether a checkpoint that could not be measured may still be written.

        Then it comes again once it has changed, or after a minute.
        """
        sight = self._seen[path]
        if _state_of(path) == sight.state and self.clock() - sight.since >= _PATIENCE:
            return False
        sight.given, sight.tried = False, True
        return True

    def _give(self, path: Path, *, last: bool = False) -> Path:
        sight = self._seen[path]
        sight.given = True
        if last:
            sight.since -= _PATIENCE
        return path

    def _waiting(self, now: float) -> dict[Path, _Sight]:
        """The checkpoints that are not measured, in their natural order."""
        found = {}
        for path in _checkpoints_in(self.folder):
            state, sight = _state_of(path), self._seen.get(path)
            if not state or (sight is not None and sight.given):
                continue
            if sight is None or sight.state != state:
                sight = self._seen[path] = _Sight(state, now)
            found[path] = sight
        return found


def check_watch(watch: Watch, paths: object, settings: MeasureSettings) -> None:
    """Raise `UsageError` for what does not go with a watched folder."""
    named = setting("watch", str(watch.folder))
    if paths:
        raise UsageError(
            f"{named}: checkpoints are named as well", "name checkpoints or watch a folder"
        )
    for name in ("decide", "time", "baseline"):
        if getattr(settings, name) is not None:
            raise UsageError(
                f"{named} and {setting(name)}: which checkpoints there will be is not known",
                f"leave {setting(name)} out",
            )
    if not watch.folder.is_dir():
        raise UsageError(f"{named}: is not a folder", "name the folder that the training writes to")
    if size() > 1:
        raise UsageError(f"{named}: works in one process", "start sharp without torchrun")


def each_arrival(
    watch: Watch,
    work: Callable[[Path, dict[str, Any]], CheckpointResult],
    failed: Callable[[Mapping[str, Any], Failure], CheckpointResult],
    *,
    is_last: Callable[[CheckpointResult], bool],
    done: Callable[[CheckpointResult], None],
    notes: Notes = UNSAID,
) -> list[CheckpointResult]:
    """Apply `work` to each checkpoint that comes, until Ctrl-C or the watch's idle time.

    The functions and errors are those of `each_checkpoint`. A file that cannot be read may be
    half-written, so it is tried again once it has changed, or after a minute.

    Raises:
        KeyboardInterrupt: before anything was measured.
        UsageError: of the first checkpoint, since it would be that of all.
        SharpError: no checkpoint has come.
    """
    arrivals = Arrivals(watch.folder, watch.idle)
    results: list[CheckpointResult] = []
    idle = "" if watch.idle is None else f" or {watch.idle:g} s without a new checkpoint"
    notes.note(f"watching {watch.folder}, until Ctrl-C{idle}")
    while True:
        try:
            with interruption.interruptible():
                path = arrivals.next()
        except KeyboardInterrupt:
            if not results:
                raise
            return results
        if path is None:
            break
        try:
            (result,) = each_checkpoint([path], work, failed, is_last=is_last, done=done)
        except UsageError as error:
            if not any(each.status == Outcome.OK for each in results):
                raise
            result = failed({"path": str(path)}, Failure(error.message, error.hint))
        stopped = result.error is not None and result.error.kind == Outcome.INTERRUPTED
        if not stopped and result.error is not None and arrivals.comes_again(path):
            continue
        results.append(result)
        if stopped or is_last(result):
            return results
        watch.told(result)
    if not results:
        raise SharpError(
            f"{watch.folder}: no checkpoint has come in {watch.idle:g} s",
            f"files with the suffix {', '.join(sorted(CHECKPOINT_SUFFIXES))} and folders with such "
            "files are measured",
        )
    return results


def _checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder in their natural order; one with several names comes once."""
    try:
        every = [each for each in folder.iterdir() if _is_checkpoint(each)]
    except OSError as error:
        raise SharpError(f"{folder}: cannot be read: {error.strerror}", "check it") from error
    every.sort(key=lambda each: (each.is_symlink(), natural_order(each.name)))
    by_target: dict[Path, Path] = {}
    for each in every:
        by_target.setdefault(each.resolve(), each)
    return sorted(by_target.values(), key=lambda each: natural_order(each.name))


def _is_checkpoint(path: Path) -> bool:
    if _OTHERS.match(path.name):
        return False
    if not path.is_dir():
        return path.suffix.lower() in CHECKPOINT_SUFFIXES
    return any(name.endswith((*CHECKPOINT_SUFFIXES, ".index.json")) for name, *_ in _state_of(path))


def _state_of(path: Path) -> _State:
    """Name, size and time of change of a file, or of a folder's files; empty if it is gone."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(each.name, each.stat()) for each in files if each.is_file()]
    except OSError:  # it was removed meanwhile
        return ()
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)
