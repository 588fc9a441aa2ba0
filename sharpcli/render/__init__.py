"""Results for people and programs: a table, JSON, CSV or markdown, on stdout or in a file."""

from __future__ import annotations

import functools
import io
import sys
from typing import IO, TYPE_CHECKING, Any

from sharpcli.documents.results import Document, dumps, is_interrupted
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.runtime import interruption
from sharpcli.runtime.files import beside, is_special, rescue, save
from sharpcli.runtime.processes import is_first
from sharpcli.runtime.streams import drop_stdout
from sharpcli.runtime.text import folded, json_text, visible_lines
from sharpcli.settings import OutputSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console
    from rich.text import Text

    from sharpcli.render.terminal.table import Page

__all__ = ["console", "emit", "error_console", "report_problems", "say", "say_written"]

_SUFFIXES = {"table": ".txt", "json": ".json", "csv": ".csv", "markdown": ".md"}
_CHEAP = ("compare", "inspect")  # kinds that a reader who has left (`| head`) need not be sent
# No line is wrapped by Rich, and square brackets and :names: in text mean nothing.
_AS_TEXT: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False, "emoji": False}
_PICTURED = ("interpolate", "landscape")  # kinds that are shown as charts or maps


def console(*, plain: bool = False) -> Console:
    """The console of stdout; respects NO_COLOR, COLUMNS and a pipe; `plain` is never styled."""
    from rich.console import Console

    return Console(**_AS_TEXT, color_system=None if plain else "auto")


def error_console() -> Console:
    """The console of stderr, where progress, notes and warnings go.

    It is one for all, so that a note appears above a progress bar and not in the middle of it.
    """
    # While a bar is shown, Rich puts a stand-in in the place of sys.stderr.
    return _console_on(getattr(sys.stderr, "rich_proxied_file", sys.stderr))


@functools.lru_cache(maxsize=1)
def _console_on(stream: IO[str]) -> Console:
    from rich.console import Console

    return Console(file=stream, **_AS_TEXT, quiet=not is_first())


def say(text: str, kind: str = "note", style: str = "dim") -> None:
    """Print a note, warning or failure on stderr, wrapped at blanks where that is a terminal."""
    from rich.text import Text

    stderr = error_console()
    line = visible_lines(f"{kind}: {text}")
    line = folded(line, stderr.width) if stderr.is_terminal else line
    end = len(kind) + 1
    stderr.print(Text.assemble((line[:end], style), line[end:]))


def emit(document: Document, output: OutputSettings, *, metric: str | None = None) -> None:
    """Print a document, or write it to `output.output`, in the format asked for.

    The result alone goes to stdout; what failed, warnings and (unless quiet) notes go to stderr.
    Its pictures and exports (`output.plot`) are written after it. `metric` is what a plane's maps
    show in place of the loss. An interrupted run's document is written beside a file that is there
    already, and is not drawn. What cannot be written or printed is kept in the user's cache folder,
    and `SharpError` says where. Interrupts wait until all is written. Of several processes only the
    first one prints and writes.
    """
    if not is_first():
        return
    with interruption.deferred():
        failures = [*_deliver(document, output, metric)]
        report_problems(document, quiet=output.quiet)
        if output.plot and not is_interrupted(document):
            from sharpcli.render.files.plotting import draw

            for path in output.plot:
                drawn = _failure(functools.partial(draw, document, path))
                failures += drawn
                if not drawn:
                    say_written(path, quiet=output.quiet)
        if failures:
            *earlier, last = failures
            for each in earlier:
                say(str(each), "Error", "none")
            raise last


def say_written(path: Path, *, quiet: bool) -> None:
    """Say on stderr that a file was written; nothing of a device such as /dev/null."""
    if not quiet and path.is_file():
        error_console().print(visible_lines(f"wrote {path}"), style="dim")


def _deliver(document: Document, output: OutputSettings, metric: str | None) -> list[SharpError]:
    """Write or print the document itself; what went wrong."""
    try:
        text = _text(document, output, metric)
    except Exception:
        kept = rescue(f"{document['kind']}.json", dumps(document) + "\n")
        say(f"the result is kept in {kept}")
        raise
    path = output.output
    if path is None:
        return _failure(lambda: _print(text, output.format, document))
    if is_interrupted(document) and path.exists() and not is_special(path):
        kept, path = path, beside(path)
        say(f"interrupted: {kept} stays as it is; this run's result is in {path}")
    failed = _failure(lambda: save(path, text))
    if not failed:
        say_written(path, quiet=output.quiet)
    return failed


def _failure(work: Callable[[], None]) -> list[SharpError]:
    try:
        work()
    except SharpError as error:
        return [error]
    return []


