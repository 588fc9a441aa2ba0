"""An objective on parts of its examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from sharpcli.objective.objective import Objective

__all__ = ["SHARDS", "part", "shard_indices", "shards", "share_left"]

# Shards for sampling errors: enough for a standard error that is itself accurate to about 20 %;
# twice as many gave no better intervals.
SHARDS = 16


def share_left(objective: Objective) -> float:
    """1 − N/total: the factor on a variance if N are drawn without replacement."""
    rows = objective.rows
    return 1 - rows.count / rows.total


def part(objective: Objective, indices: Tensor, *, alone: bool = False) -> Objective:
    """The objective on some of its examples, for all processes or for this one `alone`."""
    rows = objective.rows.take(indices)
    return Objective(objective.network, rows, objective.fixed, memory=objective.memory, alone=alone)


def shards(objective: Objective, seed: int, count: int = SHARDS) -> Iterator[Objective]:
    """The objective on each of `count` shards of its examples, of equal size up to one example."""
    for indices in shard_indices(objective.rows.count, seed, count):
        yield part(objective, indices)


def shard_indices(examples: int, seed: int, count: int = SHARDS) -> list[Tensor]:
    """The examples of each shard, as `shards` divides them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(examples, generator=generator)
    edges = torch.linspace(0, len(order), count + 1).long().tolist()
    return [order[start:stop] for start, stop in itertools.pairwise(edges)]
