"""Arithmetic in which derivatives exist: no fused attention, no fast path, TF32 as asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpcli.objective.eager import eager

__all__ = ["exact_arithmetic"]

# Whether the process is in exact arithmetic; the switches are the process's too.
_exact = False


@contextlib.contextmanager
def exact_arithmetic(*, tf32: bool = False) -> Iterator[None]:
    """Arithmetic in which first and second derivatives exist and mean what they say.

    Attention runs by the math kernel (the fused ones have no second derivative), the transformer
    encoder's inference-only path is off (it would evaluate another function than the one that is
    differentiated), and TF32 is off, or on where it is asked for, whatever the process has set.
    Activation checkpointing stores, and compiled code runs uncompiled (`eager`). Inside another
    such block it does and costs nothing.
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


def _tf32_switches(wanted: bool) -> list[tuple[Any, str, Any, Any]]:
    """Every switch of TF32: where it is, its name, how it stands, and how it is to stand.

    Once a task has used PyTorch's newer switches the older ones refuse to be read.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        return [(it, "allow_tf32", it.allow_tf32, wanted) for it in (matmul, cudnn)]
    except RuntimeError:
        newer = (matmul, cudnn.conv, cudnn.rnn)  # type: ignore[attr-defined]  # torch 2.9 has them
        value = "tf32" if wanted else "ieee"
        return [(it, "fp32_precision", it.fp32_precision, value) for it in newer]
