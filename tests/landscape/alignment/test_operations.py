from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import task, vectors
from permutable import case
from torch import Tensor, nn
from torch.nn import functional


class Between(nn.Module):
    """An operation between two layers, on twelve hidden units."""

    def __init__(self, operation: Callable[..., Tensor], outputs: int) -> None:
        super().__init__()
        self.first, self.operation = nn.Linear(5, 12), operation
        self.extra = nn.Parameter(torch.randn(12))
        self.last = nn.Linear(outputs, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.operation(self.first(inputs), self.extra))


def in_place(hidden: Tensor, extra: Tensor) -> Tensor:
    """Writes through a view what is read later: the first half becomes twice the second."""
    copy = hidden * 1
    copy[:, :6] = 2 * hidden[:, 6:]
    return copy


def zeroed(hidden: Tensor, extra: Tensor) -> Tensor:
    copy = hidden.clone()
    copy[:, :5].zero_()
    return copy


def elsewhere(hidden: Tensor, extra: Tensor) -> Tensor:
    """A view made before its base is written to sees what is written."""
    copy = hidden * 1
    view = copy.view(-1, 12)
    copy.copy_(hidden.flip(1))
    return view


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs**2


def halves(hidden: Tensor, extra: Tensor) -> Tensor:
    return torch.stack(hidden.chunk(2, 1)).sum(0)


def table(hidden: Tensor, extra: Tensor) -> Tensor:
    """As images of 3 x 4."""
    return functional.max_pool2d(hidden.view(-1, 1, 3, 4), 2, stride=1).flatten(1)


def added(hidden: Tensor, number: int) -> Tensor:
    return hidden + torch.arange(number, dtype=hidden.dtype)


