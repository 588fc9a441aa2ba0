"""Replacements for operations whose second derivative PyTorch lacks or has wrong.

They compute the same function from other operations and take the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["MADE_OF_OTHERS"]


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g·v/‖v‖, with a norm for each index of `dim` (−1: one norm for all).

    The second derivative of PyTorch's own is not symmetric on a CPU (in torch 2.9, entries are off
    by their own size).
    """
    others = [axis for axis in range(v.ndim) if axis != dim]
    return v * (g / v.square().sum(others, keepdim=True).sqrt())


def _embedding_bag(
    places: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sum, mean or maximum of a bag's rows of `weight`; PyTorch's own has no second derivative."""
    if max_norm is not None or scale_grad_by_freq:  # refused elsewhere
        return functional.embedding_bag(
            places,
            weight,
            offsets,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            per_sample_weights,
            include_last_offset,
            padding_idx,
        )
    entries, inside = _bags(places, offsets, include_last_offset)
    indices = places.reshape(-1)[entries]
    if padding_idx is not None:
        inside = inside & (indices != padding_idx % len(weight))
    rows = functional.embedding(indices, weight)
    if mode == "max":
        lowest = torch.finfo(rows.dtype).min
        found = rows.masked_fill(~inside[..., None], lowest).max(dim=1).values
        return found.masked_fill(~inside.any(1)[:, None], 0)
    shares = inside.to(rows.dtype)
    if per_sample_weights is not None:
        shares = shares * per_sample_weights.reshape(-1)[entries]
    if mode == "mean":
        shares = shares / inside.sum(1, keepdim=True).clamp_min(1)
    return (rows * shares[..., None]).sum(1)


def _bags(places: Tensor, offsets: Tensor | None, last: bool) -> tuple[Tensor, Tensor]:
    """The places of each bag's entries in the flat `places` (bags, most), and which exist."""
    if offsets is None:
        entries = torch.arange(places.numel(), device=places.device).view(places.shape)
        return entries, torch.ones_like(entries, dtype=torch.bool)
    ends = offsets[1:] if last else torch.cat([offsets[1:], offsets.new_tensor([len(places)])])
    starts = offsets[:-1] if last else offsets
    lengths = ends - starts
    most = max(int(lengths.max()) if len(lengths) else 0, 1)
    steps = torch.arange(most, device=places.device)
    inside = steps < lengths[:, None]
    return torch.where(inside, starts[:, None] + steps, 0), inside


MADE_OF_OTHERS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    torch._weight_norm: _weight_norm,
    functional.embedding_bag: _embedding_bag,
}
