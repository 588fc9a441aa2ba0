"""Print or write results, with failures, warnings and notes on stderr."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from sharpcli.documents.results import Document, dumps, is_interrupted
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, setting
from sharpcli.render.console import say, say_written
from sharpcli.render.formats import Format, format_of
from sharpcli.render.kinds import KINDS
from sharpcli.runtime import interruption
from sharpcli.runtime.destinations import is_special
from sharpcli.runtime.files import beside, rescue, save
from sharpcli.runtime.processes import is_first
from sharpcli.runtime.streams import drop_stdout
from sharpcli.settings.output import OutputSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["emit", "problems", "report_problems"]


def emit(document: Document, output: OutputSettings, *, metric: str | None = None) -> None:
    """Print a document, or write it to `output.output`, in the requested format.

    Only the result goes to stdout; failures, warnings and (unless quiet) notes go to stderr. Then
    figures and exports (`output.plot`) are written. A plane's maps show `metric` instead of the
    loss. The document of an interrupted run is not drawn and does not replace an existing file; it
    gets a name next to it. A result that cannot be written or printed is saved in the user's cache
    folder, and a `SharpError` names the place. Interrupts wait until everything is written. Of
    several processes only the first one prints and writes.
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


def _deliver(document: Document, output: OutputSettings, metric: str | None) -> list[SharpError]:
    """Write or print the document itself; returns the errors."""
    try:
        form = format_of(output.format)
        text = form.text(document, metric, output.output is not None)
    except Exception:
        kept = rescue(f"{document['kind']}.json", dumps(document) + "\n")
        say(f"the result is saved in {kept}")
        raise
    path = output.output
    if path is None:
        return _failure(lambda: _print(text, form, document))
    if is_interrupted(document) and path.exists() and not is_special(path):
        kept, path = path, beside(path)
        say(f"interrupted: {kept} is unchanged; this run's result is in {path}")
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
    """Print each failure, warning and note of a document once on stderr, with its subject."""
    styles = {"failed": "bold red", "warning": "yellow", "note": "dim"}
    for kind, text in problems(document):
        if not (quiet and kind == "note"):
            say(text, kind, styles[kind])


def problems(document: Document) -> list[tuple[Literal["failed", "warning", "note"], str]]:
    """Each failure, then each warning and each note of a document once, with its subject."""
    from sharpcli.documents.labels import named
    from sharpcli.render.pages.measurements import labels_of

    results = [r for r in document["results"] if "checkpoint" in r]
    said: dict[tuple[str, str], list[str]] = {}
    failed = [r for r in results if r.get("status") == Outcome.FAILED]
    alike = Counter(map(_bare_message, failed))
    for result, label in zip(results, labels_of(results), strict=True):
        if result.get("status") == Outcome.FAILED:
            path, error = str(result["checkpoint"]["path"]), result["error"]
            hint = f"\n  hint: {error['hint']}" if error.get("hint") else ""
            if alike[_bare_message(result)] > 1:
                text = f"{_bare_message(result)}{hint}"
                said.setdefault(("failed", text), []).append(label)
            else:
                about = "" if path in error["message"] else f"{path}: "
                said[("failed", f"{about}{error['message']}{hint}")] = []
        for warning in result.get("warnings", ()):
            said.setdefault(("warning", warning), []).append(label)
        for note in result["checkpoint"].get("notes", ()):
            said.setdefault(("note", note), []).append(label)
    for kind in ("warning", "note"):
        for text in document.get(f"{kind}s", ()):
            said.setdefault((kind, text), [])
    kinds: tuple[Literal["failed", "warning", "note"], ...] = ("failed", "warning", "note")
    return [
        (kind, f"{named(labels)}: {text}" if labels else text)
        for kind in kinds
        for (kind_, text), labels in said.items()
        if kind_ == kind
    ]


def _bare_message(result: Mapping[str, Any]) -> str:
    """A failure's message without the checkpoint's path before it."""
    return str(result["error"]["message"]).removeprefix(f"{result['checkpoint']['path']}: ")


def _print(text: str, form: Format, document: Document) -> None:
    """Write to stdout, with substitutes for characters that its encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = form.encodable(text, encoding, document)
    try:
        sys.stdout.write(text)
        # Flush now, so that a warning does not end up inside a line if both streams share one
        # terminal or file.
        sys.stdout.flush()
    except OSError as error:
        drop_stdout()
        kind = KINDS.get(document["kind"])
        if isinstance(error, BrokenPipeError) and kind and kind.cheap:
            raise
        kept = rescue(f"{document['kind']}{form.suffix}", text)
        raise SharpError(
            f"standard output: cannot be written: {error.strerror}",
            f"nothing is lost: the result is in {kept}"
            if kept
            else f"write to a file on another disk with {setting('output')}",
        ) from error
