"""What a training notes of its steps: at most `MOST` of them, evenly spaced."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharpcli.documents.checkpoints import TrainingCurves

__all__ = ["MOST", "Recorder"]

MOST = 2000  # steps that are kept: more than a print tells apart


@dataclass(frozen=True)
class _Point:
    step: int
    loss: float
    lr: float | None
    batch_size: int
    gradient_norm: Tensor | float  # a tensor until it is asked for: reading it waits for a GPU


class Recorder:
    """Notes every step at first. Where there are `MOST`, every second one is dropped again.

    Then only every second step is noted, and so on; the first step always stays.
    """

    def __init__(self) -> None:
        self._stride = 1
        self._points: list[_Point] = []

    def wants(self, step: int) -> bool:
        """Whether this step, from 0, is to be noted."""
        return step % self._stride == 0

    def add(self, step: int, loss: float, lr: float | None, batch_size: int, norm: Tensor) -> None:
        """Note a step, from 0: the batch's loss and gradient before the update, and its rate."""
        self._points.append(_Point(step, loss, lr, batch_size, norm.detach()))
        if len(self._points) >= MOST:
            del self._points[1::2]
            self._stride *= 2

    def curves(self) -> TrainingCurves:
        """All that is noted; updates count from 1."""
        points = self._points
        norms = [float(each.gradient_norm) for each in points]
        return TrainingCurves(
            step=[each.step + 1 for each in points],
            loss=[each.loss for each in points],
            lr=[math.nan if each.lr is None else each.lr for each in points],
            batch_size=[each.batch_size for each in points],
            gradient_norm=norms,
        )

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from."""
        points = [
            (p.step, p.loss, p.lr, p.batch_size, float(p.gradient_norm)) for p in self._points
        ]
        return {"stride": self._stride, "points": points}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._stride = state["stride"]
        self._points = [_Point(*point) for point in state["points"]]
