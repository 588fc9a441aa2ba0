"""The device that a run computes on."""

from __future__ import annotations

import torch

from sharpcli.errors import UsageError, counted, setting
from sharpcli.runtime.processes import join

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first GPU, else the CPU.

    Under torchrun this joins the process group, and each process gets its own GPU.

    Raises:
        UsageError: The name is unknown, or this machine has no such device.
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(auto if name == "auto" else name)
    except RuntimeError as error:  # torch does not know the name, or the number is too large
        raise UsageError(
            f"{setting('device', name)}: {str(error).splitlines()[0]}",
            "use auto, cpu, cuda, cuda:1 or mps",
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(
                f"{setting('device', name)}: this PyTorch ({torch.__version__}) sees "
                f"{counted(count, 'CUDA device')}",
                f"use {setting('device', 'cpu')}, or install a CUDA build of PyTorch and check the "
                "driver",
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(
            f"{setting('device', name)}: there is no MPS device", f"use {setting('device', 'cpu')}"
        )
    return join(device)
