"""Results for people and programs: a table, JSON, CSV or markdown, on stdout or in a file."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SharpError, UsageError
from ..processes import is_first
from ..results import Document, dumps
from ..settings import OutputSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.text import Text

    from .table import Page

__all__ = ["console", "emit", "error_console", "report_problems", "say_written", "write_whole"]

_PICTURED = ("interpolate", "landscape")  # kinds that are shown as charts or maps


def console(*, plain: bool = False) -> Console:
    """The console of stdout; respects NO_COLOR, COLUMNS and a pipe; `plain` is never styled."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, color_system=None if plain else "auto")


def error_console() -> Console:
    """The console of stderr, where progress, notes and warnings go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, quiet=not is_first())


def emit(document: Document, output: OutputSettings, *, metric: str | None = None) -> None:
    """Print a document, or write it to `output.output`, in the format asked for.

    The result alone goes to stdout; what failed, warnings and (unless quiet) notes go to stderr.
    Its pictures and exports (`output.plot`) are written after it. `metric` is what a plane's maps
    show in place of the loss. Raises `SharpError` naming the
    file where one cannot be written; it is then left as it was. Of several processes only the
    first one prints and writes.
    """
    if not is_first():
        return
    text = _text(document, output, metric)
    if output.output is not None:
        write_whole(output.output, text)
        say_written(output.output, quiet=output.quiet)
    else:
        _print(text, output.format, document)
    report_problems(document, quiet=output.quiet)
    if output.plot and not _is_interrupted(document):
        from .plotting import draw

        for path in output.plot:
            draw(document, path)
            say_written(path, quiet=output.quiet)


def say_written(path: Path, *, quiet: bool) -> None:
    """Say on stderr that a file was written; nothing of a device such as /dev/null."""
    if not quiet and path.is_file():
        error_console().print(f"wrote {path}", style="dim", markup=False)


def _is_interrupted(document: Document) -> bool:
    """Whether a line or plane is unfinished, and so not yet to be drawn."""
    return any(result.get("status") == "interrupted" for result in document["results"])


def report_problems(document: Document, *, quiet: bool = False) -> None:
    """Print each failure, warning and note of a document once on stderr, with what it is about."""
    from rich.text import Text

    from ..labels import named
    from .measurements import labels_of

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
    stderr = error_console()
    styles = {"failed": "bold red", "warning": "yellow", "note": "dim"}
    for kind, style in styles.items():
        for (kind_, text), labels in said.items():
            if kind_ == kind and not (quiet and kind == "note"):
                about = f"{named(labels)}: " if labels else ""
                line = "".join(c if c.isprintable() or c == "\n" else "?" for c in about + text)
                stderr.print(Text.assemble((f"{kind}: ", style), line))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text or bytes to `path` whole or not at all; raises `SharpError` naming the file.

    A link is followed; a device or a pipe (`/dev/null`) is written to, never replaced.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    target, temporary = Path(os.path.realpath(path)), None
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        handle, temporary = tempfile.mkstemp(".part", f".{target.name}.", target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(_permissions(target))
        Path(temporary).replace(target)
    except OSError as error:
        raise SharpError(
            f"{path}: cannot be written: {error.strerror}",
            "--output and --plot need a file in a folder that exists and may be written to",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _permissions(path: Path) -> int:
    """Those the file has, or what any new file gets."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _text(document: Document, output: OutputSettings, metric: str | None) -> str:
    if output.format == "json":
        return dumps(document) + "\n"
    if output.format == "csv":
        return _csv(document)
    if output.format == "markdown":
        from .table import markdown

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
    from .table import page_lines

    if document["kind"] == "spectrum":
        from .spectra import spectrum_lines

        return spectrum_lines(document, screen.width)
    if document["kind"] not in _PICTURED:
        return page_lines(_page(document, metric), screen.width)
    from .landscapes import landscape_lines

    colour = screen.color_system in ("256", "truecolor") and not screen.no_color
    return landscape_lines(document, screen.width, colour=colour, metric=metric)


def _page(document: Document, metric: str | None = None) -> Page:
    """What a person reads of a document."""
    from .comparison import compare_page
    from .inspection import inspection_page
    from .landscapes import landscape_page
    from .measurements import measure_page, train_page
    from .spectra import spectrum_page

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
        raise UsageError(f'a result of kind "{kind}" has no table', "use --json")
    return pages[kind](document)


def _csv(document: Document) -> str:
    from .spreadsheet import (
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
            text = json.dumps(document, indent=2, allow_nan=False) + "\n"
        elif form == "csv":
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        else:
            from .plain import plainer

            text = plainer(text, encoding)
    try:
        sys.stdout.write(text)
        # Now, so that a warning does not come out in the middle of a line where both streams
        # share one terminal or file.
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python flushes once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SharpError(
            f"standard output: cannot be written: {error.strerror}",
            "write to a file on another disk with --output",
        ) from error
