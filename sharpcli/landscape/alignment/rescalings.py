"""Rescale hidden units so that a network's function does not change.

A ReLU passes positive factors on, so a hidden unit's incoming weights and bias may be multiplied by
s > 0 if its outgoing weights are divided by s (Neyshabur et al. 2015, Dinh et al. 2017). The same
holds for the weights and running statistics before a batch norm, for the scale of a layer norm and
the weights that read it, for queries and keys, and along residual paths for all tensors together.
The axes are those of the permutation symmetries, the exponents solve the equations of
`scale_rules`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from sharpcli.landscape.alignment.permutations import (
    TracedAxes,
    arguments_of,
    trace_axes,
    twins_of,
)
from sharpcli.landscape.alignment.scale_rules import equate
from sharpcli.landscape.alignment.scales import Equations, Scaled, Slot, scaled
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Batch

__all__ = ["RescaledPlace", "Rescaling", "Rescalings", "apply_rescaling", "trace_rescalings"]


@dataclass(frozen=True)
class RescaledPlace:
    """Where factors go in a tensor: row i of `positions` (size, repeats) has the indices of unit i.

    The entries along `axis` are multiplied by the factors to the `exponent`. `epsilon` is what a
    batch norm adds to this running variance; None for other tensors.
    """

    tensor: str
    axis: int
    positions: Tensor
    exponent: float
    epsilon: float | None = None


@dataclass(frozen=True)
class Rescaling:
    """Units that can be multiplied by any positive factors, if that is done at all these places."""

    size: int
    places: tuple[RescaledPlace, ...]


@dataclass(frozen=True)
class Rescalings:
    """A model's rescaling symmetries.

    `twins` maps each further name of a tied tensor to the name in the places. `without_rule` lists
    unknown operations, around which nothing is rescaled.
    """

    symmetries: tuple[Rescaling, ...]
    twins: Mapping[str, str]
    without_rule: tuple[str, ...]

    @property
    def units(self) -> int:
        """The number of units of all symmetries."""
        return sum(each.size for each in self.symmetries)

    @property
    def tensors(self) -> frozenset[str]:
        """The names of the tensors that a rescaling changes."""
        return frozenset(place.tensor for each in self.symmetries for place in each.places)


def trace_rescalings(
    network: Network, batch: Batch, tensors: Mapping[str, Tensor], *, asked: str = "rescale_check"
) -> Rescalings:
    """Find the rescaling symmetries of a network in eval mode.

    Args:
        network: The network.
        batch: Two examples or more, preferably few.
        tensors: A checkpoint's tensors, under the names of the model's state dict.
        asked: The setting that an error tells the user to leave out.

    A `SharpError` says that the model cannot be traced.

    Cost: a forward pass.

    Source: Neyshabur, Salakhutdinov & Srebro 2015, "Path-SGD".
    """
    traced = trace_axes(network, batch, tensors, asked=asked, purpose=_NOT_RESCALED)
    named = {name: scaled(value) for name, value in traced.free.items()}
    epsilons = _epsilons(traced)
    last = {
        slot: 1 if name in traced.statistics else 2
        for name, tensor in named.items()
        for slot in tensor.slots
    }
    equations = Equations(last)
    _follow(traced, {traced.placeholders[name]: each for name, each in named.items()}, equations)
    exponents = equations.exponents(last)
    symmetries: dict[Slot, list[RescaledPlace]] = {}
    for name, tensor in named.items():
        for slot in tensor.slots:
            for free, share in exponents[slot].items():
                place = RescaledPlace(
                    name, slot.dimension, slot.positions, float(share), epsilons.get(name)
                )
                symmetries.setdefault(free, []).append(place)
    return Rescalings(
        tuple(Rescaling(free.axis.size, tuple(its)) for free, its in symmetries.items()),
        twins_of(network),
        traced.without_rule,
    )


def apply_rescaling(
    structure: Rescalings,
    tensors: Mapping[str, Tensor],
    *,
    strength: float,
    by: Literal["unit", "layer"] = "unit",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Multiply the units of each symmetry by random factors; tensors that change are float64.

    Args:
        structure: The model's symmetries.
        tensors: A checkpoint's tensors. They stay as they are.
        strength: Factors are log-uniform between 1/strength and strength.
        by: "unit": each unit has a factor of its own; "layer": those of a symmetry share one.
        seed: Of the factors.
    """
    generator = torch.Generator().manual_seed(seed)
    moved = dict(tensors)
    names = {name: [name] for name in tensors}
    for twin, name in structure.twins.items():
        if twin in tensors:
            names.setdefault(name, []).append(twin)
    for symmetry in structure.symmetries:
        drawn = torch.rand(symmetry.size, generator=generator, dtype=torch.float64) * 2 - 1
        logs = math.log(strength) * (drawn if by == "unit" else drawn[:1].expand(symmetry.size))
        for place in symmetry.places:
            for name in names.get(place.tensor, []):
                moved[name] = _multiplied(moved[name], place, (place.exponent * logs).exp())
    return moved


def _multiplied(tensor: Tensor, place: RescaledPlace, factors: Tensor) -> Tensor:
    """A float64 copy of a tensor with the units at one place multiplied."""
    kind = torch.complex128 if tensor.is_complex() else torch.float64
    along = torch.ones(tensor.shape[place.axis], dtype=torch.float64)
    along[place.positions] = factors[:, None].expand(-1, place.positions.shape[1])
    shape = [1] * tensor.ndim
    shape[place.axis] = -1
    wide = tensor.detach().cpu().to(kind)
    # A batch norm divides by √(variance + ε), which is what has to grow by the factor.
    epsilon = place.epsilon or 0.0
    return ((wide + epsilon) * along.reshape(shape) - epsilon).to(tensor.device)


def _follow(traced: TracedAxes, tensors: Mapping[fx.Node, Scaled], equations: Equations) -> None:
    """Add the equations of every operation along the graph."""
    known: dict[fx.Node, Any] = dict(tensors)
    for node in traced.module.graph.nodes:
        if node in known or node not in traced.axes:
            continue
        if node.op == "call_function" and node.target is operator.getitem:
            source, index = node.args
            known[node] = known[source][index]
            continue
        axes = traced.axes[node]
        many = isinstance(axes, list)
        outputs = [scaled(each) for each in axes] if many else [scaled(axes)]
        known[node] = outputs if many else outputs[0]
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            given = {name: _resolved(each, known) for name, each in arguments_of(node).items()}
            equate(node, given, outputs, equations)


def _resolved(argument: Any, known: Mapping[fx.Node, Any]) -> Any:
    """An argument with nodes replaced by their slots; sequences become lists."""
    if isinstance(argument, fx.Node):
        return known[argument]
    if isinstance(argument, list | tuple):
        return [_resolved(each, known) for each in argument]
    return argument


def _epsilons(traced: TracedAxes) -> dict[str, float]:
    """What batch norms add to each running variance."""
    names = {node: name for name, node in traced.placeholders.items()}
    found = {}
    for node in traced.module.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            given = arguments_of(node)
            variance = given.get("running_var")
            if isinstance(variance, fx.Node) and variance in names:
                found[names[variance]] = float(given.get("eps", given.get("epsilon", 0.0)))
    return found


_NOT_RESCALED = "its hidden units cannot be rescaled"
