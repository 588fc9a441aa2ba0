"""The memory of derivative graphs: measured, and freed of what no product needs."""

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

# Adds the product of a microbatch's unnormalised matrix with a vector to a result, in place. Both
# are lists of tensors in the parameters' shapes. Returns the microbatch's weight.
Product = Callable[[list[Tensor], list[Tensor]], Tensor]
# Builds a microbatch's product at the parameters given as leaves.
Linearize = Callable[[Objective, list[Tensor], Batch, int], Product]

# Share of the memory for kept graphs if there is no memory plan: bases need the rest.
_GRAPH_SHARE = 0.5
# Numbers of examples whose graphs are measured. Two sizes separate the cost of an example from the
# shared cost. At least two examples, as batch norm in training mode requires.
_FEW, _MORE = 2, 8


@dataclass(frozen=True)
class GraphCost:
    """Bytes held by a microbatch's kept product: a fixed part, and a part for each example."""

    fixed: float
    example: float

    def of(self, count: int) -> float:
        """Bytes for a microbatch of `count` examples."""
        return self.fixed + count * self.example


_measured: weakref.WeakKeyDictionary[Network, dict[Linearize, GraphCost]] = (
    weakref.WeakKeyDictionary()
)


def graph_cost(objective: Objective, leaves: list[Tensor], make: Linearize) -> GraphCost:
    """Measure the bytes that a microbatch's product keeps, on a few examples, once for a network.

    Every tensor that the graphs save counts, each storage once; parameters and data do not, because
    they exist anyway.

    Cost: two products built on a few examples.
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
    """Bytes of the storages saved by a product on the first `count` examples."""
    rows = objective.rows.typical(count)
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    for fixed in objective.fixed.values():  # a sparse one has no storage of its own
        parts = [fixed._indices(), fixed._values()] if fixed.is_sparse else [fixed]
        own |= {part.untyped_storage().data_ptr() for part in parts}
    own |= objective.rows.storages()  # numbers that are used as they are, maybe a file's
    if not objective.rows.converts:  # else a graph keeps its batch's converted numbers
        own |= rows.storages()
    return bytes_saved(lambda: make(objective, leaves, rows.batch, rows.count), own)


def graph_budget(device: torch.device, memory: float | None) -> float:
    """Bytes available for kept graphs out of `memory` (None: what is free on the device)."""
    return _GRAPH_SHARE * (available_memory(device) if memory is None else memory)


def without_numbers(gradient: Tensor) -> Tensor:
    """A data-free stand-in for the gradient in the graph.

    A product starts from it and never needs the gradient's values, which would be one copy of all
    parameters for each kept graph.
    """
    place = gradient.clone()  # the graph may have saved the gradient itself
    place.data = torch.zeros((), dtype=gradient.dtype, device=gradient.device).expand_as(gradient)
    return place
