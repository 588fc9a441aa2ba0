"""Progress bars on stderr, with counts and the time left, and notes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from sharpcli.render import error_console, say
from sharpcli.runtime.progress import BeginBar, Latest, Notes, Progress
from sharpcli.runtime.text import visible
from sharpcli.settings.output import OutputSettings

__all__ = ["notes_of", "progress_bars"]

# Seconds before a bar is shown; shorter work ends before anyone reads it.
_PATIENCE = 2.0
# Seconds between two lines where there are no bars.
_BETWEEN_LINES = 60.0
# Columns that a bar takes besides its description: a short bar, "1234/12345", and the time left.
_BESIDE = 28
# Columns of a description that is shortened: a measure's name and a few letters of the checkpoint.
_SHORTEST = 24


class _LatestColumn(ProgressColumn):
    """The latest numbers of a bar's work."""

    max_refresh = 0.25  # seconds: faster than anyone reads

    def render(self, task: Task) -> Text:
        """The text, empty where the work gives none."""
        latest: Latest | None = task.fields["latest"]
        return Text("" if latest is None else visible(latest.text()), no_wrap=True)


@contextlib.contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[BeginBar]:
    """Yield `begin(description)`, which opens a bar and closes the previous one.

    With `begin(description, latest)` the bar also shows the latest numbers of the work.

    Bars appear only on a terminal and only after two seconds in total. In a file or a pipe, such as
    the log of a batch job, there is a line a minute with the description of what begins. Meanwhile,
    output that the task's code prints goes to stderr, because standard output is for the result.
    """
    console = error_console()
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        # Only the bar gets narrower where there is no room.
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        _LatestColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    started = said = time.monotonic()
    lines = not quiet and not console.is_terminal
    shown = False

    def begin(description: str, latest: Latest | None = None) -> Progress:
        nonlocal said
        if lines and time.monotonic() - said >= _BETWEEN_LINES:
            said = time.monotonic()
            console.print(visible(description), style="dim")
        for task in bars.tasks:
            bars.remove_task(task.id)
        title = _shortened(visible(description), max(console.width - _BESIDE, _SHORTEST))
        row = bars.add_task(title, total=None, latest=latest)

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


def _shortened(text: str, width: int) -> str:
    """A text of at most so many columns; what is left out is near its beginning, a name."""
    if cell_len(text) <= width:
        return text
    head = width // 4
    tail = text
    while cell_len(tail) > width - head - 1:
        tail = tail[1:]
    return f"{set_cell_size(text, head)}…{tail}"


def notes_of(output: OutputSettings) -> Notes:
    """Notes on stderr unless the output is quiet; details only if it is verbose."""
    silent = Notes()
    return Notes(silent.note if output.quiet else say, say if output.verbose else silent.detail)