def report_problems(document: Document, *, quiet: bool = False) -> None:
    """Print each failure, warning and note of a document once on stderr, with what it is about."""
    from sharpcli.documents.labels import named
    from sharpcli.render.pages.measurements import labels_of

    results = [r for r in document["results"] if "checkpoint" in r]
    said: dict[tuple[str, str], list[str]] = {}
    for result, label in zip(results, labels_of(results), strict=True):
        if result.get("status") == "failed":
            path, error = str(result["checkpoint"]["path"]), result["error"]
            about = "" if path in error["message"] else f"{path}: "
            hint = f"\n  hint: {error['hint']}" if error.get("hint") else ""
            said[("failed", f"{about}{error['message']}{hint}")] = []
        for warning in result.get("warnings", ()):
            said.setdefault(("warning", warning), []).append(label)
        for note in result["checkpoint"].get("notes", ()):
            said.setdefault(("note", note), []).append(label)
    for kind in ("warning", "note"):
        for text in document.get(f"{kind}s", ()):
            said.setdefault((kind, text), [])
    styles = {"failed": "bold red", "warning": "yellow", "note": "dim"}
    for kind, style in styles.items():
        for (kind_, text), labels in said.items():
            if kind_ == kind and not (quiet and kind == "note"):
                about = f"{named(labels)}: " if labels else ""
                say(about + text, kind, style)


def _text(document: Document, output: OutputSettings, metric: str | None) -> str:
    if output.format == "json":
        return dumps(document) + "\n"
    if output.format == "csv":
        return _csv(document)
    if output.format == "markdown":
        from sharpcli.render.terminal.table import markdown

        return markdown(_page(document, metric))
    screen = console(plain=output.output is not None)
    written = io.StringIO()
    lines = list(_lines(document, screen, metric))
    screen.file = written
    for line in lines:
        screen.print(line)
    return written.getvalue()


def _lines(document: Document, screen: Console, metric: str | None) -> Iterator[Text]:
    """What a terminal shows of a document: its page, with pictures where it is about places."""
    from sharpcli.render.terminal.table import page_lines

    if document["kind"] == "spectrum":
        from sharpcli.render.pages.spectra import spectrum_lines

        return spectrum_lines(document, screen.width)
    if document["kind"] not in _PICTURED:
        return page_lines(_page(document, metric), screen.width)
    from sharpcli.render.pages.landscapes import landscape_lines

    colour = screen.color_system in ("256", "truecolor") and not screen.no_color
    return landscape_lines(document, screen.width, colour=colour, metric=metric)


def _page(document: Document, metric: str | None = None) -> Page:
    """What a person reads of a document."""
    from sharpcli.render.pages.comparison import compare_page
    from sharpcli.render.pages.inspection import inspection_page
    from sharpcli.render.pages.landscapes import landscape_page
    from sharpcli.render.pages.measurements import measure_page, train_page
    from sharpcli.render.pages.spectra import spectrum_page

    kind = document["kind"]
    pages = {
        "measure": measure_page,
        "compare": compare_page,
        "inspect": inspection_page,
        "train": train_page,
        "spectrum": spectrum_page,
    }
    if kind in _PICTURED:
        return landscape_page(document, metric)
    if kind not in pages:
        raise UsageError(
            f'a result of kind "{kind}" has no table', f"use {setting('format', 'json')}"
        )
    return pages[kind](document)


def _csv(document: Document) -> str:
    from sharpcli.render.files.spreadsheet import (
        group_rows,
        point_rows,
        result_rows,
        rows_as_csv,
        spectrum_rows,
        tensor_rows,
    )

    rows = {
        "compare": group_rows,
        "inspect": tensor_rows,
        "spectrum": spectrum_rows,
        **dict.fromkeys(_PICTURED, point_rows),
    }
    return rows_as_csv(rows.get(document["kind"], result_rows)(document))


def _print(text: str, form: str, document: Document) -> None:
    """Write to stdout, in ASCII drawings or escapes where its encoding lacks a character."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        if form == "json":
            text = json_text(document, ascii_only=True) + "\n"
        elif form == "csv":
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        else:
            from sharpcli.render.terminal.plain import plainer

            text = plainer(text, encoding)
    try:
        sys.stdout.write(text)
        # Now, so that a warning does not come out in the middle of a line where both streams
        # share one terminal or file.
        sys.stdout.flush()
    except OSError as error:
        drop_stdout()
        if isinstance(error, BrokenPipeError) and document["kind"] in _CHEAP:
            raise
        kept = rescue(f"{document['kind']}{_SUFFIXES[form]}", text)
        raise SharpError(
            f"standard output: cannot be written: {error.strerror}",
            f"nothing is lost: the result is in {kept}"
            if kept
            else f"write to a file on another disk with {setting('output')}",
        ) from error
