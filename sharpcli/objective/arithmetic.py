"""Arithmetic in which derivatives exist: no fused attention, no fast path, TF32 only on request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpcli.objective.eager import eager

__all__ = ["accumulator", "exact_arithmetic", "without_tf32"]

# Whether the process is in exact arithmetic; the switches also belong to the process.
_exact = False


def accumulator(device: torch.device) -> torch.dtype:
    """The dtype for sums over examples: float64 if the device supports it."""
    return torch.float32 if device.type == "mps" else torch.float64


@contextlib.contextmanager
def exact_arithmetic(*, tf32: bool = False) -> Iterator[None]:
    """Enter arithmetic in which first and second derivatives exist and are right.

    Attention uses the math kernel (the fused ones have no second derivative). The transformer
    encoder's inference-only path is off, because it would evaluate another function than the
    differentiated one. TF32 is off, or on if requested, whatever the process has set. Activation
    checkpointing stores, and compiled code runs uncompiled (`eager`). Inside another such block
    this does nothing.
    """
    global _exact
    if _exact:
        yield
        return
    fastpath = torch.backends.mha.get_fastpath_enabled()
    switches = _tf32_switches(tf32)
    torch.backends.mha.set_fastpath_enabled(False)
    for where, name, _, wanted in switches:
        setattr(where, name, wanted)
    _exact = True
    try:
        with eager(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        _exact = False
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for where, name, before, _ in switches:
            setattr(where, name, before)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """A block in which a GPU's float32 products have all their digits, whatever is set outside."""
    switches = _tf32_switches(False)
    for where, name, _, wanted in switches:
        setattr(where, name, wanted)
    try:
        yield
    finally:
        for where, name, before, _ in switches:
            setattr(where, name, before)


def _tf32_switches(wanted: bool) -> list[tuple[Any, str, Any, Any]]:
    """Every switch of TF32: its owner, its name, its present value, and the wanted value.

    Once a task has used PyTorch's newer switches, reading the older ones fails.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        return [(it, "allow_tf32", it.allow_tf32, wanted) for it in (matmul, cudnn)]
    except RuntimeError:
        newer = (matmul, cudnn.conv, cudnn.rnn)  # type: ignore[attr-defined]  # torch 2.9 has them
        value = "tf32" if wanted else "ieee"
        return [(it, "fp32_precision", it.fp32_precision, value) for it in newer]
