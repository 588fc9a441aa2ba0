"""How many examples a microbatch takes at most: by the memory, and by what is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sharpcli.runtime.memory import available_memory, bytes_saved

if TYPE_CHECKING:
    from sharpcli.objective.objective import Objective

__all__ = ["bytes_an_example", "most_in_memory"]

# Activation bytes of one microbatch. On a CPU large enough that convolutions and attention run at
# full speed (10 MB cost ResNet-20 and a GPT 1.4 times the seconds of 40), small enough for the
# memory to keep up: at 92 MB a LeNet took 1.5 times as long. At 40 MB two MLPs, LeNet, ResNet-20
# and the GPT were within 7 % of their best of 2 to 150 MB (two threads). A GPU wants enough work to
# hide its launches.
_MICROBATCH_BYTES = {"cpu": 40 * 2**20, "cuda": 2**30, "mps": 2**28}
# Each microbatch also writes a gradient as large as the parameters, which a CPU's memory is slow
# at: there it saves this many times as many bytes as they have, at least. GPT-2's 124 million took
# 9.7 s a product in batches of 81 MB, 7.0 s of 163, 6.3 s of 326 and 5.6 s of 652.
_MICROBATCH_PARAMETERS = 2
# Activations are at most this part of the memory: derivatives take several times as much.
_MICROBATCH_SHARE = 8
# Examples whose saved activations are counted to size microbatches.
_SIZING_EXAMPLES = 8


def most_in_memory(objective: Objective) -> int:
    """The most examples that a microbatch would have if no batch size were asked for."""
    device = objective.network.device
    target = _MICROBATCH_BYTES.get(device.type, _MICROBATCH_BYTES["cpu"])
    if device.type == "cpu":
        parameters = objective.size * objective.network.dtype.itemsize
        target = max(target, _MICROBATCH_PARAMETERS * parameters)
    free = available_memory(device)
    share = min(free, free if objective.memory is None else objective.memory) / _MICROBATCH_SHARE
    return max(1, int(min(target, share) / max(objective.saved_bytes, 1)))


def bytes_an_example(objective: Objective) -> float:
    """Bytes that one example's forward pass keeps for the backward pass, counted on a few."""
    network, first = objective.network, torch.arange(objective.rows.head(_SIZING_EXAMPLES).count)
    rows = objective.rows.take(first)  # copies: a view would count as all of the data
    parameters = objective.leaves(torch.zeros(objective.size, dtype=network.dtype))
    held = (*parameters, *(objective.fixed[name] for name in network.fixed_parameters))
    own = {p.untyped_storage().data_ptr() for p in held}
    saved = bytes_saved(lambda: objective.sum_and_weight(parameters, rows.batch, rows.count), own)
    return saved / rows.count
