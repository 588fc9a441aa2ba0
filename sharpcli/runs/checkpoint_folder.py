"""The folder of a checkpoint as a task's option: its configuration lies beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sharpcli.tasks import builtin_tasks

__all__ = ["CheckpointFolders"]


class CheckpointFolders:
    """Fills in the option of a built-in task that is the checkpoint's own folder.

    Checkpoints whose folders hold the same configuration share a task: its option is the first of
    their folders.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}

    def wanted(self, task: Any, options: Mapping[str, str]) -> bool:
        """Whether the task needs a checkpoint's folder, since the user named none."""
        option = _option(task)
        return option is not None and option not in options

    def options(
        self, task: Any, options: Mapping[str, str], path: str | Path | None
    ) -> Mapping[str, str]:
        """The options with the folder of the checkpoint at `path`, if the task needs it.

        Cost: reads the configuration's files.
        """
        option = _option(task)
        if option is None or option in options or path is None:
            return options
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        identity: Callable[[str], str] | None = _identities(task).get(option)
        known = str(folder) if identity is None else identity(str(folder))
        return {**options, option: self._first.setdefault((task, known), str(folder))}


def _option(task: Any) -> str | None:
    known = builtin_tasks()
    return known[task].folder if isinstance(task, str) and task in known else None


def _identities(task: str) -> Mapping[str, Callable[[str], str]]:
    found: Mapping[str, Callable[[str], str]] = builtin_tasks()[task].module.identities()
    return found
