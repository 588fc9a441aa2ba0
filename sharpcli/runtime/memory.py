"""Free memory, the memory that graphs take, and how to recognize a failed allocation."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharpcli.errors import SharpError

__all__ = [
    "available_memory",
    "bytes_saved",
    "computed_sizes",
    "is_out_of_memory",
    "readable_size",
]

_CGROUP = Path("/sys/fs/cgroup")


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device` without swapping or failing."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch could not allocate, on any device."""
    # On a CPU it raises a plain RuntimeError, which only its text tells apart.
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    )


def readable_size(size: float) -> str:
    """Bytes in readable form: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def bytes_saved(work: Callable[[], Any], own: Collection[int]) -> int:
    """Bytes of the storages saved by the graphs of the result of `work`, each counted once.

    Storages whose `data_ptr` is in `own` are left out. If `work` uses `torch.func.grad`, which
    forbids saved-tensor hooks, everything that is computed counts.

    Raises:
        RuntimeError: `work` raised it.
        SharpError: `work` raised it.
    """
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive forever

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = work()
    except (RuntimeError, SharpError) as error:
        if "saved tensor hooks" not in str(error):  # torch has no class of its own for this
            raise
    else:
        del result  # kept until here so that no new storage reuses an address
        return sum(seen.values())
    computed = _Computed()
    with computed:
        work()
    return computed.bytes


def computed_sizes(work: Callable[[], Any]) -> list[int]:
    """Bytes of each tensor that `work` computes, in order; views count too. Its errors pass."""
    computed = _Computed()
    with computed:
        work()
    return computed.sizes


class _Computed(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the bytes of all tensors computed inside the block, and notes those of each."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and note its results."""
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, Tensor) and not each._is_view():
                size = each.numel() * each.element_size()
                self.bytes += size
                if each.layout == torch.strided:  # an expanded one has few numbers
                    size = min(size, each.untyped_storage().nbytes())
                self.sizes.append(size)
        return found
