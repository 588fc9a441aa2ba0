"""Compare what two sets of tensors compute."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Batch, Rows

__all__ = ["function_difference"]


def function_difference(
    network: Network,
    batch: Batch,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    kind: torch.dtype = torch.float64,
) -> float:
    """The largest difference of outputs on a batch, relative to the largest output, in `kind`."""
    wide = kind == torch.float64 and network.device.type == "mps"  # which has no float64
    device = torch.device("cpu") if wide else network.device
    own = Network(network.model, network.task, device=device, dtype=kind, mode="eval")
    rows = Rows(batch, 0, 0).to(device, kind).batch
    found: list[list[Tensor]] = []
    for tensors in (before, after):
        parameters, fixed = own.unflatten(own.flatten(tensors)), own.fixed(tensors)
        with torch.no_grad(), exact_arithmetic():
            outputs = pytree.tree_leaves(own.outputs(parameters, fixed, rows))
        found.append([leaf.double() for leaf in outputs if isinstance(leaf, Tensor)])
    return max((_difference(*pair) for pair in zip(*found, strict=True)), default=0.0)


def _difference(before: Tensor, after: Tensor) -> float:
    """The largest difference as a share of the largest finite value; equal infinities are equal."""
    apart = torch.where(before == after, 0.0, (before - after).abs())
    finite = before[before.isfinite()].abs()
    if not apart.any():
        return 0.0
    return float(apart.max() / finite.max()) if len(finite) else math.inf
