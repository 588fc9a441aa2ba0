"""The largest microbatch: limited by memory, and by speed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from sharpcli.runtime.memory import available_memory, bytes_saved, computed_sizes

if TYPE_CHECKING:
    from sharpcli.objective.objective import Objective

__all__ = ["bytes_an_example", "most_in_memory"]

# Activation bytes of one microbatch. On a CPU it is large enough for convolutions and attention to
# run at full speed (10 MB cost ResNet-20 and a GPT 1.4 times the seconds of 40), and small enough
# for the memory to keep up (at 92 MB a LeNet took 1.5 times as long). At 40 MB two MLPs, LeNet,
# ResNet-20 and the GPT were within 7 % of their best of 2 to 150 MB (two threads). A GPU needs
# enough work to hide its launches.
_MICROBATCH_BYTES = {"cpu": 40 * 2**20, "cuda": 2**30, "mps": 2**28}
# Each microbatch also writes a gradient as large as the parameters, which is slow in a CPU's
# memory. There it saves at least this many times the bytes of the parameters. GPT-2 (124 million)
# took 9.7 s a product in batches of 81 MB, 7.0 s of 163, 6.3 s of 326 and 5.6 s of 652.
_MICROBATCH_PARAMETERS = 2
# Activations take at most this fraction of the memory: derivatives need several times as much.
_MICROBATCH_SHARE = 8
# Examples whose saved activations are counted to choose the microbatch size.
_SIZING_EXAMPLES = 8
_AT_ONCE = 2  # an operation's input and output


def most_in_memory(objective: Objective) -> int:
    """The largest microbatch that would be chosen without a requested batch size."""
    device = objective.network.device
    target = _MICROBATCH_BYTES.get(device.type, _MICROBATCH_BYTES["cpu"])
    if device.type == "cpu":
        parameters = objective.size * objective.network.dtype.itemsize
        target = max(target, _MICROBATCH_PARAMETERS * parameters)
    free = available_memory(device)
    share = min(free, free if objective.memory is None else objective.memory) / _MICROBATCH_SHARE
    return max(1, int(min(target, share) / max(objective.saved_bytes, 1)))


def bytes_an_example(objective: Objective) -> float:
    """Bytes that one example's forward pass takes in a microbatch, measured on a few.

    They are those kept for the backward pass. Before the first measured parameter nothing is kept,
    so that where parameters are fixed, an operation's input and output are the least.
    """
    network, few = objective.network, objective.rows.typical(_SIZING_EXAMPLES)
    parameters = objective.leaves(torch.zeros(objective.size, dtype=network.dtype))
    held = (*parameters, *(objective.fixed[name] for name in network.fixed_parameters))
    own = {p.untyped_storage().data_ptr() for p in held}

    def work(count: int) -> Callable[[], Any]:
        rows = few.take(torch.arange(count))  # copies: a view would count as the full data
        return lambda: objective.sum_and_weight(parameters, rows.batch, count)

    kept = bytes_saved(work(few.count), own) / few.count
    if not network.fixed_parameters:
        return kept
    fewer = few.count // 2  # what takes as much for fewer examples does not come with an example
    less: Iterable[int] = computed_sizes(work(fewer)) if fewer else itertools.repeat(0)
    sizes = zip(computed_sizes(work(few.count)), less, strict=False)
    largest = max((size - other for size, other in sizes), default=0)
    return max(kept, _AT_ONCE * largest / (few.count - fewer))
