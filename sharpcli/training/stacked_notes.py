"""What a stack of trainings notes of its steps: as much as a `Recorder` notes of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.checkpoints import TrainingCurves
from sharpcli.training.curves import MOST

__all__ = ["StackedNotes"]


@dataclass(frozen=True)
class _Point:
    step: int
    losses: Tensor  # (runs,)
    rates: list[float]
    batch_size: int
    norms: Tensor  # (runs,)


class StackedNotes:
    """Notes the steps that a `Recorder` does."""

    def __init__(self) -> None:
        self._stride = 1
        self._points: list[_Point] = []

    def wants(self, step: int) -> bool:
        """Whether this step, from 0, is to be noted."""
        return step % self._stride == 0

    def add(
        self, step: int, losses: Tensor, rates: Sequence[float], batch_size: int, norms: Tensor
    ) -> None:
        """Note a step, from 0."""
        self._points.append(_Point(step, losses, [*rates], batch_size, norms))
        if len(self._points) >= MOST:
            del self._points[1::2]
            self._stride *= 2

    def keep(self, kept: Tensor) -> None:
        """Go on with these rows only."""
        rows = kept.tolist()
        self._points = [
            replace(
                each,
                losses=each.losses[kept],
                rates=[each.rates[row] for row in rows],
                norms=each.norms[kept],
            )
            for each in self._points
        ]

    def curves(self, row: int) -> TrainingCurves:
        """All that is noted of one training; updates count from 1."""
        points = self._points
        return TrainingCurves(
            step=[each.step + 1 for each in points],
            loss=_numbers([each.losses for each in points], row),
            lr=[each.rates[row] for each in points],
            batch_size=[each.batch_size for each in points],
            gradient_norm=_numbers([each.norms for each in points], row),
        )

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from."""
        if not self._points:
            return {"stride": self._stride, "points": [[]] * 5}
        points = self._points
        columns = [
            [each.step for each in points],
            torch.stack([each.losses for each in points]),
            [each.rates for each in points],
            [each.batch_size for each in points],
            torch.stack([each.norms for each in points]),
        ]
        return {"stride": self._stride, "points": columns}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._stride = state["stride"]
        self._points = [_Point(*each) for each in zip(*state["points"], strict=True)]


def _numbers(tensors: list[Tensor], row: int) -> list[float]:
    numbers: list[float] = torch.stack(tensors)[:, row].tolist() if tensors else []
    return numbers
