"""What a sweep shows on stderr while it works: a line for each run that ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted
from sharpcli.render import error_console
from sharpcli.runtime.text import visible_lines

if TYPE_CHECKING:
    from sharpcli.runs.sweep import Watch
    from sharpcli.training.sweep_file import SweepRun

__all__ = ["sweep_progress"]


@contextlib.contextmanager
def sweep_progress(*, quiet: bool = False) -> Iterator[Watch]:
    """Give the callbacks of a sweep. What the task's code prints meanwhile goes to stderr."""
    from sharpcli.runs.sweep import Watch

    with contextlib.redirect_stdout(sys.stderr):
        if quiet:
            yield Watch()
            return
        lines = _Lines()
        yield Watch(added=lines.added, planned=lines.planned, ended=lines.ended)


class _Lines:
    """One line for each run that ends."""

    def __init__(self) -> None:
        self._done = self._all = 0

    def added(self, names: Sequence[str]) -> None:
        if names:
            _print(f"the sweep gets {counted(len(names), 'more run', 'more runs')}")

    def planned(self, runs: Sequence[SweepRun], finished: Sequence[str]) -> None:
        self._done, self._all = len(finished), len(runs)
        if finished:
            _print(f"{counted(len(finished), 'run')} of {len(runs)} finished before")

    def ended(self, name: str, state: Mapping[str, Any]) -> None:
        self._done += 1
        _print(f"{name}: {outcome(state)} ({self._done} of {self._all})")


def outcome(state: Mapping[str, Any]) -> str:
    """How a run ended, in a few words."""
    if state["status"] == Outcome.OK:
        loss = (state.get("loss") or {}).get("train", {}).get("value")
        return "trained" if loss is None else f"train loss {loss:.4g}"
    if state["status"] == Outcome.WAITING:
        return "another process is training it"
    error = state["error"]
    return "diverged" if error.get("kind") == Outcome.DIVERGED else f"failed: {error['message']}"


def _print(line: str) -> None:
    error_console().print(visible_lines(line), style="dim")
