"""Nested batches, whatever holds their tensors."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sharpcli.objective.rows import Rows
from sharpcli.objective.trees import leaves, map_leaves, named_leaves

Pair = namedtuple("Pair", "x y")
X, Y = torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([0, 1, 2])


@dataclass(frozen=True)
class Record:
    x: torch.Tensor
    rest: Any


BATCHES = {
    "a tensor": (X, ["the inputs"]),
    "a pair": ((X, Y), ["the inputs", "the targets"]),
    "a named pair": (Pair(X, Y), ["the inputs", "the targets"]),
    "three": ([X, Y, ["a", "b", "c"]], ["item 0", "item 1", "item 2"]),
    "a mapping": (UserDict(x=X, y=(X, Y)), ["'x'", "'y'[0]", "'y'[1]"]),
    "in order": (OrderedDict(y=Y, x=X), ["'y'", "'x'"]),
    "an object": (Record(X, {"y": Y}), ["x", "rest['y']"]),
    "objects inside": ({"r": Record(X, (Y, ["a"]))}, ["'r'.x", "'r'.rest[0]", "'r'.rest[1]"]),
}


@pytest.mark.parametrize("batch, names", BATCHES.values(), ids=BATCHES)
def test_leaves_are_what_is_mapped_in_its_order(batch, names):
    mapped = []
    map_leaves(batch, lambda leaf: mapped.append(leaf))
    found = list(leaves(batch))
    assert len(found) == len(mapped)
    assert all(one is other for one, other in zip(found, mapped, strict=True))
    assert [name for name, _ in named_leaves(batch)] == names


@pytest.mark.parametrize("batch, names", BATCHES.values(), ids=BATCHES)
def test_nan_is_found_wherever_it_is(batch, names):
    said = Rows(batch, 3, 3).not_finite()
    first = next(name for name, leaf in named_leaves(batch) if leaf is X)
    assert said == f"the data hold NaN in row 1 of {first}"


def test_a_frozen_object_keeps_its_class():
    made = map_leaves(Record(X, Y), lambda leaf: leaf[:2])
    assert type(made) is Record
    assert len(made.x) == len(made.rest) == 2
    assert len(replace(made, x=X).x) == 3
