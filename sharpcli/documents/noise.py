"""The noise scale of SGD.

Source: Smith, Kindermans, Ying & Le 2018, "Don't decay the learning rate, increase the batch size".
"""

from __future__ import annotations

__all__ = ["noise_scale"]


def noise_scale(lr: float, batch_size: float, examples: int, momentum: float = 0.0) -> float:
    """The noise scale: g = η(N/B − 1), with momentum ηN/(B(1−m)).

    >>> noise_scale(0.1, 100, 10_000)
    9.9
    """
    if momentum:
        return lr * examples / (batch_size * (1 - momentum))
    return lr * (examples / batch_size - 1)
