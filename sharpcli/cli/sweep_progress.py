"""What a sweep shows on stderr while it works: a live table on a terminal, else lines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted
from sharpcli.render import error_console
from sharpcli.runtime.progress import readable_time
from sharpcli.runtime.text import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from sharpcli.runs.sweep import Watch
    from sharpcli.training.sweep_file import SweepRun

__all__ = ["sweep_progress"]

_REFRESHED = 4  # times a second
_OTHER_LINES = 4  # of the terminal: the table's frame, the last line and the prompt
_FEWEST = 3  # rows of runs


@contextlib.contextmanager
def sweep_progress(*, quiet: bool = False) -> Iterator[Watch]:
    """Give the callbacks of a sweep. What the task's code prints meanwhile goes to stderr."""
    from sharpcli.runs.sweep import Watch

    with contextlib.redirect_stdout(sys.stderr):
        if quiet:
            yield Watch()
            return
        shown = Table() if error_console().is_terminal else Lines()
        try:
            yield Watch(
                added=shown.added,
                planned=shown.planned,
                together=shown.together,
                began=shown.began,
                progress=shown.progress,
                ended=shown.ended,
                noted=shown.noted,
            )
        finally:
            shown.close()


class Lines:
    """A line for each run that ends; `noun` is what runs are called, `note` is added to the last.

    `ended` shows the state's `outcome`, if it has one, as it is.
    """

    def __init__(self, noun: str = "run") -> None:
        self._done = self._all = 0
        self._noun, self.note = noun, ""

    def added(self, names: Sequence[str]) -> None:
        """Say that the sweep has grown."""
        if names:
            _print(f"the sweep gets {counted(len(names), 'more run', 'more runs')}")

    def planned(self, runs: Sequence[SweepRun], finished: Sequence[str]) -> None:
        """Say how much is done."""
        self._done, self._all = len(finished), len(runs)
        if finished:
            _print(f"{counted(len(finished), self._noun)} of {len(runs)} finished before")

    def together(self, sizes: Sequence[int]) -> None:
        """Say how many runs may be trained together."""
        if sizes:
            groups = f"{counted(len(sizes), 'group')} of up to " if len(sizes) > 1 else ""
            _print(
                f"{groups}{max(sizes)} runs are trained together, where the first steps show that "
                "it is faster"
            )

    def began(self, name: str) -> None:
        """A run is being trained."""

    def progress(self, name: str, done: int, total: int | None) -> None:
        """So much of a run is done."""

    def ended(self, name: str, state: Mapping[str, Any]) -> None:
        """Say how a run ended."""
        self._done += 1
        _print(f"{name}: {_outcome(state)} ({self._done} of {self._all})")

    def noted(self, line: str) -> None:
        """Say what a person is to know."""
        _print(line)

    def close(self) -> None:
        """Nothing follows."""


class Table(Lines):
    """A live table: the runs that are trained now, those that failed, the last that ended."""

    def __init__(self, noun: str = "run") -> None:
        super().__init__(noun)
        self._running: dict[str, tuple[int, int | None]] = {}
        self._ended: dict[str, Mapping[str, Any]] = {}
        self._live: Live | None = None
        self._started = time.monotonic()

    def planned(self, runs: Sequence[SweepRun], finished: Sequence[str]) -> None:
        """Show the table."""
        from rich.live import Live

        super().planned(runs, finished)
        self._live = Live(
            console=error_console(),
            get_renderable=self.table,
            transient=True,
            refresh_per_second=_REFRESHED,
        )
        self._live.start()

    def began(self, name: str) -> None:
        """Show a run as running."""
        self._running[name] = (0, None)

    def progress(self, name: str, done: int, total: int | None) -> None:
        """Move a run's bar."""
        self._running[name] = (done, total)

    def ended(self, name: str, state: Mapping[str, Any]) -> None:
        """Show how a run ended."""
        self._running.pop(name, None)
        self._ended[name] = state
        self._done += 1

    def close(self) -> None:
        """Take the table away: the result's own follows."""
        if self._live is not None:
            self._live.stop()

    def table(self) -> RenderableType:
        """The table as it stands, no longer than the terminal is high."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid(box=None, pad_edge=False)
        for title in (self._noun, "", ""):
            grid.add_column(title, no_wrap=True, overflow="ellipsis")
        room = max(error_console().height - _OTHER_LINES, _FEWEST)
        running = list(self._running.items())[:room]
        for name, (done, total) in running:
            bar = ProgressBar(total=total, completed=done, width=20, pulse=total is None)
            grid.add_row(Text(visible(name)), bar, Text("" if total is None else f"{done}/{total}"))
        failures = {n: s for n, s in self._ended.items() if s["status"] == Outcome.FAILED}
        others = {n: s for n, s in self._ended.items() if n not in failures}
        latest = [*reversed(failures.items()), *reversed(others.items())]
        for name, state in latest[: room - len(running)]:
            grid.add_row(Text(visible(name)), Text(visible(_outcome(state))), Text())
        return Group(grid, Text(self._summary(), style="dim"))

    def _summary(self) -> str:
        """`12 of 24 runs ended, 2 running, 1 failed · about 3 min more`."""
        kinds = Counter(str(state["status"]) for state in self._ended.values())
        line = f"{self._done} of {counted(self._all, self._noun)} ended, "
        line += f"{len(self._running)} running"
        if failed := kinds[Outcome.FAILED]:
            line += f", {failed} failed"
        line += self.note and f" · {self.note}"
        if not self._ended:
            return line
        seconds = (time.monotonic() - self._started) / len(self._ended)
        return f"{line} · about {readable_time(seconds * (self._all - self._done))} more"


def _outcome(state: Mapping[str, Any]) -> str:
    """How a run ended, in a few words."""
    if "outcome" in state:
        return str(state["outcome"])
    if state["status"] == Outcome.OK:
        loss = (state.get("loss") or {}).get("train", {}).get("value")
        return "trained" if loss is None else f"train loss {loss:.4g}"
    if state["status"] == Outcome.WAITING:
        return "another process is training it"
    error = state["error"]
    return "diverged" if error.get("kind") == Outcome.DIVERGED else f"failed: {error['message']}"


def _print(line: str) -> None:
    error_console().print(visible_lines(line), style="dim")
