"""Trainings that take their steps together: their weights are rows of one matrix.

Each has the order of examples, the rates and the hyperparameters that it has by itself. Only the
rounding of products of matrices may differ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.documents.checkpoints import TrainingCurves
from sharpcli.errors import SharpError
from sharpcli.objective.rows import Rows
from sharpcli.objective.trees import leaves
from sharpcli.tasks import Task
from sharpcli.training.loop import EVALUATION_BATCH
from sharpcli.training.order import Order, Pace
from sharpcli.training.outcome import not_finite
from sharpcli.training.same_bits import LANES, operation
from sharpcli.training.schedules import parse_schedule
from sharpcli.training.stacked_layers import LayeredPass, layers_of
from sharpcli.training.stacked_notes import StackedNotes
from sharpcli.training.stacked_optimizers import StackedOptimizer, column
from sharpcli.training.stacked_passes import NotTogetherError, VmapPass
from sharpcli.training.statistics import normalisations, recompute
from sharpcli.training.train_settings import TrainSettings

__all__ = ["Stack"]

_CLIPPED = 1e-6  # added to the norm, as torch.nn.utils.clip_grads_with_norm_ does


class Stack:
    """Trainings of one architecture, class of optimizer, batch size and number of steps.

    `members` are the numbers of those that go on: one whose loss is not finite is dropped, and its
    error is in `diverged`.

    Args:
        task: the loss, and how a model is called.
        settings: of each training.
        models: the initial model of each.
        rows: the training data, the same for all.

    Raises:
        NotTogetherError: for data or parameters that cannot be stacked.
    """

    def __init__(
        self, task: Task, settings: Sequence[TrainSettings], models: Sequence[nn.Module], rows: Rows
    ) -> None:
        self._task, self._settings, self._models, self._rows = task, settings, models, rows
        if not rows.sliceable or not all(isinstance(each, Tensor) for each in leaves(rows.batch)):
            raise NotTogetherError("the data are no tensors with a row for each example")
        trained = {k: p for k, p in models[0].named_parameters() if p.requires_grad}
        kinds = {each.dtype for each in trained.values()}
        if kinds != {torch.get_default_dtype()}:
            raise NotTogetherError("the parameters have several types")
        self._shapes = {name: each.shape for name, each in trained.items()}
        states = [_tensors(model) for model in models]
        if any([*each] != [*states[0]] for each in states):
            raise NotTogetherError("the networks differ")
        self._weights = torch.zeros(len(models), sum(map(_room, self._shapes.values())))
        for name, part in zip(trained, _split(self._weights, self._shapes), strict=True):
            part.copy_(torch.stack([each[name] for each in states]))
        self._fixed = {
            name: torch.stack([each[name] for each in states])
            for name in states[0]
            if name not in trained
        }
        self._layers = layers_of(models[0], task, rows)
        self.members = list(range(len(models)))
        self.diverged: dict[int, SharpError] = {}
        self.steps = 0
        self._pace = Pace(settings[0], rows.count)
        first = settings[0]
        self._orders = [Order(rows.count, each.seed, first.fixed_batch) for each in settings]
        self._shuffled, self._position = torch.zeros(0, 0, dtype=torch.int64), 0
        self._optimizer = StackedOptimizer(settings)
        self._averages = self._weights.clone() if first.ema is not None else None
        self._notes = StackedNotes(lambda losses: self._pass.mean_losses(losses))
        specs = dict.fromkeys(each.schedule for each in settings if each.schedule is not None)
        self._schedules = {spec: parse_schedule(spec) for spec in specs}
        self._view()

    @property
    def epoch(self) -> int:
        """The epochs that were begun; 0 where no training is left."""
        return self._orders[0].epoch if self._orders else 0

    @property
    def epoch_ended(self) -> bool:
        """Whether the epoch has no examples left."""
        return self._position >= self._shuffled.shape[1]

    @property
    def ended(self) -> bool:
        """Whether there is no step left."""
        settings = self._settings[0]
        last = self.epoch_ended and self.epoch == settings.epochs and self.steps > 0
        return not self.members or last or self.steps == settings.steps

    @property
    def by_layers(self) -> bool:
        """Whether products of matrices are those of one by one, in a stack."""
        return self._layers is not None

    def gradients(self, chosen: Tensor) -> list[Tensor]:
        """The gradients of each training on the same examples; a list of (runs, …)."""
        self._pass.gradients(chosen.expand(len(self.members), -1))
        return self._gradient_views

    def step(self) -> None:
        """Take a step of every training."""
        chosen = self._next()
        losses = self._pass.gradients(chosen)
        if not math.isfinite(losses.sum().item()):
            losses = self._drop(losses)
        if self.members:
            self._update(losses, self._rates(), chosen.shape[1])
            self.steps += 1

    def model(self, member: int) -> nn.Module:
        """The model of a training, with the weights that are evaluated and saved."""
        row, model = self.members.index(member), self._models[member]
        weights = self._weights if self._averages is None else self._averages
        values = dict(zip(self._shapes, _split(weights, self._shapes), strict=True)) | self._fixed
        with torch.no_grad():
            for name, tensor in _tensors(model).items():
                tensor.copy_(values[name][row])
        layers = [] if self._averages is None else normalisations(model.train())
        if layers:
            predict = functools.partial(self._task.predict, model)
            recompute(model, layers, self._rows, predict, EVALUATION_BATCH)
        return model

    def curves(self, member: int) -> TrainingCurves:
        """What is noted of a training's steps."""
        return self._notes.curves(self.members.index(member))

    def state(self) -> dict[str, Any]:
        """All that the steps to come depend on."""
        return {
            "steps": self.steps,
            "weights": self._weights,
            "fixed": self._fixed,
            "averages": self._averages,
            "memory": self._optimizer.memory,
            "orders": [each.state() for each in self._orders],
            "position": self._position,
            "notes": self._notes.state(),
        }

    def restore(self, state: dict[str, Any], rows: Sequence[int]) -> None:
        """Go on where `state` was taken; `rows` are those of these trainings in it."""
        self.steps, self._position = state["steps"], state["position"]
        self._weights, self._fixed = state["weights"], state["fixed"]
        self._averages = state["averages"]
        self._optimizer.memory, self._optimizer.taken = state["memory"], self.steps
        self._notes.restore(state["notes"])
        chosen = torch.tensor(rows)
        self._choose(chosen)
        for order, row in zip(self._orders, rows, strict=True):
            order.restore({**state["orders"][row], "position": 0})
        if self.epoch:  # each has taken its epoch at once
            self._shuffled = torch.stack([each.take_all() for each in self._orders])
        self._view()

    def _next(self) -> Tensor:
        """The examples of every training's next batch, (runs, size)."""
        if self.epoch_ended:
            self._shuffled = torch.stack([each.take_all() for each in self._orders])
            self._position = 0
        first, size = self._position, self._pace.batch_size(self.steps)
        if size >= self._rows.count and not first:
            # In the order of the data, as `Order.take` gives them.
            self._position = self._shuffled.shape[1]
            return torch.arange(self._rows.count).expand(len(self.members), -1)
        chosen = self._shuffled[:, first : first + size]
        self._position += chosen.shape[1]
        return chosen

    def _rates(self) -> list[float]:
        at = {spec: each.at(self.steps) for spec, each in self._schedules.items()}
        chosen = (self._settings[member] for member in self.members)
        return [
            rate if each.schedule is None else at[each.schedule]
            for each, rate in zip(chosen, self._constant, strict=True)
        ]

    def _update(self, losses: Tensor, rates: Sequence[float], size: int) -> None:
        gradient = self._gradient
        clipped = self._settings[0].clip_norm is not None
        norms = None
        if clipped or self._notes.wants_norm(self.steps):
            norms = self._norms()
        if self._notes.wants(self.steps):
            self._notes.add(self.steps, losses, rates, size, norms)
        if clipped and norms is not None:
            clips = [self._settings[member].clip_norm for member in self.members]
            most = torch.tensor(clips, dtype=norms.dtype)
            gradient.mul_((most / (norms + _CLIPPED)).clamp_(max=1).unsqueeze(1))
        self._optimizer.step(self._weights, gradient, rates)
        if self._averages is not None:
            shares = [1 - (self._settings[member].ema or 0.0) for member in self.members]
            self._averages.lerp_(self._weights, column(tuple(shares), gradient.dtype))

    def _norms(self) -> Tensor:
        """The norm of each run's gradient."""
        for each in self._take_norms:
            each()
        return self._norm.clone()

    def _drop(self, losses: Tensor) -> Tensor:
        """Go on without the trainings whose loss is not finite; the others' losses."""
        values = self._pass.mean_losses(losses).tolist()
        bad = [row for row, value in enumerate(values) if not math.isfinite(value)]
        if not bad:  # only the sum of all is out of range
            return losses
        for row in bad:
            member = self.members[row]
            self.diverged[member] = not_finite(
                self._task, self._settings[member], self._rows, values[row], self.steps + 1
            )
        kept = torch.tensor([row for row in range(len(values)) if row not in bad], dtype=torch.long)
        gradient = self._gradient[kept]
        self._keep(kept)
        if self.members:
            self._gradient.copy_(gradient)
        return losses[kept]

    def leave(self, members: Sequence[int]) -> None:
        """Go on without these trainings."""
        rows = [row for row, member in enumerate(self.members) if member not in members]
        self._keep(torch.tensor(rows, dtype=torch.long))

    def _keep(self, rows: Tensor) -> None:
        self.members = [self.members[row] for row in rows.tolist()]
        self._orders = [self._orders[row] for row in rows.tolist()]
        self._shuffled = self._shuffled[rows]
        self._optimizer.keep(rows)
        self._choose(rows)
        if self.members:
            self._view()

    def _choose(self, rows: Tensor) -> None:
        """Take these rows of all that is remembered."""
        self._weights = self._weights[rows]
        self._fixed = {name: each[rows] for name, each in self._fixed.items()}
        if self._averages is not None:
            self._averages = self._averages[rows]
        self._optimizer.memory = {k: each[rows] for k, each in self._optimizer.memory.items()}
        self._notes.keep(rows)

    def _view(self) -> None:
        """Views of the parameters and of their gradients, and all that works on these."""
        self._gradient = torch.zeros_like(self._weights)
        self._gradient_views = _split(self._gradient, self._shapes)
        weights = dict(zip(self._shapes, _split(self._weights, self._shapes), strict=True))
        gradients = dict(zip(self._shapes, self._gradient_views, strict=True))
        self._pass: LayeredPass | VmapPass
        if self._layers is not None:
            self._pass = LayeredPass(self._layers, weights, gradients, self._rows)
        else:
            model, fixed = self._models[0], self._fixed
            self._pass = VmapPass(model, self._task, weights, gradients, fixed, self._rows)
        self._constant = [self._settings[member].step_size or 0.0 for member in self.members]
        # As the norm of one training is taken: of the norms of its tensors.
        parts = self._gradient.new_zeros(len(self._weights), len(self._shapes))
        self._norm = self._gradient.new_zeros(len(self._weights))
        self._take_norms = [
            operation("norm", _norms, _norm, into, each.flatten(1))
            for into, each in zip(parts.unbind(1), self._gradient_views, strict=True)
        ]
        self._take_norms.append(operation("norm", _norms, _norm, self._norm, parts))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers by name, each once."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


def _norms(out: Tensor, matrix: Tensor) -> Callable[[], object]:
    return functools.partial(torch.linalg.vector_norm, matrix, dim=1, out=out)


def _norm(row: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(row)
    return norm


def _room(shape: torch.Size) -> int:
    """Numbers that a tensor takes of a row: each begins where torch would begin one of its own."""
    return -(-shape.numel() // LANES) * LANES


def _split(matrix: Tensor, shapes: dict[str, torch.Size]) -> list[Tensor]:
    """Views of a matrix (runs, n), one for each tensor: (runs, …)."""
    parts = torch.split(matrix, [*map(_room, shapes.values())], dim=1)
    return [
        part[:, : shape.numel()].view(-1, *shape)
        for part, shape in zip(parts, shapes.values(), strict=True)
    ]
