"""Progress on stderr: a bar for each piece of work, with its count and the time left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from sharpcli.render import error_console, say
from sharpcli.runtime.progress import Begin, Notes, Progress
from sharpcli.runtime.text import visible
from sharpcli.settings import OutputSettings

__all__ = ["notes_of", "progress_bars"]

# Seconds before a bar is shown: shorter work is over before it is read.
_PATIENCE = 2.0


@contextlib.contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Begin]:
    """Give `begin(description)`, which opens a bar and closes the one before.

    Bars show on a terminal only, and only once the whole takes longer than two seconds. What the
    task's code prints meanwhile goes to stderr: standard output is the result's.
    """
    console = error_console()
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    started = time.monotonic()
    shown = False

    def begin(description: str) -> Progress:
        for task in bars.tasks:
            bars.remove_task(task.id)
        row = bars.add_task(visible(description), total=None)

        def progress(done: int, total: int | None) -> None:
            nonlocal shown
            if not shown and time.monotonic() - started > _PATIENCE:
                bars.start()
                shown = True
            bars.update(row, completed=done, total=total)

        return progress

    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield begin
        finally:
            if shown:
                bars.stop()


def notes_of(output: OutputSettings) -> Notes:
    """Notes on stderr unless the output is to be quiet, details where it is to be verbose."""
    silent = Notes()
    return Notes(silent.note if output.quiet else say, say if output.verbose else silent.detail)
