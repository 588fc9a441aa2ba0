"""What to measure on: the `Task`, and where one comes from.

A task is named by a Python file (`task.py`), an importable object (`package.module:name`) or the
name of a built-in task (`digits`). It defines `model` and `data`, and may define `predict`,
`loss`, `metrics` and `collate`:

    def model(): ...                 # -> nn.Module, built without weights
    def data(split): ...             # "train" | "test" -> map-style Dataset or tuple of tensors,
                                     # for "test" also None: there are no test data
    def predict(model, batch): ...   # -> outputs
    def loss(outputs, batch): ...    # -> one loss per example, or (sum, weight) per example
    def metrics(outputs, batch): ... # -> {"accuracy": per-example values, or (sum, weight)}
    def collate(rows): ...           # -> batch

Each of them may take further keyword arguments: the task's options.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, did_you_mean, setting
from sharpcli.tasks import builtin

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sharpcli.tasks.arguments import Option

__all__ = ["Builtin", "Task", "builtin_tasks", "load_task", "task_from_metadata"]

_SHOWN = 200  # characters of a checkpoint's metadata that a message repeats
Batch = Any  # the data set's collated rows: a tuple or list of tensors, or a mapping


@dataclass(frozen=True)
class Task:
    """A model, its data and its loss, with the task's options bound.

    `model` and `data` check what the task's own functions return and raise a `SharpError` that
    names the task. `options` holds every option that was resolved, defaults included.
    `fingerprint` is a SHA-256 over the task's source (of its own file, not of what it imports)
    and these options.
    """

    name: str
    options: Mapping[str, Any]
    fingerprint: str
    model: Callable[[], nn.Module]
    data: Callable[[str], Any]
    predict: Callable[[nn.Module, Batch], Any]
    loss: Callable[[Any, Batch], Tensor | tuple[Tensor, Tensor]]
    metrics: Callable[[Any, Batch], Mapping[str, Any]] | None = None
    collate: Callable[[list[Any]], Batch] | None = None


@dataclass(frozen=True)
class Builtin:
    """A task that comes with sharp: what it is, its module, and the package its data come from.

    `package` is None where the data are part of Python.
    """

    name: str
    summary: str
    package: str | None
    module: ModuleType

    def options(self) -> tuple[Option, ...]:
        """The options it takes."""
        from sharpcli.tasks.arguments import declared_options

        return declared_options(vars(self.module))


@functools.cache
def builtin_tasks() -> Mapping[str, Builtin]:
    """The built-in tasks by name: the modules in `tasks/builtin`. Imports them, not torch."""
    found = {}
    for _, name, _ in pkgutil.iter_modules(builtin.__path__):
        module = importlib.import_module(f"{builtin.__name__}.{name}")
        found[name] = Builtin(name, module.SUMMARY, module.PACKAGE, module)
    return found


def load_task(spec: str | Path, options: Mapping[str, str]) -> Task:
    """The task that `spec` names, with `options` (still text) bound.

    Runs the task's file or imports its module; builds neither model nor data yet.
    Raises `UsageError` where there is no such task or option, `SharpError` where the task's code
    fails or lacks `model` or `data`.
    """
    from sharpcli.tasks.build import build_task
    from sharpcli.tasks.source import find_source

    return build_task(find_source(str(spec), builtin_tasks()), options)


def task_from_metadata(metadata: Mapping[str, Any]) -> tuple[str, dict[str, str]] | None:
    """The built-in task and its options that a checkpoint's metadata name, None if they name none.

    A checkpoint is data: whatever it says, only the name of a built-in task is accepted, never a
    file or a module. Raises `SharpError` for anything else.
    """
    name = metadata.get("task")
    if name is None:
        return None
    known = builtin_tasks()
    if name not in known:
        raise SharpError(
            f"the checkpoint's metadata name the task {str(name)[:_SHOWN]!r}, which is not a "
            f"built-in one ({did_you_mean(str(name)[:_SHOWN], known)}); a checkpoint cannot "
            "choose code to run",
            f"name the task yourself: {setting('task', 'task.py')}",
        )
    options: dict[str, str] = {}
    given = str(metadata.get("task_options", ""))
    for item in filter(None, given.split(",")):
        option, equals, value = item.partition("=")
        if not equals:
            raise SharpError(
                f"the checkpoint's metadata hold task_options {given[:_SHOWN]!r}, "
                "which is not of the form name=value,name=value",
                f"name them yourself: {setting('task', name)} {setting('options.name', 'value')}",
            )
        options[option.strip()] = value.strip()
    return str(name), options
