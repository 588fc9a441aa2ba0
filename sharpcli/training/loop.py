"""The training loop: on data in memory, repeatable from a seed."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.checkpoint.own_hooks import stored
from sharpcli.checkpoint.placing import put
from sharpcli.documents.checkpoints import TrainingCurves
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.objective.checks import check_deterministic, check_finite
from sharpcli.objective.coupling import check_coupling, coupling_named
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.passes import check_pass, some_rows
from sharpcli.objective.reading import read_rows
from sharpcli.objective.shapes import give_shapes
from sharpcli.runtime.progress import Latest, Progress, silent
from sharpcli.runtime.randomness import (
    global_random_state_kept,
    random_state,
    restore_random_state,
    seed_all,
)
from sharpcli.tasks import Task
from sharpcli.tasks.float_losses import float_targets, with_float_loss
from sharpcli.training.augmentation import Augmenter
from sharpcli.training.build import repeats
from sharpcli.training.clock import Clock
from sharpcli.training.curves import Recorder
from sharpcli.training.losses import Losses
from sharpcli.training.noise_scale import noise_scale
from sharpcli.training.order import Order, Pace
from sharpcli.training.outcome import Trained, not_finite
from sharpcli.training.precision import autocast, device_of, dtype_of, model_of_device, repeatable
from sharpcli.training.repeated import taken_again
from sharpcli.training.state import StateFile, description, optimizer_state, restore_optimizer
from sharpcli.training.statistics import normalisations, recompute
from sharpcli.training.step_loss import differentiable, loss_sum, mean_loss
from sharpcli.training.stepper import Stepper
from sharpcli.training.train_settings import TrainSettings
from sharpcli.training.warm_start import Init, read_init
from sharpcli.training.watchers import Moment, Watcher

__all__ = ["EVALUATION_BATCH", "Run", "train"]

EVALUATION_BATCH = 1024  # bounds memory only; the loss does not depend on it
_SHOWN = 32  # steps between two reports of progress where steps are counted


def train(
    task: Task,
    settings: TrainSettings,
    progress: Progress = silent,
    state: StateFile | None = None,
    watchers: Sequence[Watcher] = (),
    init: Init | None = None,
    latest: Latest | None = None,
) -> Trained:
    """Train the task's model from its initial weights, or from those of a checkpoint.

    The same settings and seed give the same tensors on one machine. The global random state does
    not change. `SharpError` names the step at which the loss is not finite, and says why a loss
    cannot be measured, an optimizer cannot take a step, or a state belongs to another training.
    `UsageError` names the step at which a schedule leaves its range.

    Args:
        task: the model, the data and the loss.
        settings: how to train.
        progress: called with what is done.
        state: where the training keeps its state every few seconds. A training whose state is
            there goes on from it, and gives the same tensors as one that was never interrupted.
        watchers: look at it between its steps. What `save_every`, `evaluate_every` and `track` ask
            for is theirs to do.
        init: what it starts from, in place of reading `settings.init`. The order of the batches and
            the schedules begin anew.
        latest: gets the loss and the rate of the last step, for whoever shows them.

    Cost: a gradient of the batch a step, and the loss on all data at the end (with `until_loss`
    after each epoch).
    """
    device = device_of(settings)
    with global_random_state_kept(), repeatable(device):
        # Weights, dropout and batches follow the seed. The order of the batches has its own
        # generator, so that it does not depend on how many numbers the model draws.
        seed_all(settings.seed)
        run = Run(task, settings, device, state, watchers, init or read_init(settings))
        if latest is not None:
            latest.text = run.latest
        run.begin()
        return run.trained(progress)


class Run:
    """A training that has begun: the data, the model, and what takes the steps."""

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        device: torch.device,
        file: StateFile | None,
        watchers: Sequence[Watcher],
        init: Init | None,
    ) -> None:
        dtype = dtype_of(settings)
        self.device, self.autocast = device, autocast(settings, device)
        self.task, self.settings, self.file = task, settings, file
        data = task.data("train")
        rows = read_rows(data, name=f"train data of {task.name}", collate=task.collate)
        task = self.task = with_float_loss(task, float_targets(task, rows.split(EVALUATION_BATCH)))
        self.rows = rows.to(device, dtype).with_fixed_batch(settings.fixed_batch)
        model = task.model()
        give_shapes(model, task, self.rows)
        self.model: nn.Module = model.to(device, dtype)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise SharpError(
                f"{task.name}: the model has no parameters to train", "see model() in the task"
            )
        self.init = init
        if init is not None:
            init.give_weights(self.model)
        self.network = Network(self.model, task, device=device, dtype=dtype)
        self.untrained, self.theta = self._objective()
        self.of_steps = self._task_of_steps()
        self.augmenter = Augmenter(task, settings.seed) if settings.augment else None
        self.pace = Pace(settings, self.rows.count)
        self.order = Order(self.rows.count, settings.seed, settings.fixed_batch, device)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.stepper = Stepper(settings, parameters, self.pace)
        if init is not None:
            init.give_memory(self.stepper.optimizer, settings, self.model)
        self.repeats = repeats(self.stepper.optimizer)
        self.recorder = Recorder()
        self.losses, self.clock = (
            Losses(functools.partial(not_finite, task, settings, self.rows)),
            Clock(),
        )
        self.watchers = watchers
        self.steps, self.first_loss = 0, math.nan

    def begin(self) -> None:
        """Go on from the state that an earlier training left, or check all before the first step.

        Raises `SharpError` for what cannot be trained, and for the state of another training.
        """
        found = None
        if self.file is not None:
            about = description(self.task, asdict(self.settings), self.rows.digest())
            about |= {} if self.init is None else self.init.about
            about["device"] = model_of_device(self.device)
            found = self.file.begin(about, self.device)
        if found is None:
            self._check()
        else:
            self._restore(found)

    def _check(self) -> None:
        """Refuse a model, data and settings that cannot be trained or measured."""
        untrained, theta, seed = self.untrained, self.theta, self.settings.seed
        with coupling_named(untrained, theta):
            tensors = self.model.state_dict()
            check_pass(self.network, self.model, tensors, some_rows(self.rows, seed))
            check_deterministic(untrained, theta)
            check_coupling({"train": untrained}, theta, seed=seed)
        self.first_loss = self._loss()
        check_finite(untrained, self.first_loss, theta)
        self.pace.check()
        self._watch(ended=False)

    def trained(self, progress: Progress) -> Trained:
        """Take all steps."""
        settings, order = self.settings, self.order
        self.model.train()
        self.clock.start(self.clock.seconds)
        reached = settings.until_loss is None
        ended = False
        while not ended:
            self.step()
            ended = self.steps == settings.steps or (order.ended and order.epoch == settings.epochs)
            if (order.ended or ended) and settings.averages_after(order.epoch, self.steps):
                self.stepper.average()
            if (order.ended and settings.until_loss is not None) or ended:
                self.losses.read()
                with self.clock.paused(), self.at_evaluated_weights():
                    loss = self._finite(self._loss())
                self.model.train()
                if settings.until_loss is not None:
                    reached = loss <= settings.until_loss
                    ended |= reached
            self._watch(ended=ended)
            if order.ended or ended or (settings.steps and self.steps % _SHOWN == 0):
                known = loss if settings.until_loss is not None and order.ended else None
                progress(*self._how_far(known))
            if self.file is not None and not ended and self.file.due:
                with self.clock.paused():
                    self.file.write(self._state())
        with self.at_evaluated_weights():
            tensors = stored(self.model)
        problem = None if self.file is None else self.file.problem
        curves = self._curves()
        return Trained(tensors, loss, order.epoch, self.steps, reached, curves, problem=problem)

    def _curves(self) -> TrainingCurves:
        """What was noted of the steps, with the noise scale where the settings ask for it."""
        curves = self.recorder.curves()
        if not self.settings.noise_scale:
            return curves
        momentum = self.settings.kind.values(self.settings).get("momentum") or 0.0
        steps = zip(curves.lr, curves.batch_size, strict=True)
        scales = [noise_scale(lr, size, self.rows.count, momentum) for lr, size in steps]
        return replace(curves, noise_scale=scales)

    def step(self) -> None:
        """Take one step."""
        chosen = self.order.take(self.pace.batch_size(self.steps))
        if self.augmenter is not None:
            self.augmenter.next_step()
        gradient: Callable[[], Tensor] = functools.partial(self._gradient, chosen)
        if self.repeats:
            gradient = taken_again(gradient, self.model)
        with_norm = self.recorder.wants_norm(self.steps)
        loss = self.stepper.step(self.steps, gradient, with_norm=with_norm)
        if self.recorder.wants(self.steps):
            rate, norm = self.stepper.rate, self.stepper.norm
            self.recorder.add(self.steps, loss, rate, len(chosen), norm)
        self.steps += 1
        if self.pace.observes:
            ended = self.order.ended
            self.pace.observe(loss.item(), len(chosen), self.steps, epoch_ended=ended)

    def _watch(self, *, ended: bool) -> None:
        """Let those look that want to."""
        epoch_ended = self.steps > 0 and self.order.ended
        wanting = [
            each
            for each in self.watchers
            if each.wants(self.steps, epoch_ended=epoch_ended, ended=ended)
        ]
        if not wanting:
            return
        self.losses.read()
        paused, kept = self.clock.paused(), global_random_state_kept()
        with paused, kept, self.at_evaluated_weights():
            moment = Moment(
                self.steps,
                self.order.epoch,
                epoch_ended,
                ended,
                self.model,
                self.network,
                self.rows,
                self.stepper.optimizer,
                self._loss,
                self.order.passes,
                self.clock.seconds,
            )
            for each in wanting:
                each.look(moment)
        self.model.train()

    def _state(self) -> dict[str, Any]:
        """All that the steps to come depend on."""
        self.losses.read()
        averages = self.stepper.averages
        return {
            "steps": self.steps,
            "first_loss": self.first_loss,
            "model": dict(self.model.state_dict()),
            "averages": averages,
            "averaged": self.stepper.averaged,
            "optimizer": optimizer_state(self.stepper.optimizer),
            "order": self.order.state(),
            "pace": self.pace.state(),
            "recorder": self.recorder.state(),
            "watchers": {each.name: each.state() for each in self.watchers},
            "seconds": self.clock.seconds,
            "random": random_state(self.device),
            "augmenter": None if self.augmenter is None else self.augmenter.state(),
        }

    def _restore(self, found: dict[str, Any]) -> None:
        assert self.file is not None, "the state is from there"
        with self.file.understood():
            self._take_up(found)

    def _take_up(self, found: dict[str, Any]) -> None:
        self.steps, self.first_loss = found["steps"], found["first_loss"]
        if not 0 < self.steps < (self.settings.steps or math.inf):
            raise ValueError(f"{self.steps} steps")
        if self.settings.ema is not None and found["averages"] is None:
            raise ValueError("no averages")
        put(self.model, found["model"])
        restore_optimizer(self.stepper.optimizer, found["optimizer"])
        self.stepper.averages, self.stepper.averaged = found["averages"], found["averaged"]
        self.order.restore(found["order"])
        self.pace.restore(found["pace"])
        self.recorder.restore(found["recorder"])
        for each in self.watchers:
            each.restore(found["watchers"][each.name])
        restore_random_state(found["random"], self.device)
        if self.augmenter is not None:
            self.augmenter.restore(found["augmenter"])
        self.clock.start(found["seconds"])

    @contextlib.contextmanager
    def at_evaluated_weights(self) -> Iterator[None]:
        """While active, the model has the weights that are evaluated and saved.

        Averages have statistics of batch normalisation of their own, computed on the way in.
        """
        self.model.train()
        layers = [] if self.stepper.averages is None else normalisations(self.model)
        kept = [(each, each.clone()) for layer in layers for each in layer.buffers()]
        with self.stepper.at_evaluated_weights():
            if layers:
                predict = functools.partial(self.task.predict, self.model)
                recompute(self.model, layers, self.rows, predict, EVALUATION_BATCH)
            yield
            for buffer, before in kept:
                buffer.copy_(before)

    def _gradient(self, chosen: Tensor) -> Tensor:
        """The mean loss of a batch, with its gradient in the parameters."""
        if self.augmenter is not None:
            self.augmenter.again()
        if self.settings.accumulate > 1:
            return self._gradient_in_parts(chosen)
        batch = self._batch(chosen)
        with self.autocast:
            loss = differentiable(mean_loss(self.of_steps, self.model, batch, len(chosen)))
        self.losses.add(self.steps + 1, loss)
        self.stepper.clear_gradients()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    def _gradient_in_parts(self, chosen: Tensor) -> Tensor:
        """The same, by a part of the batch after the other."""
        self.stepper.clear_gradients()
        sums = weights = torch.zeros(())
        for part in torch.chunk(chosen, self.settings.accumulate):
            batch = self._batch(part)
            with self.autocast:
                total, weight = loss_sum(self.of_steps, self.model, batch, len(part))
            differentiable(total).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            sums, weights = sums + total.detach(), weights + weight
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, weights)
        loss = sums / weights
        self.losses.add(self.steps + 1, loss)
        return loss

    def _batch(self, chosen: Tensor) -> Any:
        batch = self.rows.batch_of(chosen)
        return batch if self.augmenter is None else self.augmenter.augmented(batch)

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise not_finite(self.task, self.settings, self.rows, loss, self.steps)
        return loss

    def _objective(self) -> tuple[Objective, Tensor]:
        tensors = self.model.state_dict()
        fixed = self.network.fixed(tensors)
        objective = Objective(self.network, self.rows, fixed, batch_size=EVALUATION_BATCH)
        return objective, self.network.flatten(tensors)

    def _task_of_steps(self) -> Task:
        """The task whose loss the steps follow: with label smoothing, another loss."""
        smoothing, smoothed = self.settings.label_smoothing, self.task.smoothed_loss
        if not smoothing:
            return self.task
        if smoothed is None:
            raise UsageError(
                f"{setting('label_smoothing', smoothing)}: {self.task.name} has a loss of its own, "
                "and only the default cross-entropy can be smoothed by itself",
                "define smoothed_loss(outputs, batch, smoothing) in the task, or leave it out",
            )
        return replace(self.task, loss=lambda out, batch: smoothed(out, batch, smoothing))

    def _loss(self) -> float:
        """The mean loss over all training data, in eval mode."""
        objective, theta = self._objective()
        return objective.loss(theta)

    def latest(self) -> str:
        """The loss of the last step's batch, and its rate."""
        rate = self.stepper.rate
        if not self.steps:
            return ""
        return f"loss {float(self.losses.last):.3g}" + ("" if rate is None else f" · lr {rate:.3g}")

    def _how_far(self, loss: float | None) -> tuple[int, int]:
        """How much is done, of how much: epochs or steps, or percent where a loss is the end.

        On the way to a loss, the logarithm of the loss goes down about evenly. `loss` is the last
        one that is known.
        """
        settings, first = self.settings, self.first_loss
        parts = [(self.order.epoch, settings.epochs), (self.steps, settings.steps)]
        limits = [(done, most) for done, most in parts if most is not None]
        done, most = max(limits, key=lambda part: part[0] / part[1])
        goal = settings.until_loss
        if goal is None or loss is None or not loss < first or goal >= first:
            return done, most
        share = math.log(first / loss) / math.log(first / goal) if loss > 0 else 1.0
        return min(100, round(100 * max(share, done / most))), 100
