"""Aligning one network with another: weight matching over the permutations of hidden units.

Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin: Merging models modulo permutation symmetries",
algorithm 1: of all ways to permute B's hidden units, one for which ⟨A, B⟩ over all parameters is
largest (so that ‖A − B‖ is smallest), found by coordinate descent: one group of units after the
other, each a linear assignment. Where it starts depends on nothing but what B computes, so B and
any permutation of B give the same aligned network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sharpcli.errors import SharpError, setting
from sharpcli.landscape.alignment.permutations import (
    TRACED_EXAMPLES,
    Group,
    Permutations,
    Place,
    apply_permutations,
    permuted,
    trace_permutations,
)
from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Batch, Rows

__all__ = ["Alignment", "align", "match_weights"]

_MOST_SWEEPS = 100
# Gains below this, relative to the largest possible, are rounding.
_LEAST_GAIN = 1e-12
# What the outputs may differ by, relative to the largest: rounding in float64 is far below.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Alignment:
    """B aligned with A.

    `tensors` are B's, permuted; `groups` counts the groups of hidden units and `moved` the units
    that changed their place; `objective_before` and `objective_after` are the inner products of
    A's and B's parameters; `function_difference` is how far the outputs differ from B's, relative
    to the largest. `without_rule` names operations whose surroundings had to stay as they were.
    """

    tensors: dict[str, Tensor]
    groups: int
    moved: int
    objective_before: float
    objective_after: float
    function_difference: float
    without_rule: tuple[str, ...]


def align(
    network: Network,
    batch: Batch,
    tensors_a: Mapping[str, Tensor],
    tensors_b: Mapping[str, Tensor],
    *,
    few: Batch | None = None,
    seed: int = 0,
) -> Alignment:
    """Permute the hidden units of B to match A's, and check that B computes what it did.

    `tensors_a` and `tensors_b` are keyed as the model's state dict; `batch` has two examples or
    more, on which outputs are compared in float64, `few` the batch of two of them (None: the first
    two of every tensor). Raises `SharpError` where the model cannot be
    traced, where it has nothing that can be permuted, where the aligned network computes something
    else, and where SciPy is missing.
    """
    few = Rows(batch, 0, 0).slice(0, TRACED_EXAMPLES) if few is None else few
    structure = trace_permutations(network, few, tensors_a)
    if not structure.groups:
        why = f" (nothing is known of {', '.join(structure.without_rule)})"
        raise SharpError(
            f"{network.task.name}: the model has no hidden units that could be permuted"
            f"{why if structure.without_rule else ''}",
            f"leave {setting('align')} out: there is nothing to align",
        )
    permutations = match_weights(structure, tensors_a, tensors_b, device=network.device, seed=seed)
    aligned = apply_permutations(structure, tensors_b, permutations)
    difference = _function_difference(network, batch, tensors_b, aligned)
    if not difference <= _TOLERANCE:
        raise SharpError(
            f"{network.task.name}: the aligned network does not compute what B computes: outputs "
            f"differ by {difference:.1e} of the largest",
            f"leave {setting('align')} out; the forward pass depends on more than its tensor "
            "operations show",
        )
    return Alignment(
        aligned,
        len(structure.groups),
        sum(int((p != torch.arange(len(p))).sum()) for p in permutations),
        _inner_product(network.names, tensors_a, tensors_b),
        _inner_product(network.names, tensors_a, aligned),
        difference,
        structure.without_rule,
    )


def match_weights(
    structure: Permutations,
    tensors_a: Mapping[str, Tensor],
    tensors_b: Mapping[str, Tensor],
    *,
    device: torch.device | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """One permutation a group that bring B's parameters near A's; see `apply_permutations`.

    Running statistics move with their units, but do not count: with them the aligned networks were
    no nearer to each other. Of two starts, from the inputs and from the outputs, the better result
    is taken; `seed` draws the order in which groups are visited. Raises `SharpError` where SciPy is
    missing. Cost: per visit one product (size, entries) x (entries, size) and one assignment.
    """
    assign = _assignment()
    device = device if device is not None and device.type != "mps" else torch.device("cpu")
    counted = sorted(
        {place.tensor for group in structure.groups for place in group.places}
        - structure.statistics
    )
    a, b = (
        {name: tensors[name].detach().to(device, torch.float64) for name in counted}
        for tensors in (tensors_a, tensors_b)
    )
    groups = [
        Group(group.size, tuple(place for place in group.places if place.tensor in a))
        for group in structure.groups
    ]
    ends = []
    for from_inputs in (True, False):
        unmoved = [torch.arange(group.size) for group in groups]
        matching = _Matching(groups, a, dict(b), unmoved, assign)
        _begin(matching, from_inputs=from_inputs)
        _descend(matching, random.Random(seed))
        ends.append(matching)
    return max(ends, key=lambda end: _inner_product(counted, a, end.b)).permutations


@dataclass
class _Matching:
    """A's tensors, B's as they are permuted so far, and by what."""

    groups: Sequence[Group]
    a: Mapping[str, Tensor]
    b: dict[str, Tensor]
    permutations: list[Tensor]
    assign: Callable[..., Any]

    def move(self, number: int, similarity: Tensor) -> bool:
        """Permute a group's units so that the similarities of those that meet are largest in sum.

        `similarity` (size, size) is of A's units and B's, as these lie now. Whether any moved.
        """
        _, chosen = self.assign(similarity.cpu().numpy(), maximize=True)
        order = torch.from_numpy(chosen)
        reached = similarity.cpu()[torch.arange(len(order)), order].sum()
        gain = reached - similarity.diagonal().sum().cpu()
        if gain <= _LEAST_GAIN * len(order) * similarity.abs().max().cpu():
            return False
        moved = dict(self.b)
        for place in self.groups[number].places:
            moved[place.tensor] = permuted(moved[place.tensor], place, order)
        self.b = moved
        self.permutations[number] = self.permutations[number][order]
        return True


def _begin(matching: _Matching, *, from_inputs: bool) -> None:
    """Match each group once, by what does not depend on how groups not yet matched lie in B.

    Groups are taken from the inputs (or the outputs) on, each when a tensor joins it to what is
    already in place.
    """
    waiting = list(range(len(matching.groups)))
    if not from_inputs:
        waiting.reverse()
    while waiting:
        numbers = [number for number in waiting if _is_joined(matching, number, waiting)]
        number = numbers[0] if numbers else waiting[0]
        left, right = _invariant_features(matching, number, waiting)
        matching.move(number, left @ right.T)
        waiting.remove(number)


def _in_place(matching: _Matching, place: Place, waiting: Sequence[int]) -> list[Tensor]:
    """For each axis of a place's tensor, a mask of what is in order already.

    Those positions belong to no waiting group, but for those of the place itself.
    """
    masks = [torch.ones(each, dtype=torch.bool) for each in matching.a[place.tensor].shape]
    for number in waiting:
        for other in matching.groups[number].places:
            if other.tensor == place.tensor and other is not place:
                masks[other.axis][other.positions.flatten()] = False
    return masks


def _is_joined(matching: _Matching, number: int, waiting: Sequence[int]) -> bool:
    """Whether a matrix of the group's has entries that only the group itself can still move."""
    for place in matching.groups[number].places:
        masks = _in_place(matching, place, waiting)
        own = masks.pop(place.axis)[place.positions.flatten()]
        if masks and own.all() and all(mask.any() for mask in masks):
            return True
    return False


