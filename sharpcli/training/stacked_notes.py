"""What a stack of trainings notes of its steps: as much as a `Recorder` notes of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.checkpoints import TrainingCurves
from sharpcli.training.curves import MOST, has_norm

__all__ = ["StackedNotes"]

_READ = 32  # steps whose losses are made together: one by one they would take longer than a step


@dataclass
class _Point:
    step: int
    losses: Tensor  # (runs,), or more until they are read
    rates: list[float]
    batch_size: int
    norms: Tensor | None  # (runs,)


class StackedNotes:
    """Notes the steps that a `Recorder` does.

    `mean_losses` makes losses (points, runs) of those that were added, (points, runs, …).
    """

    def __init__(self, mean_losses: Callable[[Tensor], Tensor]) -> None:
        self._mean_losses = mean_losses
        self._stride = 1
        self._points: list[_Point] = []
        self._unread: list[_Point] = []
        self._columns: tuple[list[list[float]], list[list[float]]] | None = None

    def wants(self, step: int) -> bool:
        """Whether this step, from 0, is to be noted."""
        return step % self._stride == 0

    def wants_norm(self, step: int) -> bool:
        """Whether the gradients' norms are to be noted too."""
        return self.wants(step) and has_norm(step)

    def add(
        self,
        step: int,
        losses: Tensor,
        rates: Sequence[float],
        batch_size: int,
        norms: Tensor | None,
    ) -> None:
        """Note a step, from 0."""
        self._columns = None
        self._points.append(_Point(step, losses, [*rates], batch_size, norms))
        self._unread.append(self._points[-1])
        if len(self._unread) >= _READ:
            self._read()
        if len(self._points) >= MOST:
            del self._points[1::2]
            self._stride *= 2

    def _read(self) -> None:
        """Make the mean losses of the steps that have none yet."""
        for shape in {each.losses.shape for each in self._unread}:
            same = [each for each in self._unread if each.losses.shape == shape]
            means = self._mean_losses(torch.stack([each.losses for each in same]))
            for point, losses in zip(same, means, strict=True):
                point.losses = losses
        self._unread.clear()

    def keep(self, kept: Tensor) -> None:
        """Go on with these rows only."""
        self._columns = None
        self._read()
        rows = kept.tolist()
        self._points = [
            replace(
                each,
                losses=each.losses[kept],
                rates=[each.rates[row] for row in rows],
                norms=None if each.norms is None else each.norms[kept],
            )
            for each in self._points
        ]

    def curves(self, row: int) -> TrainingCurves:
        """All that is noted of one training; updates count from 1."""
        self._read()
        points = self._points
        if self._columns is None:
            norms = [each.norms for each in points if each.norms is not None]
            self._columns = _columns([each.losses for each in points]), _columns(norms)
        losses, norms_known = (columns[row] if columns else [] for columns in self._columns)
        known = iter(norms_known)
        return TrainingCurves(
            step=[each.step + 1 for each in points],
            loss=losses,
            lr=[each.rates[row] for each in points],
            batch_size=[each.batch_size for each in points],
            gradient_norm=[math.nan if each.norms is None else next(known) for each in points],
        )

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from."""
        self._read()
        points = self._points
        if not points:
            return {"stride": self._stride, "points": [[]] * 5}
        none = torch.full_like(points[0].losses, math.nan)
        columns = [
            [each.step for each in points],
            torch.stack([each.losses for each in points]),
            [each.rates for each in points],
            [each.batch_size for each in points],
            torch.stack([none if each.norms is None else each.norms for each in points]),
        ]
        return {"stride": self._stride, "points": columns}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._stride = state["stride"]
        self._points = [_Point(*each) for each in zip(*state["points"], strict=True)]


def _columns(tensors: list[Tensor]) -> list[list[float]]:
    """The numbers of each training, of tensors (runs,)."""
    columns: list[list[float]] = torch.stack(tensors).T.tolist() if tensors else []
    return columns
