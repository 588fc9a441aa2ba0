"""What numerics say while they work: a callback that the command owns."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Begin", "Progress", "silent"]

Progress = Callable[[int, int | None], None]
"""Called with (units done, units in all or None where that is not known yet)."""

Begin = Callable[[str], Progress]
"""Called with what begins ("a.safetensors: hessian"); gives the callback for its progress."""


def silent(done: int, total: int | None) -> None:
    """Say nothing."""
