"""What a terminal shows while PyTorch is loaded. Imports nothing, to be there at once."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["sign_of_life"]

# Commands that import PyTorch, which takes a second or more.
_SLOW = ("measure", "interpolate", "landscape", "spectrum", "inspect", "train", "demo")


def sign_of_life(arguments: Sequence[str]) -> str | None:
    """A line for a command that starts slowly, None for others and where none is wanted."""
    if not arguments or arguments[0] not in _SLOW or {"-h", "--help", "--quiet"} & {*arguments}:
        return None
    return f"sharp {arguments[0]}: loading PyTorch …"
