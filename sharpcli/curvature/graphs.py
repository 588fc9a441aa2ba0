"""What the graphs of derivatives hold: measured, and rid of what no product needs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.rows import Batch
from sharpcli.runtime.memory import available_memory, bytes_saved

__all__ = [
    "GraphCost",
    "Linearize",
    "Product",
    "graph_budget",
    "graph_cost",
    "without_numbers",
]

# Adds the product of a microbatch's (unnormalised) matrix with a vector to a result, both as a
# list of the parameters' shapes, in place. Gives the microbatch's weight.
Product = Callable[[list[Tensor], list[Tensor]], Tensor]
# Makes a microbatch's product at the parameters given as leaves.
Linearize = Callable[[Objective, list[Tensor], Batch, int], Product]

# Share of the memory that kept graphs may take where nobody plans: bases need the rest.
_GRAPH_SHARE = 0.5
# Examples whose graphs are measured: two sizes tell what each example adds and what all share.
# Two at least, as batch norm in training mode asks for.
_FEW, _MORE = 2, 8


@dataclass(frozen=True)
class GraphCost:
    """Bytes that a microbatch's kept product holds: of its own, and for each example."""

    fixed: float
    example: float

    def of(self, count: int) -> float:
        """Bytes for a microbatch of `count` examples."""
        return self.fixed + count * self.example


_measured: weakref.WeakKeyDictionary[Network, dict[Linearize, GraphCost]] = (
    weakref.WeakKeyDictionary()
)


def graph_cost(objective: Objective, leaves: list[Tensor], make: Linearize) -> GraphCost:
    """What a microbatch's product keeps, counted on a few examples, once for a network.

    Every tensor that the graphs save counts, each storage once; parameters and data do not, which
    are there anyhow. Cost: two products made on a few examples.
    """
    known = _measured.setdefault(objective.network, {})
    if make not in known:
        sizes = sorted({min(size, objective.rows.count) for size in (_FEW, _MORE)})
        held = [_held(objective, leaves, make, size) for size in sizes]
        slope = (held[-1] - held[0]) / (sizes[-1] - sizes[0]) if len(sizes) > 1 else 0.0
        slope = min(max(slope, 0.0), held[-1] / sizes[-1])
        known[make] = GraphCost(held[-1] - sizes[-1] * slope, slope)
    return known[make]


def _held(objective: Objective, leaves: list[Tensor], make: Linearize, count: int) -> int:
    """Bytes of the storages that a product on the first `count` examples saves."""
    rows = objective.rows.head(count)
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    own |= {tensor.untyped_storage().data_ptr() for tensor in objective.fixed.values()}
    own |= rows.storages()
    return bytes_saved(lambda: make(objective, leaves, rows.batch, rows.count), own)


def graph_budget(device: torch.device, memory: float | None) -> float:
    """Bytes that kept graphs may take of `memory` (None: of what is free on a device)."""
    return _GRAPH_SHARE * (available_memory(device) if memory is None else memory)


def without_numbers(gradient: Tensor) -> Tensor:
    """A tensor in the gradient's place in the graph that holds no numbers.

    A product starts from there and never asks what the gradient is, which would be a copy of all
    parameters for every graph that is kept.
    """
    place = gradient.clone()  # not the gradient itself, which the graph may have saved
    place.data = torch.zeros((), dtype=gradient.dtype, device=gradient.device).expand_as(gradient)
    return place
