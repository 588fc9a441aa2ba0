"""What a training notes of its steps: at most `MOST` of them, evenly spaced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.checkpoints import TrainingCurves

__all__ = ["MOST", "Recorder", "has_norm"]

MOST = 2000  # steps that are kept: more than a print tells apart
# A norm takes a twentieth of a small network's step. So each of the first steps has one, and then
# every 16th step.
_FIRST_NORMS, _NORM_EVERY = 64, 16


@dataclass(frozen=True)
class _Point:
    step: int
    loss: Tensor | float  # a tensor until it is asked for: reading it waits for a GPU
    lr: float | None
    batch_size: int
    gradient_norm: Tensor | float | None


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

    def wants_norm(self, step: int) -> bool:
        """Whether the gradient's norm is to be noted too."""
        return self.wants(step) and has_norm(step)

    def add(
        self,
        step: int,
        loss: Tensor | float,
        lr: float | None,
        batch_size: int,
        norm: Tensor | None,
    ) -> None:
        """Note a step, from 0: the batch's loss and gradient before the update, and its rate."""
        loss = loss.detach() if isinstance(loss, Tensor) else loss
        norm = None if norm is None else norm.detach()
        self._points.append(_Point(step, loss, lr, batch_size, norm))
        if len(self._points) >= MOST:
            del self._points[1::2]
            self._stride *= 2

    def curves(self) -> TrainingCurves:
        """All that is noted; updates count from 1."""
        points = self._points
        return TrainingCurves(
            step=[each.step + 1 for each in points],
            loss=_numbers([each.loss for each in points]),
            lr=[math.nan if each.lr is None else each.lr for each in points],
            batch_size=[each.batch_size for each in points],
            gradient_norm=[
                math.nan if each is None else each
                for each in _numbers([each.gradient_norm for each in points])
            ],
        )

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from."""
        points = self._points
        losses = _numbers([each.loss for each in points])
        norms = _numbers([each.gradient_norm for each in points])
        kept = [
            (each.step, loss, each.lr, each.batch_size, norm)
            for each, loss, norm in zip(points, losses, norms, strict=True)
        ]
        return {"stride": self._stride, "points": kept}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._stride = state["stride"]
        self._points = [_Point(*point) for point in state["points"]]


def has_norm(step: int) -> bool:
    """Whether the gradient's norm is noted of a step, from 0, that is noted."""
    return step < _FIRST_NORMS or step % _NORM_EVERY == 0


def _numbers(values: Sequence[Tensor | float | None]) -> list[Any]:
    """The values with tensors read, all at once."""
    tensors = [each for each in values if isinstance(each, Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(read) if isinstance(each, Tensor) else each for each in values]
