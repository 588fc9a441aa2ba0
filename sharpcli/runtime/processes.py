"""One run on several processes: each of torchrun's ranks takes a share of every data pass.

All ranks run the same program on the same data set and make the same decisions. A pass over the
data is divided between them and their sums are added. Only the first rank prints and writes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sharpcli.errors import SharpError

if TYPE_CHECKING:
    import torch

__all__ = ["add_up", "is_first", "join", "neighbours", "rank", "share", "share_of", "size"]

T = TypeVar("T")


def rank() -> int:
    """The number of this process; 0 if there is only one."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """How many processes torchrun has started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def neighbours() -> int:
    """How many processes torchrun has started on this machine, 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if size() > 1 else 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def join(device: torch.device) -> torch.device:
    """Join the process group, once; returns this process's device (its own GPU, by local rank).

    Gloo connects CPUs, NCCL connects GPUs.
    """
    import torch
    from torch import distributed

    if size() == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
    return device


def share_of(count: int) -> tuple[int, int]:
    """Where this process's part of `count` examples starts and stops."""
    return count * rank() // size(), count * (rank() + 1) // size()


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of all processes' tensors, in place; every process gets the same bits.

    If another process has ended, this is a `SharpError`.
    """
    if size() > 1:
        from torch import distributed

        _with_others(lambda: distributed.all_reduce(tensor))
    return tensor


def share(value: T) -> T:
    """The first process's value, for decisions by timing and for what is read from a file.

    `value` has plain types; the other processes' values are dropped. Raises like `add_up`.
    """
    if size() == 1:
        return value
    from torch import distributed

    held = [value]
    _with_others(lambda: distributed.broadcast_object_list(held, src=0))
    return held[0]


def _with_others(communicate: Callable[[], object]) -> None:
    try:
        communicate()
    except RuntimeError as error:  # of Gloo or NCCL, when a connection is lost
        raise SharpError(
            f"another process has ended: {str(error).splitlines()[0]}",
            "its own message says why",
        ) from error
