"""The consoles of stdout and stderr, and messages on stderr."""

from __future__ import annotations

import functools
import sys
from typing import IO, TYPE_CHECKING, Any

from sharpcli.runtime.processes import is_first
from sharpcli.runtime.text import folded, visible_lines

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

__all__ = ["console", "error_console", "say", "say_written"]

# Rich wraps no lines, gives square brackets and :names: no meaning, and does not write around the
# stream where the program runs in a notebook.
_AS_TEXT: dict[str, Any] = {
    **dict.fromkeys(("highlight", "markup", "emoji", "force_jupyter"), False),
    "soft_wrap": True,
}


def console(*, plain: bool = False) -> Console:
    """The console of stdout; respects NO_COLOR, COLUMNS and pipes; `plain` has no styles."""
    from rich.console import Console

    return Console(**_AS_TEXT, color_system=None if plain else "auto")


def error_console() -> Console:
    """The console of stderr, for progress, notes and warnings.

    All share one console, so that a note appears above a progress bar and not inside it.
    """
    # While a bar is shown, Rich replaces sys.stderr.
    return _console_on(getattr(sys.stderr, "rich_proxied_file", sys.stderr))


@functools.lru_cache(maxsize=1)
def _console_on(stream: IO[str]) -> Console:
    from rich.console import Console

    return Console(file=stream, **_AS_TEXT, quiet=not is_first())


def say(text: str, kind: str = "note", style: str = "dim") -> None:
    """Print a note, warning or failure on stderr, wrapped at blanks if that is a terminal."""
    from rich.text import Text

    stderr = error_console()
    line = visible_lines(f"{kind}: {text}")
    line = folded(line, stderr.width) if stderr.is_terminal else line
    end = len(kind) + 1
    stderr.print(Text.assemble((line[:end], style), line[end:]))


def say_written(path: Path, *, quiet: bool) -> None:
    """Print on stderr that a file was written; nothing for a device such as /dev/null."""
    if not quiet and path.is_file():
        error_console().print(visible_lines(f"wrote {path}"), style="dim")
