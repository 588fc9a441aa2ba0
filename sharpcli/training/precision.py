"""The device and the arithmetic of a training."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.objective.arithmetic import without_tf32
from sharpcli.runtime.devices import resolve_device
from sharpcli.runtime.processes import size
from sharpcli.training.train_settings import TrainSettings

__all__ = ["autocast", "device_of", "dtype_of", "model_of_device", "repeatable"]


def device_of(settings: TrainSettings) -> torch.device:
    """The device that a training runs on.

    Raises:
        UsageError: This machine has no such device, or the device has no such arithmetic.
        SharpError: Under torchrun.
    """
    if size() > 1:
        raise SharpError(
            f"torchrun has started {size()} processes, and a training runs in one",
            "start it without torchrun",
        )
    device = resolve_device(settings.device)
    lacking = {
        "float64": device.type == "mps",
        "bfloat16": not torch.amp.is_autocast_available(device.type)
        or (device.type == "cuda" and not torch.cuda.is_bf16_supported()),
    }
    if lacking.get(settings.dtype or "", False):
        raise UsageError(
            f"{setting('dtype', settings.dtype)}: {device} has no such arithmetic",
            f"use {setting('dtype', 'float32')}, or another {setting('device')}",
        )
    return device


def dtype_of(settings: TrainSettings) -> torch.dtype:
    """The dtype of parameters and data; bfloat16 is an arithmetic of steps in float32."""
    if settings.dtype is None:
        return torch.get_default_dtype()
    return torch.float64 if settings.dtype == "float64" else torch.float32


def autocast(
    settings: TrainSettings, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """The arithmetic of the forward passes of steps."""
    if settings.dtype != "bfloat16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def model_of_device(device: torch.device) -> str:
    """What a training's bits depend on: `cpu`, or `cuda (NVIDIA A100)`."""
    if device.type != "cuda":
        return device.type
    return f"cuda ({torch.cuda.get_device_name(device)})"


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """While active, a GPU gives the same bits for the same work, and float32 is float32.

    PyTorch warns of an operation that has no such form. A CPU needs nothing.
    """
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads it with its first product; PyTorch's documentation names this value.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        with without_tf32():
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark
