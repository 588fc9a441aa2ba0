"""What numerics say while they work: a callback that the command owns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["UNSAID", "Begin", "Notes", "Progress", "Say", "silent"]

Progress = Callable[[int, int | None], None]
"""Called with (units done, units in all or None where that is not known yet)."""

Begin = Callable[[str], Progress]
"""Called with what begins ("a.safetensors: hessian"); gives the callback for its progress."""


Say = Callable[[str], None]
"""Called with a line for a person."""


def _unsaid(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Notes:
    """Lines beside the results: a `note` that all should read, a `detail` for --verbose."""

    note: Say = _unsaid
    detail: Say = _unsaid

    def about(self, name: str) -> Notes:
        """The same, with what they are about before each line."""
        return Notes(
            lambda text: self.note(f"{name}: {text}"), lambda text: self.detail(f"{name}: {text}")
        )


UNSAID = Notes()


def silent(done: int, total: int | None) -> None:
    """Say nothing."""
