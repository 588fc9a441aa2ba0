"""List the contents of checkpoints, for `sharp inspect`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpcli.checkpoint import (
    Checkpoint,
    first_not_finite,
    pieces,
    place,
    read_checkpoint,
    summarize_optimizer,
)
from sharpcli.checkpoint.contents import quoted
from sharpcli.documents.checkpoints import Inspected, InspectedCheckpoint, StoredTensor
from sharpcli.documents.environment import environment
from sharpcli.documents.results import FailedResult, Failure, MeasuredCheckpoint, Report
from sharpcli.errors import SharpError, counted, setting

__all__ = ["inspect_checkpoint", "inspect_checkpoints"]

_UNORDERED = (torch.bool, torch.uint16, torch.uint32, torch.uint64)


def inspect_checkpoints(paths: Sequence[str], weights: str | None = None) -> Report:
    """A report with each checkpoint's contents, or why it could not be read.

    Args:
        paths: the checkpoints.
        weights: the mapping or prefix of names to show; None: the usual one.
    """
    results = [inspect_checkpoint(path, weights) for path in paths]
    return Report("inspect", {}, environment(), {}, results)


def inspect_checkpoint(path: str, weights: str | None = None) -> Inspected | FailedResult:
    """One checkpoint's contents, or why it could not be read."""
    try:
        checkpoint = read_checkpoint(path, weights)
    except SharpError as error:
        failure = Failure(error.message, error.hint)
        return FailedResult(checkpoint=MeasuredCheckpoint(path), error=failure)
    broken = first_not_finite(checkpoint.tensors)
    warnings = [f"tensor '{broken}' holds a NaN or an infinity"] if broken is not None else []
    optimizer = checkpoint.optimizer
    # a file may name one tensor many times
    once = {place(tensor): tensor for tensor in checkpoint.tensors.values()}
    measured = {where: _measured(tensor) for where, tensor in once.items()}
    return Inspected(
        checkpoint=_described(checkpoint, once.values()),
        tensors=[StoredTensor(k, **measured[place(v)]) for k, v in checkpoint.tensors.items()],
        optimizer=summarize_optimizer(optimizer) if optimizer is not None else None,
        warnings=warnings,
    )


def _described(checkpoint: Checkpoint, once: Collection[Tensor]) -> InspectedCheckpoint:
    """The checkpoint as in every document; `elements` and `bytes` count each tensor once."""
    return InspectedCheckpoint(
        path=checkpoint.path,
        sha256=checkpoint.sha256,
        elements=sum(tensor.numel() for tensor in once),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in once),
        metadata=checkpoint.metadata,
        notes=(*checkpoint.notes, *_more(checkpoint)),
    )


def _more(checkpoint: Checkpoint) -> Sequence[str]:
    """Notes on other weights in the file, which an option shows."""
    return [
        f"also holds {quoted(key)} ({counted(len(tensors), 'tensor')}): "
        f"{setting('weights', key)} shows it"
        for key, tensors in checkpoint.others.items()
    ]


def _measured(tensor: Tensor) -> Mapping[str, Any]:
    """Shape, dtype, Euclidean norm (of floats, in float64) and range (of ordered types)."""
    facts: dict[str, Any] = {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
    norms: list[float] = []
    least, most = [], []
    for piece in pieces(tensor):
        narrow = piece.is_floating_point() and piece.element_size() == 1
        wide = piece.float() if narrow else piece
        if wide.is_floating_point():
            norms.append(float(torch.linalg.vector_norm(wide, dtype=torch.float64)))
        elif wide.is_complex():
            norms.append(float(torch.linalg.vector_norm(wide)))
        if not wide.is_complex() and wide.dtype not in _UNORDERED and wide.numel():
            least.append(wide.min())
            most.append(wide.max())
    if norms:
        facts["norm"] = math.hypot(*norms)
    if least:
        facts["min"] = torch.stack(least).min().item()
        facts["max"] = torch.stack(most).max().item()
    return facts
