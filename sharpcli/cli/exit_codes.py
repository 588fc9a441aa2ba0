"""The exit codes, and which of them a result or an error ends a run with."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from sharpcli.errors import SharpError, UsageError
from sharpcli.runtime import interruption

__all__ = ["ExitCode", "exit_code", "of_error"]


class ExitCode(IntEnum):
    """How a run ended. One that a signal ended has 128 and the signal's number (`interruption`)."""

    DONE = 0
    FAILED = 1
    MISUSE = 2  # Click's own, too
    UNCONVERGED = 3  # with --strict


def of_error(error: SharpError) -> ExitCode:
    """The code of a run that an error ended."""
    return ExitCode.MISUSE if isinstance(error, UsageError) else ExitCode.FAILED


def exit_code(document: dict[str, Any], *, strict: bool = False) -> int:
    """The code of a run with this result: what failed comes before what did not converge."""
    from sharpcli.documents.results import is_interrupted, unconverged

    if is_interrupted(document):
        return interruption.exit_code()
    results = document["results"]
    parts = [*results, *(layer for result in results for layer in result.get("layers", ()))]
    if any("error" in part for part in parts):
        return ExitCode.FAILED
    return ExitCode.UNCONVERGED if strict and unconverged(document) else ExitCode.DONE
