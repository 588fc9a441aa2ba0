"""`sharp inspect`: what is in a checkpoint, without a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..environment import environment
from ..errors import SharpError
from ..options import output_options, refuse_overwriting
from ..results import Failure, Report, to_document
from ..settings import OutputSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ..checkpoint import Checkpoint

__all__ = ["inspect"]


@click.command(
    epilog="""\b
Examples:
  sharp inspect model.safetensors
  sharp inspect run-*/checkpoint.pt --json | jq '.results[].checkpoint.metadata'"""
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...")
@output_options
def inspect(checkpoints: tuple[str, ...], output: OutputSettings) -> int:
    """Show what is in a checkpoint.

    Its tensors with shape, dtype, norm and range; the settings that are stored with them; the
    optimizer's state. CKPT is a safetensors file, a torch file (.pt, .pth, .ckpt, .bin), a sharded
    index or a folder in Hugging Face's layout. No task is needed, and no code in the file runs.
    """
    from ..render import emit

    refuse_overwriting(output, checkpoints)
    results = [_inspected(path) for path in checkpoints]
    emit(to_document(Report("inspect", {}, environment(), {}, results)), output)
    return int(any(result["status"] == "failed" for result in results))


def _inspected(path: str) -> dict[str, Any]:
    """One result: what the checkpoint holds, or why it could not be read."""
    from ..checkpoint import first_not_finite, load_checkpoint, summarize_optimizer

    try:
        checkpoint = load_checkpoint(path)
    except SharpError as error:
        failure = Failure(error.message, error.hint)
        return {"checkpoint": {"path": path}, "status": "failed", "error": failure}
    broken = first_not_finite(checkpoint.tensors)
    warnings = [f"tensor '{broken}' holds a NaN or an infinity"] if broken is not None else []
    optimizer = checkpoint.optimizer
    return {
        "checkpoint": _described(checkpoint),
        "status": "ok",
        "tensors": [{"name": k, **_measured(v)} for k, v in checkpoint.tensors.items()],
        "optimizer": summarize_optimizer(optimizer) if optimizer is not None else None,
        **({"warnings": warnings} if warnings else {}),
    }


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint as in every document; `elements` and `bytes` count each storage once."""
    once = {_place(tensor): tensor for tensor in checkpoint.tensors.values()}.values()
    return {
        "path": Path(checkpoint.path),
        "sha256": checkpoint.sha256,
        "elements": sum(tensor.numel() for tensor in once),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in once),
        "metadata": checkpoint.metadata,
        "notes": list(checkpoint.notes),
    }


def _place(tensor: Tensor) -> tuple[object, ...]:
    address = tensor.data_ptr() or id(tensor)  # an empty tensor lies nowhere
    return address, tensor.dtype, tuple(tensor.shape), tensor.stride()


def _measured(tensor: Tensor) -> Mapping[str, Any]:
    """Shape and dtype, the Euclidean norm of floats in float64, the range of what has an order."""
    import torch

    facts: dict[str, Any] = {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
    wide = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    if wide.is_floating_point():
        facts["norm"] = float(torch.linalg.vector_norm(wide, dtype=torch.float64))
    elif wide.is_complex():
        facts["norm"] = float(torch.linalg.vector_norm(wide))
    ordered = not wide.is_complex() and wide.dtype not in (
        torch.bool,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    )
    if ordered and wide.numel():
        facts["min"], facts["max"] = wide.min().item(), wide.max().item()
    return facts
