"""Switch off PyTorch's detours around a forward pass: recomputation and compiled code.

Both run the model's code at another time than its forward pass, when the parameters that it was
given are no longer in place.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import torch
from torch.utils import checkpoint as checkpointing

__all__ = ["eager"]


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """A block in which `torch.utils.checkpoint` stores and compiled functions run uncompiled.

    The numbers are the same. Inside the block this holds for the entire process.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_recomputation())
        # If this module is not imported nothing has been compiled yet, and importing it takes two
        # seconds.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _stored(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A plain call that replaces `checkpoint`. It refers to nothing outside itself."""
    context = kwargs.pop("context_fn", None)
    for own in ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop"):
        kwargs.pop(own, None)
    if context is None:
        return function(*args, **kwargs)
    with context()[0]:
        return function(*args, **kwargs)


def _applied(function: Callable[..., Any], _: bool, *args: Any) -> Any:
    """A plain call that replaces the reentrant variant's `apply`."""
    return function(*args)


class _Switch:
    """Exchanges the code of functions, so that names imported earlier change too."""

    def __init__(self) -> None:
        # `checkpoint` wraps the function that does the work, to exclude it from torch.compile.
        self.function: Any = getattr(
            checkpointing.checkpoint, "__wrapped__", checkpointing.checkpoint
        )
        self.code: CodeType = self.function.__code__
        self.defaults: Any = self.function.__kwdefaults__

    def on(self) -> None:
        self.function.__code__ = _stored.__code__
        self.function.__kwdefaults__ = _stored.__kwdefaults__

    def off(self) -> None:
        self.function.__code__ = self.code
        self.function.__kwdefaults__ = self.defaults


_switch = _Switch()


@contextlib.contextmanager
def _without_recomputation() -> Iterator[None]:
    own: Any = checkpointing.CheckpointFunction
    _switch.on()
    own.apply = staticmethod(_applied)
    try:
        yield
    finally:
        _switch.off()
        del own.apply  # exposes the inherited one again
