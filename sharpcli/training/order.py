"""The order in which a training takes its examples, and how many at each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import UsageError, counted, setting
from sharpcli.training.schedules import parse_schedule
from sharpcli.training.train_settings import TrainSettings

__all__ = ["Order", "Pace"]


class Order:
    """A new order of all examples in each epoch, from a random generator of its own.

    It does not depend on how many random numbers the model draws. A batch of all examples has them
    in the order of the data. With a fixed batch, examples that fill none are left out of the epoch.
    The order is kept on `device`, where the data are: so no step has to copy a part of it.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        fixed_batch: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._kept = count
        if fixed_batch is not None and count > fixed_batch:
            self._kept -= count % fixed_batch
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)
        self.epoch, self._position = 0, self._kept
        self._before = self._generator.get_state()
        self._shuffled = torch.zeros(0, dtype=torch.int64)
        self._all = torch.arange(count, device=self._device)

    def take(self, size: int) -> Tensor:
        """The next examples, at most `size` and no more than the epoch has left."""
        self._begin_epoch()
        if size >= self._count and not self._position:
            # The mean of all has no order, and so no rounding that follows the seed.
            self._position = self._kept
            return self._all
        first, self._position = self._position, min(self._position + size, self._kept)
        return self._shuffled[first : self._position]

    def take_all(self) -> Tensor:
        """All that the epoch has, shuffled; of a new epoch if this one has ended."""
        self._begin_epoch()
        self._position = self._kept
        return self._shuffled[: self._kept]

    def _begin_epoch(self) -> None:
        """Shuffle anew where no examples are left."""
        if self._position >= self._kept:
            self._before = self._generator.get_state()
            self._shuffle()
            self.epoch, self._position = self.epoch + 1, 0

    @property
    def ended(self) -> bool:
        """Whether the epoch has no examples left."""
        return self._position >= self._kept

    @property
    def passes(self) -> float:
        """Passes over the examples so far, a part of one included."""
        return max(0, self.epoch - 1) + self._position / self._kept if self.epoch else 0.0

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from."""
        return {"epoch": self.epoch, "position": self._position, "before": self._before}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._before = state["before"]
        self._generator.set_state(self._before)
        if state["epoch"]:
            self._shuffle()
        self.epoch, self._position = state["epoch"], state["position"]

    def _shuffle(self) -> None:
        order = torch.randperm(self._count, generator=self._generator)
        self._shuffled = order.to(self._device)


class Pace:
    """The learning rate and the batch size of each step, by the settings' schedules.

    `examples` is how many there are: no batch has more.
    """

    def __init__(self, settings: TrainSettings, examples: int) -> None:
        self._settings, self._examples = settings, examples
        specs = settings.schedule, settings.batch_schedule
        self._rates, self._sizes = (parse_schedule(spec) if spec else None for spec in specs)
        self._loss, self._seen = 0.0, 0  # of the epoch so far

    @property
    def changes_rate(self) -> bool:
        """Whether the learning rate follows a schedule."""
        return bool(self._rates)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0; 0 where a warm-up begins or a decay ends."""
        assert self._rates, "only where changes_rate"
        return self._rates.at(step)

    @property
    def observes(self) -> bool:
        """Whether the learning rate depends on the losses."""
        return self._rates is not None and self._rates.observes

    def observe(self, loss: float, count: int, steps: int, *, epoch_ended: bool) -> None:
        """Take in the mean loss of a batch of `count` examples, after so many steps.

        The schedule is given the mean over the epoch where it ends.
        """
        assert self._rates, "only where observes"
        self._loss, self._seen = self._loss + loss * count, self._seen + count
        if epoch_ended:
            self._rates.observe(self._loss / self._seen, steps)
            self._loss, self._seen = 0.0, 0

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from."""
        observed = self._rates.state() if self._rates is not None and self.observes else []
        return {"observed": observed, "loss": self._loss, "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        if self._rates is not None and self.observes:
            self._rates.restore(state["observed"])
        self._loss, self._seen = state["loss"], state["seen"]

    def batch_size(self, step: int) -> int:
        """How many examples a step takes; raises `UsageError` for more than there are."""
        if not self._sizes:
            return self._settings.batch_size
        size = self._sizes.at(step)
        if not 0 < size <= self._examples:
            raise UsageError(
                f"{setting('batch_schedule', self._sizes.spec)}: the batch size is {size:g} at "
                f"step {step}, of {counted(self._examples, 'example')}",
                "a batch has at least one example, and no more than there are",
            )
        return max(1, round(size))

    def check(self, most: int = 10_000) -> None:
        """Refuse a schedule that leaves its range within the steps that are sure to be taken."""
        if self._rates is None and self._sizes is None:
            return
        settings = self._settings
        steps = settings.steps or most
        epoch = 0
        for step in range(min(steps, most)):
            epoch += self.batch_size(step)
            if self.changes_rate:
                self.rate(step)
            if settings.epochs is not None and epoch >= settings.epochs * self._examples:
                break
