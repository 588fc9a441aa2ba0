"""Operations on stacks of matrices that round as the same operation on each matrix alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

__all__ = ["LANES", "operation"]

Together = Callable[..., Callable[[], object]]
Alone = Callable[..., Tensor]

# Torch's memory begins at multiples of 64 bytes, and where it begins can decide by which code
# numbers are taken. A matrix that begins at a multiple of so many numbers is taken as alone.
LANES = 16

_alike: dict[Hashable, bool] = {}


def operation(
    name: Hashable, together: Together, alone: Alone, out: Tensor, *stacks: Tensor
) -> Callable[[], object]:
    """What writes an operation's result on `stacks` to `out`, each with the runs as first axis.

    It is `together` where this gives the same bits as `alone` run by run, and else the latter.

    Args:
        name: of the operation, with all that it depends on but the tensors.
        together: called with `out` and `stacks`, it gives what writes the result. So views of
            these are made once, and not at each step.
        alone: called with a row of each of `stacks`, in memory of its own; gives a row of `out`.
        out: where the result goes.
        stacks: the arguments.
    """
    if _rounds_alike(name, together, alone, out, *stacks):
        return together(out, *stacks)
    return functools.partial(_one_by_one, alone, out, *stacks)


def _one_by_one(alone: Alone, out: Tensor, *stacks: Tensor) -> None:
    for run, row in enumerate(out):
        row.copy_(alone(*(stack[run].clone() for stack in stacks)))


def _rounds_alike(
    name: Hashable, together: Together, alone: Alone, out: Tensor, *stacks: Tensor
) -> bool:
    """Whether two ways give the same bits for random numbers in this layout.

    A BLAS chooses its kernel, and so the order of its sums, by the layout and not by the numbers.
    """
    layout = tuple((each.shape, each.stride(), each.dtype) for each in (out, *stacks))
    if (name, layout) not in _alike:
        generator = torch.Generator().manual_seed(0)
        result, *others = (_random_as(each, generator) for each in (out, *stacks))
        wanted = result.clone()
        _one_by_one(alone, wanted, *others)
        together(result, *others)()
        _alike[name, layout] = torch.equal(result, wanted)
    return _alike[name, layout]


def _random_as(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in the layout of another tensor."""
    room = 1 + sum((n - 1) * step for n, step in zip(like.shape, like.stride(), strict=True))
    numbers = torch.randn(room, generator=generator, dtype=like.dtype)
    return numbers.as_strided(like.shape, like.stride())
