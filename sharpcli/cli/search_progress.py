"""What a search shows on stderr while it works: a live table on a terminal, else lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sharpcli.cli.sweep_progress import Lines, Table
from sharpcli.documents.statuses import Outcome
from sharpcli.render import error_console
from sharpcli.render.numbers import format_number

if TYPE_CHECKING:
    from sharpcli.runs.search import SearchWatch

__all__ = ["search_progress"]


@contextlib.contextmanager
def search_progress(*, quiet: bool = False) -> Iterator[SearchWatch]:
    """Give the callbacks of a search. What the task's code prints meanwhile goes to stderr."""
    from sharpcli.runs.search import SearchWatch

    with contextlib.redirect_stdout(sys.stderr):
        if quiet:
            yield SearchWatch()
            return
        shown = Table("trial") if error_console().is_terminal else Lines("trial")

        def planned(trials: int, done: int) -> None:
            shown.planned(range(trials), range(done))  # type: ignore[arg-type]  # only counted

        def ended(name: str, trial: Mapping[str, Any]) -> None:
            shown.ended(name, {**trial, "outcome": _outcome(trial)})

        try:
            yield SearchWatch(planned, shown.began, shown.progress, ended)
        finally:
            shown.close()


def _outcome(trial: Mapping[str, Any]) -> str:
    """`0.9437 · lr=0.003, optimizer=adam`, or why there is no value."""
    error = trial["error"] or {}
    value = "" if trial["objective"] is None else format_number(trial["objective"], 4)
    if error:
        diverged = error["kind"] == Outcome.DIVERGED
        value = "diverged" if diverged else f"failed: {error['message']}"
    elif trial["status"] == Outcome.PRUNED:
        value = f"{value}, pruned"
    return f"{value} · {', '.join(f'{k}={v}' for k, v in trial['chosen'].items())}"
