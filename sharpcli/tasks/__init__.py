"""Tasks: the model, the data and the loss that a checkpoint is measured with.

A task is a Python file (`task.py`), an importable object (`package.module:name`) or a built-in
task (`digits`). It defines `model` and `data`, and may define `predict`, `loss`, `metrics`,
`collate`, and two that only training uses:

    def model(): ...                 # -> nn.Module, built without weights
    def data(split): ...             # "train" | "test" -> map-style Dataset or tuple of tensors;
                                     # None for "test" if there are no test data
    def predict(model, batch): ...   # -> outputs
    def loss(outputs, batch): ...    # -> one loss per example, or (sum, weight) per example
    def metrics(outputs, batch): ... # -> {"accuracy": per-example values, or (sum, weight)}
    def collate(rows): ...           # -> batch
    def smoothed_loss(outputs, batch, smoothing): ...  # -> as loss, with label smoothing
    def augment(batch, generator): ...                 # -> a new batch, at random

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
    from torch import Generator, Tensor, nn

    from sharpcli.tasks.arguments import Option
    from sharpcli.tasks.source import Source

__all__ = ["Builtin", "Task", "builtin_tasks", "load_task", "open_task", "task_from_metadata"]

_SHOWN = 200  # characters of a checkpoint's metadata that a message repeats
Batch = Any  # collated rows of the data set: a tuple or list of tensors, or a mapping


@dataclass(frozen=True)
class Task:
    """A model, its data and its loss, with the task's options bound.

    `model` and `data` check what the task's functions return and raise a `SharpError` that names
    the task. `options` holds all options with their values, defaults included. `fingerprint` is a
    SHA-256 over these options, the task's own source file and the user's modules that it imports.
    `read_with` has the options of `data` and `collate` that were given: tasks of one source that
    share them read the same data.
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
    smoothed_loss: Callable[[Any, Batch, float], Tensor | tuple[Tensor, Tensor]] | None = None
    augment: Callable[[Batch, Generator], Batch] | None = None
    read_with: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Builtin:
    """A task that comes with sharp: a summary, its module, and the package that has its data.

    `package` is None if the data are part of Python. `training` has the settings that train it to
    where the test loss stops falling, if those of `sharp train` itself do not. `extra` is the extra
    that installs the package. `folder` is the option that is the checkpoint's own folder where it
    is not set. `example` is a command that uses a task for a user's own checkpoints and data.
    """

    name: str
    summary: str
    package: str | None
    module: ModuleType
    training: Mapping[str, Any]
    extra: str = "demo"
    folder: str | None = None
    example: str | None = None

    def options(self) -> tuple[Option, ...]:
        """The options that the task takes."""
        from sharpcli.tasks.arguments import declared_options

        return declared_options(vars(self.module))


@functools.cache
def builtin_tasks() -> Mapping[str, Builtin]:
    """The built-in tasks by name: the modules in `tasks/builtin`. Does not import torch.

    Those with data of their own come first. The module `hf_causal_lm` is the task `hf-causal-lm`.

    >>> builtin_tasks()["digits"].package
    'scikit-learn'
    """
    found = {}
    for _, name, _ in pkgutil.iter_modules(builtin.__path__):
        module = importlib.import_module(f"{builtin.__name__}.{name}")
        task = getattr(module, "NAME", name)
        found[task] = Builtin(
            task,
            module.SUMMARY,
            module.PACKAGE,
            module,
            getattr(module, "TRAINING", {}),
            getattr(module, "EXTRA", "demo"),
            getattr(module, "FOLDER", None),
            getattr(module, "EXAMPLE", None),
        )
    return dict(sorted(found.items(), key=lambda item: item[1].example is not None))


def load_task(spec: str | Path, options: Mapping[str, str]) -> Task:
    """Load a task and bind its options. Runs the task's code, but builds no model or data yet.

    Args:
        spec: a task file, `package.module:name`, or the name of a built-in task.
        options: the options as text.

    Errors: `UsageError` for an unknown task or option, `SharpError` if the task's code fails or
    lacks `model` or `data`.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "task.py")
    ...     _ = path.write_text('''
    ... import torch
    ... def model(width: int = 4): return torch.nn.Linear(3, width)
    ... def data(split): return torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)
    ... ''')
    ...     task = load_task(path, {"width": "8"})
    >>> task.options, task.model()
    ({'width': 8}, Linear(in_features=3, out_features=8, bias=True))
    >>> load_task("digits", {"depth": "4"}).options["depth"]
    4
    """
    from sharpcli.tasks.build import build_task

    return build_task(open_task(spec), options)


def open_task(spec: str | Path) -> Source:
    """A task's functions, before its options are known. Runs the task's code, once."""
    from sharpcli.tasks.source import find_source

    return find_source(str(spec), builtin_tasks())


def task_from_metadata(metadata: Mapping[str, Any]) -> tuple[str, dict[str, str]] | None:
    """The built-in task and the options that a checkpoint's metadata name, None without a task.

    A checkpoint is data, so it may name a built-in task, but never a file or a module.

    Raises:
        SharpError: the metadata name something else, or options of the wrong form.
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
