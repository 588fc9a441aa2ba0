"""An objective in another floating-point precision."""

from __future__ import annotations

import torch

from ..data import Rows
from ..errors import SharpError
from ..network import Network
from ..objective import Objective

__all__ = ["in_precision"]


def in_precision(
    objective: Objective,
    kind: torch.dtype,
    *,
    rows: Rows | None = None,
    batch_size: int | None = None,
) -> Objective | None:
    """The objective with its model, buffers and data in `kind`, on `rows` (None: its own).

    None where the device or the model has no such precision, as a kernel written for float32.
    """
    network = objective.network
    if kind == torch.float64 and network.device.type == "mps":
        return None
    other = Network(
        network.model,
        network.task,
        device=network.device,
        dtype=kind,
        mode="train" if network.model.training else "eval",
    ).subset(network.names, idle=network.idle)
    fixed = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor
        for name, tensor in objective.fixed.items()
    }
    found = Objective(other, rows or objective.rows, fixed, batch_size=batch_size)
    first = found.rows.head(2)
    leaves = found.leaves(torch.zeros(found.size, dtype=kind, device=network.device))
    try:
        total, _ = found.sum_and_weight(leaves, first.batch, first.count)
        if total.requires_grad:
            torch.autograd.grad(total, leaves, allow_unused=True)
    except (RuntimeError, TypeError, SharpError):  # such as a kernel written for float32
        return None
    return found
