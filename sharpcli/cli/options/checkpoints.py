"""The checkpoints that a command names."""

from __future__ import annotations

from collections.abc import Sequence

from sharpcli.errors import UsageError

__all__ = ["refuse_empty_paths"]


def refuse_empty_paths(paths: Sequence[str]) -> None:
    """Raise `UsageError` if a checkpoint's path is empty."""
    if "" in paths:
        raise UsageError(
            "a checkpoint's path is empty", "is a variable of the shell not set? Name a file"
        )
