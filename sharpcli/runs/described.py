"""Check that a checkpoint's metadata describe the model of its tensors.

`sharp train` stores the task's options in the checkpoint, and other tools their hyperparameters, so
that users need not repeat them. They are text that anybody can edit: `width=60000` in a small file
must not make a large model. And `width` may mean something else there: options with which the model
does not fit the tensors are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from sharpcli.checkpoint.contents import Checkpoint
from sharpcli.checkpoint.matching import match_tensors
from sharpcli.errors import SharpError, setting
from sharpcli.tasks.options_in_metadata import InMetadata

if TYPE_CHECKING:
    from sharpcli.tasks import Task

__all__ = ["check_configured", "check_described", "fitting"]

_MISFIT = "with it the model does not fit the checkpoint's tensors"
_TOO_LARGE = "with it the model is far larger than the checkpoint"
_SMALL = 2**16  # an option that is not a size, such as a seed, may always be this large


def check_described(task: Task, checkpoint: Checkpoint) -> None:
    """Check that the task's options make the model of the checkpoint.

    The model is built on PyTorch's meta device, without numbers. Building stops at twice as many
    parameters as the checkpoint has tensors (not at once as many: tying replaces some).

    Raises:
        SharpError: the options make another model.

    Cost: about a millisecond for a small model; no memory for its parameters.
    """
    options = ", ".join(f"{name}={value}" for name, value in task.options.items())
    said = (
        f"its metadata name the task {task.name} with {options}, whose model does not fit its "
        "tensors"
    )
    hint = (
        f"give the options that it was trained with ({setting('options.name', 'value')}), or name "
        f"another task ({setting('task')})"
    )
    try:
        _check_sizes(task, checkpoint, task.options)
        match_tensors(checkpoint, _built(task, checkpoint).state_dict())
    except _TooLargeError as error:
        raise SharpError(f"{checkpoint.path}: {said}: {error}", hint) from error
    except SharpError as error:
        raise SharpError(f"{error.message}; {said}", hint) from error


def fitting(
    build: Callable[[Mapping[str, str]], Task], found: InMetadata, checkpoint: Checkpoint
) -> tuple[InMetadata, Task]:
    """The options in a checkpoint's metadata with which the model fits its tensors, and the task.

    All are tried, then all but one, then none. If the model fits in no way, as many are taken as do
    not make it far too large: matching the tensors then says what is wrong.

    Args:
        build: gives the task with some of the options, and those of the user.
        found: what the metadata say.
        checkpoint: holds the tensors.

    A `SharpError` says that the task cannot be made with any of these options.

    Cost: as `check_described` for each try.
    """
    names = [*found.values]
    others = [[name] for name in names] if len(names) > 1 else []
    failure: SharpError | None = None
    misfits: list[tuple[InMetadata, Task]] = []
    why = _MISFIT
    for left_out in ([], *others, names):
        few = found.without(left_out, why)
        try:
            task = build(few.values)
        except SharpError as error:
            said = "".join(f"; {each}" for each in few.passed_over.values())
            failure = SharpError(f"{checkpoint.path}: {error.message}{said}", error.hint)
            continue
        try:
            _check_sizes(task, checkpoint, few.values)
            model = _built(task, checkpoint)
            if not any(map(is_lazy, model.parameters())):  # else the data give it its shapes
                match_tensors(checkpoint, model.state_dict())
        except _TooLargeError:
            why = _TOO_LARGE
        except SharpError:
            misfits.append((few, task))
        else:
            return few, task
    if not misfits and failure is not None:
        raise failure
    return misfits[0]


def _check_sizes(task: Task, checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Refuse an option that is larger than any size in the checkpoint.

    An option may count units or layers; a model has more parameters than either.

    Raises:
        _TooLargeError: there is one.
    """
    elements = _elements(checkpoint)
    for name in names:
        value = task.options.get(name)
        if type(value) is int and abs(value) > max(elements, _SMALL):
            raise _TooLargeError(
                f"{name} is {value}, and all tensors together have {elements} elements"
            )


def _built(task: Task, checkpoint: Checkpoint) -> nn.Module:
    """The task's model without numbers, or with its own if it cannot be built without.

    Raises:
        _TooLargeError: it has more than twice as many parameters as the checkpoint has tensors.
    """
    most = 2 * len(checkpoint.tensors), 2 * _elements(checkpoint)
    with _at_most(*most):
        try:
            with torch.device("meta"):
                return task.model()
        except _TooLargeError:
            raise
        except SharpError:
            pass
    with _at_most(*most):  # a model that reads numbers as it is built, as by .item()
        return task.model()


def _elements(checkpoint: Checkpoint) -> int:
    return sum(tensor.numel() for tensor in checkpoint.tensors.values())


def check_configured(task: Task, checkpoint: Checkpoint) -> None:
    """Check that a configuration beside a checkpoint makes no larger model than its tensors.

    Errors of the task pass.

    Raises:
        SharpError: the model has far more parameters.

    Cost: as `check_described`.
    """
    elements = _elements(checkpoint)
    try:
        with _at_most(2 * len(checkpoint.tensors), 2 * elements), torch.device("meta"):
            task.model()
    except _TooLargeError as error:
        raise SharpError(
            f"{checkpoint.path}: the configuration in its folder describes another model: {error}",
            "configuration and weights do not belong together: copy both again",
        ) from error


class _TooLargeError(SharpError):
    """A model outgrew its checkpoint while it was built. Tasks let a `SharpError` pass."""


@contextmanager
def _at_most(parameters: int, elements: int) -> Iterator[None]:
    """While active, building modules with more parameters or elements in all than this fails."""
    counted: dict[int, torch.nn.Parameter] = {}  # a tied one is registered more than once
    total = 0

    def registered(_: Any, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or id(parameter) in counted or is_lazy(parameter):
            return
        counted[id(parameter)] = parameter
        total += parameter.numel()
        if len(counted) > parameters or total > elements:
            raise _TooLargeError(
                f"its first {len(counted)} parameters, up to a '{name}' of shape "
                f"{tuple(parameter.shape)}, have {total} elements: far more than the file has"
            )

    handle = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()
