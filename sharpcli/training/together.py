"""Many small trainings at once, where a timing says that it is faster than one after another."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError, counted
from sharpcli.objective.objective import Objective
from sharpcli.objective.shapes import give_shapes
from sharpcli.runtime import interruption
from sharpcli.runtime.memory import is_out_of_memory
from sharpcli.runtime.progress import Progress, silent
from sharpcli.runtime.randomness import global_random_state_kept, seed_all
from sharpcli.tasks import Task
from sharpcli.training.loop import EVALUATION_BATCH, Run
from sharpcli.training.outcome import Trained, not_finite
from sharpcli.training.schedules import parse_schedule
from sharpcli.training.stack import Stack
from sharpcli.training.stacked_layers import layers_of
from sharpcli.training.stacked_optimizers import OPTIONS
from sharpcli.training.stacked_passes import NotTogetherError
from sharpcli.training.state import StateFile, description
from sharpcli.training.step_loss import differentiable, mean_loss
from sharpcli.training.train_settings import TrainSettings

__all__ = ["OTHER_BITS", "Keeping", "alike", "train_together"]

# Settings that may differ between the runs of a stack, and those that it takes but all share.
_OWN = ("seed", "lr", "momentum", "betas", "weight_decay", "schedule", "optimizer_options")
_SHARED = (
    "optimizer",
    "batch_size",
    "epochs",
    "steps",
    "batch_schedule",
    "fixed_batch",
    "until_loss",
)
_SOME = ("clip_norm", "ema")  # given for all or for none

_MOST_PROBED = 8  # steps by which both ways are timed
_FEWEST = 100  # steps for which it is worth to look
_SHARE_PROBED = 50  # and at most one in so many of all steps, but never fewer than 3
_CLOSE = 1e-5  # of a weight, relative to all, after the probed steps
_CLEARLY = 1.25  # times as long: the first steps show it
_SHOWN = 32  # steps between two reports of progress

OTHER_BITS = "their weights would differ by rounding"
_SLOWER = "that is faster"


@dataclasses.dataclass(frozen=True)
class Keeping:
    """The file of a stack's state.

    Attributes:
        file: the file.
        runs: the settings of each run that the stack had at first, by name.
        names: the names of the runs that are trained now, perhaps fewer.
    """

    file: StateFile
    runs: Mapping[str, TrainSettings]
    names: Sequence[str]


def alike(settings: TrainSettings) -> Hashable | None:
    """What the settings of runs that can be trained together share; None for one that cannot."""
    if settings.optimizer not in OPTIONS:
        return None
    for field in dataclasses.fields(TrainSettings):
        if field.name in (*_OWN, *_SHARED, *_SOME):
            continue
        if getattr(settings, field.name) != field.default:
            return None
    options = settings.optimizer_options
    if any(name not in OPTIONS[settings.optimizer] for name in options):
        return None
    if settings.schedule is not None and parse_schedule(settings.schedule).observes:
        return None
    shared = tuple(getattr(settings, name) for name in _SHARED)
    some = tuple(getattr(settings, name) is None for name in _SOME)
    return shared, some, options.get("nesterov")


def train_together(
    task: Task,
    settings: Sequence[TrainSettings],
    ended: Callable[[int, Trained | SharpError], None],
    progress: Progress = silent,
    *,
    exact: bool = False,
    keeping: Keeping | None = None,
    refused: Callable[[str], object] = lambda _: None,
) -> list[int]:
    """Train runs that are `alike` together, each to the weights that it gets by itself.

    The first steps of one run are taken by itself too, and the weights must agree: to 1e-5 of their
    norm, or, if `exact`, bit for bit, for each size of a batch. Runs of a model that draws random
    numbers (dropout), or that cannot be stacked, are left to the caller, and so are all where the
    first steps are taken faster one by one.

    Args:
        task: the model, the data and the loss.
        settings: of each run.
        ended: called with the number of a run and its outcome, a diverged run as soon as it is.
        progress: called with what is done.
        exact: only if the weights have the same bits as one by one.
        keeping: where the state of all is kept every few seconds, and goes on from.
        refused: called with the reason, in a few words, where runs are left to the caller.

    Returns:
        The numbers of the runs that have not ended: they are to be trained one by one.

    Raises:
        RuntimeError: that an interrupt was turned into.

    Cost: the steps of the stack; one by one, a few steps of one run.
    """
    left = dict.fromkeys(range(len(settings)))

    def end(member: int, outcome: Trained | SharpError) -> None:
        ended(member, outcome)
        del left[member]

    with global_random_state_kept():
        try:
            _Together(task, settings, end, exact, keeping).train(progress)
        except NotTogetherError as error:
            refused(str(error))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            refused("the memory is too small for all at once")
    return [*left]


class _Together:
    def __init__(
        self,
        task: Task,
        settings: Sequence[TrainSettings],
        end: Callable[[int, Trained | SharpError], None],
        exact: bool,
        keeping: Keeping | None,
    ) -> None:
        self._task, self._settings, self._end, self._exact = task, settings, end, exact
        self._keeping = keeping
        if settings[0].epochs is None:
            self._check_worth(settings[0].steps or 0)
        # The one of the lowest rate shows how long a step takes by itself: it goes furthest.
        rates = [each.step_size or 0.0 for each in settings]
        self._alone = rates.index(min(rates))
        seed_all(settings[self._alone].seed)
        with _said_one_by_one():
            if exact and layers_of(task.model(), task) is None:  # before the data are read
                raise NotTogetherError(OTHER_BITS)
            seed_all(settings[self._alone].seed)
            self._run = Run(task, settings[self._alone], torch.device("cpu"), None, (), None)
            self._drawn = _random_state()
            self._check_worth(self._all_steps())
            self._run.begin()
        self._numbers = [*range(len(settings))]

    def train(self, progress: Progress) -> None:
        """Train them, or raise `NotTogetherError`."""
        with _said_one_by_one():
            models = self._models()
        found = self._found()
        chosen = [number for number, each in enumerate(models) if self._begins_finite(number, each)]
        if self._alone not in chosen or len(chosen) < 2:
            raise NotTogetherError("runs have no loss to begin with")
        self._numbers = chosen
        settings = [self._settings[number] for number in chosen]
        stack = Stack(self._task, settings, [models[number] for number in chosen], self._run.rows)
        if found is None or not self._restore(stack, found):
            self._probe(stack)
        while not stack.ended:
            self._step(stack)
            self._write(stack)
            if stack.epoch_ended or stack.steps % _SHOWN == 0:
                progress(*_how_far(stack, settings[0]))
        for member in [*stack.members]:
            reached = self._settings[0].until_loss is None
            self._end(self._numbers[member], self._outcome(stack, member, reached=reached))
        if self._keeping is not None:
            self._keeping.file.remove()

    def _found(self) -> Any:
        """The state that an earlier call left; one of another training is no use."""
        if self._keeping is None:
            return None
        runs = self._keeping.runs.items()
        settings = {name: dataclasses.asdict(each) for name, each in runs}
        about = description(self._task, settings, self._run.rows.digest())
        about |= {"runs": [*self._keeping.runs], "exact": self._exact}
        try:
            return self._keeping.file.begin(about)
        except SharpError:
            return None

    def _restore(self, stack: Stack, found: Any) -> bool:
        """Whether the stack goes on from a state."""
        assert self._keeping is not None, "there is a state"
        names = [self._keeping.names[number] for number in self._numbers]
        if not all(name in found["names"] for name in names):
            return False
        stack.restore(found["stack"], [found["names"].index(name) for name in names])
        return True

    def _write(self, stack: Stack) -> None:
        keeping = self._keeping
        if keeping is None or not keeping.file.due or not stack.members or stack.ended:
            return
        names = [keeping.names[self._numbers[member]] for member in stack.members]
        keeping.file.write({"names": names, "stack": stack.state()})

    def _models(self) -> list[nn.Module]:
        """The initial model of each run.

        Raises:
            NotTogetherError: if the data depend on the seed, so that each run has its own.
        """
        dtype = torch.get_default_dtype()
        models, drawn = [], []
        for settings in self._settings:
            seed_all(settings.seed)
            model = self._task.model()
            give_shapes(model, self._task, self._run.rows)
            models.append(model.to(torch.device("cpu"), dtype))
            drawn.append(_random_state())
        # The run's own model was made after the data were read, and perhaps after imports.
        if drawn[self._alone] != self._drawn and self._draws_data():
            raise NotTogetherError("the data depend on the seed")
        mine, same = self._run.model.state_dict(), models[self._alone].state_dict()
        if not all(torch.equal(tensor, same[name]) for name, tensor in mine.items()):
            raise NotTogetherError("the network depends on more than the seed")
        return models

    def _draws_data(self) -> bool:
        """Whether reading the data draws random numbers."""
        before = _random_state()
        self._task.data("train")
        return _random_state() != before

    def _begins_finite(self, number: int, model: nn.Module) -> bool:
        """Whether a run has a loss to begin with; one that has none says so one by one."""
        loss, rows = self._loss(model), self._run.rows
        if not math.isfinite(loss):
            return False
        try:
            type(self._run.pace)(self._settings[number], rows.count).check()
        except SharpError:
            return False
        return True

    def _loss(self, model: nn.Module) -> float:
        """The mean loss over all training data, in eval mode."""
        network, tensors = self._run.network, model.state_dict()
        fixed = network.fixed(tensors)
        objective = Objective(network, self._run.rows, fixed, batch_size=EVALUATION_BATCH)
        return objective.loss(network.flatten(tensors))

    def _probe(self, stack: Stack) -> None:
        """Take the first steps both ways.

        Raises:
            NotTogetherError: if one by one is faster, if it gives other weights, or if the model
                draws random numbers.
        """
        run, member = self._run, self._numbers.index(self._alone)
        run.model.train()
        if self._exact:
            self._check_gradients(stack, member)
        count = max(3, min(_MOST_PROBED, self._all_steps() // _SHARE_PROBED))
        # Both ways take this thread only, whose time does not depend on what else the machine does.
        times: list[tuple[float, float]] = []
        while len(times) < count and not stack.ended:
            before = _random_state()
            started = time.thread_time()
            with _said_one_by_one():
                run.step()
            between = time.thread_time()
            if _random_state() != before:
                raise NotTogetherError("the network draws random numbers")
            begun = time.thread_time()
            self._step(stack)
            times.append((between - started, time.thread_time() - begun))
            # The first step of each way makes what the later ones use.
            alone, stacked = _medians(times[1:] or times)
            if len(times) > 1 and stacked > _CLEARLY * alone * len(stack.members):
                raise NotTogetherError(_SLOWER)
        if member not in stack.members:
            raise NotTogetherError("the run with the lowest rate diverges")
        with run.at_evaluated_weights():
            _check_same(run.model, stack.model(member), exact=self._exact)
        if stacked > alone * len(stack.members):
            raise NotTogetherError(_SLOWER)

    def _check_gradients(self, stack: Stack, member: int) -> None:
        """Refuse gradients of other bits than one by one, for each size that a batch has."""
        run, settings = self._run, self._settings[0]
        if not stack.by_layers or settings.batch_schedule is not None:
            raise NotTogetherError(OTHER_BITS)
        count, size = run.rows.count, min(settings.batch_size, run.rows.count)
        for each in {size, size if settings.fixed_batch else count % size or size}:
            chosen = torch.arange(each)
            batch = run.rows.batch_of(chosen)
            loss = differentiable(mean_loss(run.of_steps, run.model, batch, each))
            parameters = [p for p in run.model.parameters() if p.requires_grad]
            alone = torch.autograd.grad(loss, parameters)
            together = stack.gradients(chosen)
            if not all(torch.equal(a, b[member]) for a, b in zip(alone, together, strict=True)):
                raise NotTogetherError(OTHER_BITS)

    def _check_worth(self, steps: int) -> None:
        if steps < _FEWEST:
            raise NotTogetherError(f"{counted(steps, 'step')} each are too few to try")

    def _all_steps(self) -> int:
        settings = self._settings[0]
        by_epochs = -(-self._run.rows.count // settings.first_batch) * (settings.epochs or 0)
        return min(each for each in (settings.steps, by_epochs) if each)

    def _step(self, stack: Stack) -> None:
        """A step of all, and the end of those that have diverged."""
        stack.step()
        for member in [*stack.diverged]:
            self._end(self._numbers[member], stack.diverged.pop(member))
        self._end_those_at_the_loss(stack)

    def _end_those_at_the_loss(self, stack: Stack) -> None:
        """End the runs whose loss on all data is down at `until_loss`."""
        goal = self._settings[0].until_loss
        if goal is None or not (stack.epoch_ended or stack.ended):
            return
        # One whose loss is not a number is not above the goal either.
        done = [each for each in stack.members if not self._loss(stack.model(each)) > goal]
        for member in done:
            self._end(self._numbers[member], self._outcome(stack, member, reached=True))
        if done:
            stack.leave(done)

    def _outcome(self, stack: Stack, member: int, *, reached: bool) -> Trained | SharpError:
        model = stack.model(member)
        loss, settings = self._loss(model), self._settings[self._numbers[member]]
        if not math.isfinite(loss):
            return not_finite(self._task, settings, self._run.rows, loss, stack.steps)
        state = model.state_dict()
        tensors = {name: tensor.detach().clone() for name, tensor in state.items()}
        return Trained(tensors, loss, stack.epoch, stack.steps, reached, stack.curves(member))


@contextlib.contextmanager
def _said_one_by_one() -> Iterator[None]:
    """Leave what cannot be trained to one by one, where its error is shown with the run's name."""
    try:
        yield
    except (SharpError, RuntimeError) as error:  # as the task's code and torch raise them
        if interruption.caused(error):
            raise
        raise NotTogetherError("one of them cannot be trained") from error


def _random_state() -> tuple[bytes, object]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def _check_same(one: nn.Module, other: nn.Module, *, exact: bool) -> None:
    """Refuse a stack whose weights or buffers are not those of the run by itself."""
    for name, tensor in one.state_dict().items():
        same = other.state_dict()[name]
        if not (torch.equal(tensor, same) if exact else _close(tensor, same)):
            raise NotTogetherError(OTHER_BITS if exact else "their weights would differ")


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    off = torch.linalg.vector_norm((one - other).double())
    return bool(off <= _CLOSE * torch.linalg.vector_norm(one.double()))


def _medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    one, other = (sorted(each)[len(pairs) // 2] for each in zip(*pairs, strict=True))
    return one, other


def _how_far(stack: Stack, settings: TrainSettings) -> tuple[int, int]:
    parts = [(stack.epoch, settings.epochs), (stack.steps, settings.steps)]
    limits = [(done, most) for done, most in parts if most is not None]
    return max(limits, key=lambda part: part[0] / part[1])
