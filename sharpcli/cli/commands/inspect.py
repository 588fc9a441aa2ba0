"""`sharp inspect`: what is in a checkpoint, without a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpcli.cli.exit_codes import exit_code
from sharpcli.cli.options import output_options
from sharpcli.documents.environment import environment
from sharpcli.documents.results import Failure, Report, to_document
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError
from sharpcli.settings import OutputSettings

if TYPE_CHECKING:
    from torch import Tensor

    from sharpcli.checkpoint import Checkpoint

__all__ = ["inspect"]


@click.command(
    epilog="""\b
Examples:
  sharp inspect model.safetensors
  sharp inspect run-*/model.pt --json | jq '.results[].checkpoint.metadata'"""
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...")
@output_options
def inspect(checkpoints: tuple[str, ...], output: OutputSettings) -> int:
    """Show what is in a checkpoint.

    Its tensors with shape, dtype, norm and range; the settings that are stored with them; the
    optimizer's state. CKPT is a safetensors file, a torch file (.pt, .pth, .ckpt, .bin), a sharded
    index or a folder in Hugging Face's layout. No task is needed, and no code in the file runs.
    """
    from sharpcli.render import emit

    results = [_inspected(path) for path in checkpoints]
    document = to_document(Report("inspect", {}, environment(), {}, results))
    emit(document, output)
    return exit_code(document)


def _inspected(path: str) -> dict[str, Any]:
    """One result: what the checkpoint holds, or why it could not be read."""
    from sharpcli.checkpoint import first_not_finite, load_checkpoint, place, summarize_optimizer

    try:
        checkpoint = load_checkpoint(path)
    except SharpError as error:
        failure = Failure(error.message, error.hint)
        return {"checkpoint": {"path": path}, "status": Outcome.FAILED, "error": failure}
    broken = first_not_finite(checkpoint.tensors)
    warnings = [f"tensor '{broken}' holds a NaN or an infinity"] if broken is not None else []
    optimizer = checkpoint.optimizer
    # a file may name one tensor many times
    once = {place(tensor): tensor for tensor in checkpoint.tensors.values()}
    measured = {where: _measured(tensor) for where, tensor in once.items()}
    return {
        "checkpoint": _described(checkpoint),
        "status": Outcome.OK,
        "tensors": [{"name": k, **measured[place(v)]} for k, v in checkpoint.tensors.items()],
        "optimizer": summarize_optimizer(optimizer) if optimizer is not None else None,
        **({"warnings": warnings} if warnings else {}),
    }


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint as in every document; `elements` and `bytes` count each storage once."""
    from sharpcli.checkpoint import place

    once = {place(tensor): tensor for tensor in checkpoint.tensors.values()}.values()
    return {
        "path": Path(checkpoint.path),
        "sha256": checkpoint.sha256,
        "elements": sum(tensor.numel() for tensor in once),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in once),
        "metadata": checkpoint.metadata,
        "notes": list(checkpoint.notes),
    }


def _measured(tensor: Tensor) -> Mapping[str, Any]:
    """Shape and dtype, the Euclidean norm of floats in float64, the range of what has an order."""
    import torch

    from sharpcli.checkpoint import pieces

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
        ordered = not wide.is_complex() and wide.dtype not in (
            torch.bool,
            torch.uint16,
            torch.uint32,
            torch.uint64,
        )
        if ordered and wide.numel():
            least.append(wide.min())
            most.append(wide.max())
    if norms:
        facts["norm"] = math.hypot(*norms)
    if least:
        facts["min"] = torch.stack(least).min().item()
        facts["max"] = torch.stack(most).max().item()
    return facts
