"""The batches' losses, checked without a step that waits for the device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BEHIND", "Losses"]

BEHIND = 16  # losses on a GPU that are read together: a wait of some 20 µs in so many steps


class Losses:
    """Raises for the first loss that is not finite: on the CPU at once, elsewhere some steps later.

    What keeps or shows the weights calls `read` before. Then no weights after such a loss are kept.

    Args:
        error: what to raise, from the loss and its step.

    `last` is the loss of the last step, read or not.
    """

    def __init__(self, error: Callable[[float, int], Exception]) -> None:
        self._error = error
        self._unread: list[tuple[int, Tensor]] = []
        self.last: Tensor | float = math.nan

    def add(self, step: int, loss: Tensor) -> None:
        """Take the loss of a step, which is counted from 1."""
        self.last = loss.detach()
        if loss.device.type == "cpu":
            self._check(step, loss.item())
            return
        self._unread.append((step, loss.detach()))
        if len(self._unread) >= BEHIND:
            self.read()

    def read(self) -> None:
        """Check all losses so far."""
        if not self._unread:
            return
        values = torch.stack([loss for _, loss in self._unread]).tolist()
        steps = [step for step, _ in self._unread]
        self._unread.clear()
        for step, value in zip(steps, values, strict=True):
            self._check(step, value)

    def _check(self, step: int, value: float) -> None:
        if not math.isfinite(value):
            raise self._error(value, step)
