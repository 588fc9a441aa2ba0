"""The gradient of a step that is taken more than once: of the same function each time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sharpcli.runtime.randomness import random_states

__all__ = ["taken_again"]


def taken_again(gradient: Callable[[], Tensor], model: nn.Module) -> Callable[[], Tensor]:
    """A `gradient` of one batch that SAM and line searches take again at other weights.

    Every pass drops what the first one dropped out. Buffers, such as the statistics of batch
    normalisation, are those after the first pass, at the weights of the step.
    """
    rewind: Callable[[], None] | None = None

    def taken() -> Tensor:
        nonlocal rewind
        if rewind is None:
            rewind = random_states()
            return gradient()
        kept = [(each, each.clone()) for each in model.buffers()]
        rewind()
        loss = gradient()
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
        return loss

    return taken