# What is done, how many units it leaves, and the groups' sizes that are left of twelve units.
OPERATIONS: dict[str, tuple[Callable[..., Any], int, list[int]]] = {
    "gelu": (lambda h, e: functional.gelu(h) * e, 12, [12]),
    "hardswish": (lambda h, e: functional.hardswish(h + e), 12, [12]),
    "prelu": (functional.prelu, 12, [12]),
    "log_sigmoid": (lambda h, e: functional.logsigmoid(h), 12, [12]),
    "masked": (lambda h, e: torch.where(h > e, h, torch.zeros_like(h)), 12, [12]),
    "filled": (lambda h, e: h.masked_fill(h < 0, 0.5) + torch.full((12,), 2.0), 12, [12]),
    "softmax": (lambda h, e: h.softmax(1) + h.log_softmax(1), 12, [12]),
    "clone": (lambda h, e: h.clone().contiguous().to(torch.float64), 12, [12]),
    "dropout": (lambda h, e: functional.dropout(h, 0.5, training=False), 12, [12]),
    "rms_norm": (lambda h, e: functional.rms_norm(h, [12], e), 12, [12]),
    "instance_norm": (lambda h, e: functional.instance_norm(h[:, None])[:, 0], 12, [12]),
    "group_norm": (lambda h, e: functional.group_norm(h, 3, e), 12, [3, 4]),
    "glu": (lambda h, e: functional.glu(h, 1), 6, [6]),
    "transposed": (lambda h, e: (h.T * e[:, None]).permute(1, 0), 12, [12]),
    "einsum": (lambda h, e: torch.einsum("nh,h->nh", h, e), 12, [12]),
    "outer": (lambda h, e: h @ torch.diag_embed(e), 12, []),
    "matrix_vector": (lambda h, e: (h @ e)[:, None].expand(-1, 4), 4, [4, 12]),
    "dot": (lambda h, e: h * torch.dot(e, e), 12, [12]),
    "reduced": (lambda h, e: h * h.sum(1, keepdim=True) * h.std(1).amax() * e.norm(), 12, [12]),
    "statistics": (lambda h, e: (h - h.mean(-1, True)) / h.var(-1, keepdim=True), 12, [12]),
    "heads": (lambda h, e: h.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12), 12, [3, 4]),
    "twice": (lambda h, e: h.view(-1, 3, 4).mT.reshape(-1, 2, 6).mT.flatten(1), 12, [2, 2, 3]),
    "refined": (lambda h, e: h.view(-1, 3, 4).mT.reshape(-1, 2, 6).flatten(1), 12, [2, 2, 3]),
    "uneven_views": (lambda h, e: h.view(-1, 3, 4).mT.reshape(-1, 3, 4).mT.flatten(1), 12, []),
    "chunks": (lambda h, e: torch.cat([p.tanh() for p in h.chunk(3, 1)], 1), 12, [4, 4, 4]),
    "halves": (halves, 6, [6]),
    "exchanged": (lambda h, e: h + torch.cat([h[:, 4:], h[:, :4]], 1), 12, [4]),
    "uneven_cuts": (lambda h, e: torch.cat([h[:, 5:], h[:, :5]], 1) * e, 12, [5, 7]),
    "turned": (lambda h, e: h + torch.cat([h[:, 5:], h[:, :5]], 1), 12, []),
    "beside_itself": (lambda h, e: torch.cat([h, h.relu()], 1), 24, [12]),
    "repeated": (lambda h, e: h.repeat(1, 2), 24, [2, 12]),
    "interleaved": (lambda h, e: h.repeat_interleave(2, 1), 24, [2, 12]),
    "with_zeros": (lambda h, e: functional.pad(h, (1, 2)), 15, [2, 12]),
    "cropped": (lambda h, e: functional.pad(h, (-1, 0)), 11, []),
    "selected": (lambda h, e: h.view(-1, 3, 4)[:, 1], 4, [4]),
    "unbound": (lambda h, e: sum(h.view(-1, 3, 4).unbind(1)), 4, [4]),
    "stepped": (lambda h, e: h[:, ::2], 6, []),
    "cumulated": (lambda h, e: h.cumsum(1), 12, []),
    "flipped": (lambda h, e: h.flip(1), 12, []),
    "rolled": (lambda h, e: h.roll(1, 1), 12, []),
    "triangle": (lambda h, e: h.tril(), 12, []),
    "largest": (lambda h, e: h * h.max(1, keepdim=True).values, 12, []),
    "places": (lambda h, e: h * h.argmax(1, keepdim=True), 12, []),
    "pooled": (table, 6, []),
    "constant": (lambda h, e: added(h, 12), 12, []),
    "sorted": (lambda h, e: h.sort(1).values, 12, []),
    "indexed": (lambda h, e: h[:, torch.tensor([3, 1, 2])], 3, []),
    "in_place": (in_place, 12, [6]),
    "in_place_units": (lambda h, e: (h * 1).add_(e).relu_().mul_(2), 12, [12]),
    "in_place_norm": (lambda h, e: (h * 1).sub_(h.mean(1, keepdim=True)).clamp_(-1, 1), 12, [12]),
    "written_over": (lambda h, e: torch.empty_like(h).copy_(h), 12, [12]),
    "zeroed": (zeroed, 12, [5, 7]),
    "transposed_in_place": (lambda h, e: (h * 1).t_().mul_(e[:, None]).t_(), 12, [12]),
    "written_from_elsewhere": (elsewhere, 12, []),
    "random": (lambda h, e: h * (torch.rand_like(h) > -1), 12, []),
    "custom_function": (lambda h, e: Squared.apply(h), 12, [12]),
    "squared": (lambda h, e: (h[:, :, None] * h[:, None, :]).flatten(1), 144, [12]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_permuting_what_an_operation_leaves_free_changes_nothing(name):
    operation, outputs, sizes = OPERATIONS[name]
    found = case(task(lambda: Between(operation, outputs), vectors(5, 3)))
    # The extra parameter may be free of its own.
    groups = [g for g in found.structure.groups if {p.tensor for p in g.places} != {"extra"}]
    assert sorted(group.size for group in groups) == sizes
    expected = found.outputs(found.tensors)
    for seed in range(3):
        moved, _ = found.permuted(found.tensors, seed)
        torch.testing.assert_close(found.outputs(moved), expected, rtol=1e-10, atol=1e-10)


def test_an_unknown_operation_pins_and_is_named():
    found = case(task(lambda: Between(lambda h, e: h.sort(1).values, 12), vectors(5, 3)))
    assert found.structure.groups == ()
    assert found.structure.without_rule == ("aten.sort.default",)


def test_an_operation_with_a_rule_is_not_named():
    found = case(task(lambda: Between(lambda h, e: h.flip(1), 12), vectors(5, 3)))
    assert found.structure.without_rule == ()
