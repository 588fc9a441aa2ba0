"""Check that a checkpoint's metadata describe the model of its tensors.

`sharp train` stores the task's options in the checkpoint, so that users need not repeat them. They
are text that anybody can edit: `width=60000` in a small file must not make a large model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from sharpcli.checkpoint.contents import Checkpoint
from sharpcli.checkpoint.matching import match_tensors
from sharpcli.errors import SharpError, setting

if TYPE_CHECKING:
    from sharpcli.tasks import Task

__all__ = ["check_configured", "check_described"]


def check_described(task: Task, checkpoint: Checkpoint) -> None:
    """Check that the task's options make the model of the checkpoint.

    The model is built on PyTorch's meta device, without numbers. Building stops at twice as many
    parameters as the checkpoint has tensors (not at once as many: tying replaces some).

    Raises:
        SharpError: the options make another model.

    Cost: about a millisecond for a small model; no memory for its parameters.
    """
    elements = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    options = ", ".join(f"{name}={value}" for name, value in task.options.items())
    said = (
        f"its metadata name the task {task.name} with {options}, whose model does not fit its "
        "tensors"
    )
    hint = (
        f"give the options that it was trained with ({setting('options.name', 'value')}), or name "
        f"another task ({setting('task')})"
    )
    for name, value in task.options.items():
        # An option may count units or layers; a model has more parameters than either.
        if type(value) is int and abs(value) > max(elements, _SMALL):
            raise SharpError(
                f"{checkpoint.path}: {said}: {name} is {value}, and all tensors together have "
                f"{elements} elements",
                hint,
            )
    try:
        with _at_most(2 * len(checkpoint.tensors), 2 * elements), torch.device("meta"):
            model = task.model()
        match_tensors(checkpoint, model.state_dict())
    except _TooLargeError as error:
        raise SharpError(f"{checkpoint.path}: {said}: {error}", hint) from error
    except SharpError as error:
        raise SharpError(f"{error.message}; {said}", hint) from error


def check_configured(task: Task, checkpoint: Checkpoint) -> None:
    """Check that a configuration beside a checkpoint makes no larger model than its tensors.

    Errors of the task pass.

    Raises:
        SharpError: the model has far more parameters.

    Cost: as `check_described`.
    """
    elements = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    try:
        with _at_most(2 * len(checkpoint.tensors), 2 * elements), torch.device("meta"):
            task.model()
    except _TooLargeError as error:
        raise SharpError(
            f"{checkpoint.path}: the configuration in its folder describes another model: {error}",
            "configuration and weights do not belong together: copy both again",
        ) from error


_SMALL = 2**16  # an option that is not a size, such as a seed, may always be this large


class _TooLargeError(SharpError):
    """A model outgrew its checkpoint while it was built. Tasks let a `SharpError` pass."""


@contextmanager
def _at_most(parameters: int, elements: int) -> Iterator[None]:
    """While active, building modules with more parameters or elements in all than this fails."""
    counted: dict[int, torch.nn.Parameter] = {}  # a tied one is registered more than once
    total = 0

    def registered(_: Any, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or id(parameter) in counted:
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
