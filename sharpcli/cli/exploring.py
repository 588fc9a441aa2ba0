"""The run that `sharp interpolate` and `sharp landscape` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sharpcli.cli.exit_codes import exit_code
from sharpcli.errors import UsageError
from sharpcli.settings.output import OutputSettings

if TYPE_CHECKING:
    from sharpcli.documents.results import Report
    from sharpcli.landscape.points.walk import Watch

__all__ = ["beside_of", "check_moving", "run_exploration"]


def run_exploration(
    explore: Callable[[Watch], Report], output: OutputSettings, *, resume: bool
) -> int:
    """Run `explore` with progress and a journal, print its document, and return the exit code.

    The journal is removed once the document is written.
    """
    from sharpcli.cli.progress_bars import notes_of, progress_bars
    from sharpcli.documents.results import is_interrupted, to_document
    from sharpcli.landscape.points.journal import Journal
    from sharpcli.landscape.points.walk import Watch
    from sharpcli.render import emit

    journal = Journal(output.output, resume=resume)
    with progress_bars(quiet=output.quiet) as begin:
        document = to_document(explore(Watch(begin, notes_of(output).note, journal)))
    emit(document, output)
    if not is_interrupted(document):
        journal.discard()
    return exit_code(document, strict=output.strict)


def check_moving(output: OutputSettings, *, plane: bool, gathered: bool) -> None:
    """Refuse a moving picture of a plane without a path, before anything is computed."""
    moving = [path for path in output.plot if path.suffix.lower() in (".gif", ".mp4")]
    if moving and plane and not gathered:
        raise UsageError(
            f"--plot {moving[0]}: nothing moves on a plane without a path",
            "name the path's checkpoints by --trajectory, or draw .png or .svg",
        )


def beside_of(marks: Sequence[str], trajectories: Sequence[Sequence[str]]) -> Any:
    """The `Beside` of a command's options."""
    from sharpcli.runs.exploration import Beside

    return Beside(marks, trajectories)
