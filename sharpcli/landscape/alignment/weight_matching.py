"""Align one network with another by weight matching over permutations of hidden units.

The permutation of B's hidden units maximises ⟨A, B⟩ over all parameters (so minimises ‖A − B‖) by
coordinate ascent: one group of units after the other, each a linear assignment. The start depends
only on B's function, so B and any permutation of B give the same aligned network.

Source: Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin: Merging models modulo permutation
symmetries", algorithm 1.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
from sharpcli.landscape.alignment.same_function import function_difference
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Batch, Rows

__all__ = ["Alignment", "align", "match_weights"]

_MOST_SWEEPS = 100
# Smaller gains, relative to the largest possible, are rounding.
_LEAST_GAIN = 1e-12
# Tolerated difference of outputs, relative to the largest; float64 rounding is far below.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Alignment:
    """B aligned with A.

    `tensors` are B's, permuted. `groups` is the number of groups of hidden units, `moved` the
    number of units that moved. `objective_before` and `objective_after` are the inner products of
    A's and B's parameters. `function_difference` is the largest difference of outputs from B's,
    relative to the largest output. `without_rule` lists unknown operations, around which nothing
    was permuted.
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
    """Permute the hidden units of B to match A's, and check that B's function did not change.

    Args:
        network: The network of both.
        batch: Two examples or more, on which outputs are compared in float64.
        tensors_a: A's tensors, under the names of the model's state dict.
        tensors_b: B's tensors.
        few: A batch of two examples for tracing; by default the first two of every tensor.
        seed: The seed of the order in which groups are visited.

    Raises:
        SharpError: nothing can be permuted, or the aligned network computes something else.

    A `SharpError` also says that the model cannot be traced or that SciPy is missing.
    """
    few = Rows(batch, 0, 0).slice(0, TRACED_EXAMPLES) if few is None else few
    structure = trace_permutations(network, few, tensors_a)
    if not structure.groups:
        why = f" (unknown operations: {', '.join(structure.without_rule)})"
        raise SharpError(
            f"{network.task.name}: the model has no hidden units that could be permuted"
            f"{why if structure.without_rule else ''}",
            f"leave {setting('align')} out: there is nothing to align",
        )
    permutations = match_weights(structure, tensors_a, tensors_b, device=network.device, seed=seed)
    aligned = apply_permutations(structure, tensors_b, permutations)
    difference = function_difference(network, batch, tensors_b, aligned)
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
    """Find permutations, one per group, that bring B's parameters close to A's.

    They are for `apply_permutations`. Running statistics move with their units but are not part of
    the objective: including them brought networks no closer. The better result of two starts, from
    the inputs and from the outputs, is returned. `seed` draws the order in which groups are
    visited. A `SharpError` says that SciPy is missing.

    Cost: per visit one product (size, entries) x (entries, size) and one assignment.
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
    """A's tensors, B's tensors as permuted so far, and the permutations."""

    groups: Sequence[Group]
    a: Mapping[str, Tensor]
    b: dict[str, Tensor]
    permutations: list[Tensor]
    assign: Callable[..., Any]

    def move(self, number: int, similarity: Tensor) -> bool:
        """Permute a group's units to maximise the sum of similarities; return whether any moved.

        `similarity` (size, size) is between A's units and B's in their present order.
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
    """Match each group once, by features that do not depend on the order of unmatched groups.

    Groups come in order from the inputs (or the outputs), each once a tensor connects it to the
    matched ones.
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
    """For each axis of a place's tensor, a mask of positions that are matched already.

    Such positions belong to no waiting group, except for the place itself.
    """
    masks = [torch.ones(each, dtype=torch.bool) for each in matching.a[place.tensor].shape]
    for number in waiting:
        for other in matching.groups[number].places:
            if other.tensor == place.tensor and other is not place:
                masks[other.axis][other.positions.flatten()] = False
    return masks


def _is_joined(matching: _Matching, number: int, waiting: Sequence[int]) -> bool:
    """Whether one of the group's matrices has entries that only this group can still move."""
    for place in matching.groups[number].places:
        masks = _in_place(matching, place, waiting)
        own = masks.pop(place.axis)[place.positions.flatten()]
        if masks and own.all() and all(mask.any() for mask in masks):
            return True
    return False


def _invariant_features(
    matching: _Matching, number: int, waiting: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Rows (size, m) for A's and B's units: matched entries as they are, the others sorted."""
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
    """The entries of each unit at one place, (size, entries)."""
    return tensor.movedim(place.axis, 0)[place.positions.to(tensor.device)].flatten(1)


def _descend(matching: _Matching, order: random.Random) -> None:
    """Match one group at a time with the others fixed, until none moves."""
    names = [[place.tensor for place in group.places] for group in matching.groups]
    waiting = set(range(len(names)))
    for _ in range(_MOST_SWEEPS):
        numbers = sorted(waiting)
        order.shuffle(numbers)
        for number in numbers:
            waiting.discard(number)
            if _improve(matching, number):
                # For groups that share a tensor with this one, B has changed.
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
    # If the group has a tensor twice (a layer from a residual stream to itself), the similarity
    # holds one side fixed, so the step may be too long.
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


def _assignment() -> Callable[..., Any]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise SharpError(
            "aligning needs SciPy (for assignment problems), which is not installed",
            "pip install 'sharpcli[align]'",
        ) from error
    return linear_sum_assignment  # type: ignore[no-any-return]  # SciPy is untyped