def _invariant_features(
    matching: _Matching, number: int, waiting: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Rows (size, m) for A's and B's units: their entries where those are in place, else sorted."""
    lefts: list[Tensor] = []
    rights: list[Tensor] = []
    for place in matching.groups[number].places:
        masks = _in_place(matching, place, waiting)
        own = masks[place.axis][place.positions.flatten()].all()
        masks[place.axis][:] = True
        settled = bool(own) and all(mask.all() for mask in masks)
        for tensors, rows in ((matching.a, lefts), (matching.b, rights)):
            tensor = tensors[place.tensor]
            if not settled:
                rows.append(_rows(tensor, place).sort(1).values)
            if own:
                for axis, mask in enumerate(masks):
                    tensor = tensor.index_select(axis, mask.nonzero()[:, 0].to(tensor.device))
                rows.append(_rows(tensor, place))
    return torch.cat(lefts, 1), torch.cat(rights, 1)


def _rows(tensor: Tensor, place: Place) -> Tensor:
    """What belongs to each unit at one place, (size, entries)."""
    return tensor.movedim(place.axis, 0)[place.positions.to(tensor.device)].flatten(1)


def _descend(matching: _Matching, order: random.Random) -> None:
    """Match group after group, all others held, until none moves."""
    names = [[place.tensor for place in group.places] for group in matching.groups]
    waiting = set(range(len(names)))
    for _ in range(_MOST_SWEEPS):
        numbers = sorted(waiting)
        order.shuffle(numbers)
        for number in numbers:
            waiting.discard(number)
            if _improve(matching, number):
                # Whoever shares a tensor with the group now sees another B.
                itself = {number} if len({*names[number]}) == len(names[number]) else set()
                met = {n for n, its in enumerate(names) if not {*its}.isdisjoint(names[number])}
                waiting |= met - itself
        if not waiting:
            return


def _improve(matching: _Matching, number: int) -> bool:
    places = matching.groups[number].places
    names = [place.tensor for place in places]
    similarity = sum(
        _rows(matching.a[place.tensor], place) @ _rows(matching.b[place.tensor], place).T
        for place in places
    )
    before, permutations = matching.b, list(matching.permutations)
    if not matching.move(number, torch.as_tensor(similarity)):
        return False
    # A tensor that the group has twice (a layer from a residual stream to itself) counts with one
    # side held, so that the step may be too long.
    if len({*names}) < len(names) and not _inner_product(
        {*names}, matching.a, matching.b
    ) > _inner_product({*names}, matching.a, before):
        matching.b, matching.permutations = before, permutations
        return False
    return True


def _inner_product(
    names: Iterable[str], left: Mapping[str, Tensor], right: Mapping[str, Tensor]
) -> float:
    return math.fsum(
        float(left[name].detach().double().flatten() @ right[name].detach().double().flatten())
        for name in names
    )


def _function_difference(
    network: Network, batch: Batch, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> float:
    """How far outputs on a batch differ, relative to the largest, in float64."""
    device = network.device if network.device.type != "mps" else torch.device("cpu")
    double = Network(network.model, network.task, device=device, dtype=torch.float64, mode="eval")
    rows = Rows(batch, 0, 0).to(device, torch.float64).batch
    found: list[list[Tensor]] = []
    for tensors in (before, after):
        parameters, fixed = double.unflatten(double.flatten(tensors)), double.fixed(tensors)
        with torch.no_grad(), exact_arithmetic():
            outputs = pytree.tree_leaves(double.outputs(parameters, fixed, rows))
        found.append([leaf.double() for leaf in outputs if isinstance(leaf, Tensor)])
    return max((_difference(*pair) for pair in zip(*found, strict=True)), default=0.0)


def _difference(before: Tensor, after: Tensor) -> float:
    """The largest difference as a share of the largest finite value; equal infinities are equal."""
    apart = torch.where(before == after, 0.0, (before - after).abs())
    finite = before[before.isfinite()].abs()
    if not apart.any():
        return 0.0
    return float(apart.max() / finite.max()) if len(finite) else math.inf


def _assignment() -> Callable[..., Any]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise SharpError(
            "aligning solves assignment problems by SciPy, which is not installed",
            "pip install 'sharpcli[align]'",
        ) from error
    return linear_sum_assignment  # type: ignore[no-any-return]  # SciPy is untyped
