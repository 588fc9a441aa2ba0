"""One update of the weights: the rate, the gradient, its norm, the optimizer, the average."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sharpcli.training.build import at_evaluated_weights, take_step, tensors_together
from sharpcli.training.order import Pace
from sharpcli.training.train_settings import TrainSettings

__all__ = ["Stepper"]


class Stepper:
    """Takes the steps of a training over `parameters`.

    `norm` is the gradient's norm at the last step, before clipping; None where it was not needed.
    """

    def __init__(self, settings: TrainSettings, parameters: Sequence[Tensor], pace: Pace) -> None:
        self._settings, self._pace, self._parameters = settings, pace, list(parameters)
        self.optimizer = settings.kind.build(self._parameters, settings)
        tensors_together(self.optimizer)
        if hasattr(self.optimizer, "train"):  # schedule-free ones begin in evaluation
            self.optimizer.train()
        self._shares = self._shares_of_rate()
        self.averages: list[Tensor] | None = None
        self.averaged = 0  # weights that an equal average is over
        if settings.ema is not None:
            self.averages = [each.detach().clone() for each in self._parameters]
        self.norm: Tensor | None = None

    def step(self, step: int, gradient: Callable[[], Tensor], *, with_norm: bool = False) -> Tensor:
        """Take a step, from 0; the loss of its batch.

        `gradient` puts the gradient of the batch into the parameters and gives the loss.
        """
        if self._pace.changes_rate:
            rate = self._pace.rate(step)
            for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
                group["lr"] = rate * share
        loss = gradient()
        clip = self._settings.clip_norm
        self.norm = None
        if with_norm or clip is not None:
            self.norm = self._norm_and_clip()
        take_step(self.optimizer, gradient if clip is None else self._clipped(gradient), loss)
        if self.averages is not None and self._settings.ema is not None:
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self._parameters, 1 - self._settings.ema)
        return loss

    def _norm_and_clip(self) -> Tensor:
        """The gradient's norm before it is clipped."""
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        with torch.no_grad():
            norm = _total_norm(gradients)
        if self._settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._settings.clip_norm, norm)
        return norm

    def _clipped(self, gradient: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The gradient as it is taken again within a step, clipped as well."""

        def clipped() -> Tensor:
            loss = gradient()
            self._norm_and_clip()
            return loss

        return clipped

    def average(self) -> None:
        """Take the present weights into the equal average of all that were taken so far."""
        self.averaged += 1
        if self.averages is None:
            self.averages = [each.detach().clone() for each in self._parameters]
            return
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self._parameters, 1 / self.averaged)

    def clear_gradients(self) -> None:
        """Drop the gradients, as `Optimizer.zero_grad` does with more ceremony."""
        for each in self._parameters:
            each.grad = None

    @property
    def rate(self) -> float | None:
        """The learning rate of the last step; None where the optimizer has none."""
        rate = self.optimizer.param_groups[0].get("lr")
        return None if rate is None else float(rate)

    @contextlib.contextmanager
    def at_evaluated_weights(self) -> Iterator[None]:
        """While active, the model has the weights that are evaluated and saved."""
        with at_evaluated_weights(self.optimizer), torch.no_grad():
            if self.averages is not None:
                trained = [each.clone() for each in self._parameters]
                torch._foreach_copy_(self._parameters, self.averages)
            yield
            if self.averages is not None:
                torch._foreach_copy_(self._parameters, trained)

    def _shares_of_rate(self) -> list[float]:
        """Each group's rate as a share of the learning rate: some groups have one of their own."""
        base = self._settings.step_size
        groups = self.optimizer.param_groups
        return [group["lr"] / base if base and group.get("lr") != base else 1.0 for group in groups]


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """As `torch.nn.utils.get_total_norm`, which takes twice the time for a small network."""
    norms = torch.stack(torch._foreach_norm(gradients))
    norm: Tensor = torch.linalg.vector_norm(norms)
    return norm
