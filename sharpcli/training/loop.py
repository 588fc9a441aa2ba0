"""The one training loop: on data held in memory, repeatable from a seed."""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import SharpError, setting
from sharpcli.objective.checks import MEND_DATA, check_deterministic, check_finite
from sharpcli.objective.coupling import check_coupling, coupling_named
from sharpcli.objective.network import Network, give_shapes
from sharpcli.objective.objective import Objective
from sharpcli.objective.passes import check_pass, some_rows
from sharpcli.objective.reading import read_rows
from sharpcli.objective.rows import Rows
from sharpcli.runtime.progress import Progress, silent
from sharpcli.runtime.randomness import global_random_state_kept
from sharpcli.tasks import Task
from sharpcli.training.build import at_evaluated_weights, take_step
from sharpcli.training.optimizers import TrainSettings

__all__ = ["Trained", "train"]

EVALUATION_BATCH = 1024  # bounds memory only; the loss does not depend on it


@dataclass(frozen=True)
class Trained:
    """A trained model's tensors (on the CPU), and how it went.

    `train_loss` is the mean loss over all training data in eval mode, without weight decay.
    `reached` says whether it is at most `until_loss` (True where none was asked for).
    """

    tensors: dict[str, Tensor]
    train_loss: float
    epochs: int
    steps: int
    reached: bool


def train(task: Task, settings: TrainSettings, progress: Progress = silent) -> Trained:
    """Train the task's model from its initial weights, on the CPU, in torch's default dtype.

    The same settings and seed give the same tensors on one machine; the global random state is
    left as it was. Raises `SharpError` where the loss is not finite, naming the step, and for a
    loss that cannot be measured: a mean over the batch, or one whose examples are coupled (unless
    by batches of `fixed_batch`).
    """
    with global_random_state_kept():
        # Weights, dropout and batches each follow the seed; the order of the batches has its own
        # generator, so that it does not depend on how many numbers the model draws.
        torch.manual_seed(settings.seed)
        random.seed(settings.seed)
        cpu, dtype = torch.device("cpu"), torch.get_default_dtype()
        data = task.data("train")
        rows = read_rows(data, name=f"train data of {task.name}", collate=task.collate)
        rows = rows.to(cpu, dtype).with_fixed_batch(settings.fixed_batch)
        model = task.model()
        give_shapes(model, task, rows)
        model = model.to(cpu, dtype)
        trainable = [p for p in model.parameters() if p.requires_grad]
        if not trainable:
            raise SharpError(
                f"{task.name}: the model has no parameters to train", "see model() in the task"
            )
        network = Network(model, task, device=cpu, dtype=dtype)

        def objective() -> tuple[Objective, Tensor]:
            tensors = model.state_dict()
            fixed = network.fixed(tensors)
            own = Objective(network, rows, fixed, batch_size=EVALUATION_BATCH)
            return own, network.flatten(tensors)

        def loss_over_all() -> float:
            own, theta = objective()
            return own.loss(theta)

        untrained, theta = objective()
        with coupling_named(untrained, theta):
            check_pass(network, model, model.state_dict(), some_rows(rows, settings.seed))
            check_deterministic(untrained, theta)
            check_coupling({"train": untrained}, theta, seed=settings.seed)
        optimizer = settings.kind.build(trainable, settings)
        order = torch.Generator().manual_seed(settings.seed)
        steps, first_loss = 0, loss_over_all()
        check_finite(untrained, first_loss, theta)
        for epoch in range(1, settings.epochs + 1):
            model.train()
            shuffled = torch.randperm(rows.count, generator=order)
            if settings.fixed_batch is not None and rows.count > settings.fixed_batch:
                shuffled = shuffled[: rows.count - rows.count % settings.fixed_batch]
            for chosen in torch.split(shuffled, settings.batch_size):
                steps += 1
                batch = rows.take(chosen).batch
                loss_of_batch = functools.partial(untrained.mean_loss_of, model, batch, len(chosen))
                loss = loss_of_batch()
                value = loss.item()
                if not math.isfinite(value):
                    raise _not_finite(task, rows, value, steps, settings)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                take_step(optimizer, loss_of_batch, loss)
            with at_evaluated_weights(optimizer):
                train_loss = loss_over_all()
            if not math.isfinite(train_loss):
                raise _not_finite(task, rows, train_loss, steps, settings)
            progress(*_how_far(settings, epoch, first_loss, train_loss))
            reached = settings.until_loss is None or train_loss <= settings.until_loss
            if reached and settings.until_loss is not None:
                break
        with at_evaluated_weights(optimizer):
            tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return Trained(tensors, train_loss, epoch, steps, reached)


def _how_far(settings: TrainSettings, epoch: int, first: float, loss: float) -> tuple[int, int]:
    """How much is done, of how much: epochs, or percent where a loss ends the training.

    On the way to a loss, the logarithm of the loss goes down about evenly.
    """
    goal = settings.until_loss
    if goal is None or not loss < first or goal >= first:
        return epoch, settings.epochs
    share = math.log(first / loss) / math.log(first / goal) if loss > 0 else 1.0
    return min(100, round(100 * max(share, epoch / settings.epochs))), 100


def _not_finite(
    task: Task, rows: Rows, loss: float, step: int, settings: TrainSettings
) -> SharpError:
    said = f"{task.name}: the training loss is {loss} at step {step}"
    if bad := rows.not_finite():
        return SharpError(f"{said}: {bad}", MEND_DATA)
    rate = "" if settings.step_size is None else f" ({setting('lr')} is {settings.step_size:g})"
    return SharpError(said, f"lower the learning rate{rate}")
