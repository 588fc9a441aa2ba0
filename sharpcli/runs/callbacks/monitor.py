"""Measures of a model that somebody else trains, on a fixed sample, within a budget of time."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.stability import PRECONDITIONED_NAME, PRECONDITIONED_OF_FILES
from sharpcli.errors import SharpError, UsageError, counted
from sharpcli.objective.rows import Rows
from sharpcli.runs.callbacks.budget import Budget
from sharpcli.runs.callbacks.subject import Subject, plain_model
from sharpcli.runs.tracking import Tracker
from sharpcli.runtime.processes import size as processes
from sharpcli.runtime.progress import readable_time
from sharpcli.runtime.randomness import global_random_state_kept
from sharpcli.training.train_settings import TrainSettings
from sharpcli.training.watchers import Moment

__all__ = ["Monitor"]

_log = logging.getLogger("sharpcli")
# The part of the room for each measurement that λ1 may take; the rest is for setting up.
_ROOM = 0.8


class Monitor:
    """Takes measures every so many steps of a training that it does not change.

    Weights, optimizer state, gradients, mode flags and the global random states stay as they are,
    bit for bit. The measures are those of the loss on a fixed sample of the training data, in
    evaluation mode and in float32 (float64 where the model is).

    Args:
        measures: names of measures; "hessian" is λ1 alone.
        every: steps between two measurements.
        share: of the training's time that measuring may take, of which a tenth is kept spare. A
            measurement that would take more waits until a later multiple of `every`; None: no
            limit.
        seconds: for the whole training; None: no limit.
        samples: examples. None: as many as λ1 can be found of in the share, by the time that the
            first `every` steps took, at least 32 and up to 2,048; the logged `examples` says.
        tolerance: of λ1, as a share of it.
        data: a data set or loader, in place of that of the training.
        collate: makes a batch of a list of rows, in place of the loader's.
        loss: returns one loss for each example of (outputs, batch). By default it is the loss that
            the model computes of its `labels`, else cross-entropy.
        predict: returns the outputs of (model, batch).
        seed: of the sample and of random starts.
        prefix: of the names that are logged.
    """

    def __init__(
        self,
        measures: str | Sequence[str] = ("hessian",),
        *,
        every: int = 200,
        share: float | None = 0.1,
        seconds: float | None = None,
        samples: int | None = None,
        tolerance: float = 0.1,
        data: Any = None,
        collate: Callable[[list[Any]], Any] | None = None,
        loss: Callable[[Any, Any], Any] | None = None,
        predict: Callable[[nn.Module, Any], Any] | None = None,
        seed: int = 0,
        prefix: str = "sharpness/",
    ) -> None:
        names = (measures,) if isinstance(measures, str) else tuple(measures)
        self._settings = TrainSettings(
            "adam" if {PRECONDITIONED_NAME, PRECONDITIONED_OF_FILES} & {*names} else "sgd",
            track=names,
            every=every,
            track_samples=samples,
            track_tol=tolerance,
            seed=seed,
        )
        self.every = every
        self._limits = share, seconds
        self._budget = Budget(share, seconds)
        self._given = {"data": data, "collate": collate, "loss": loss, "predict": predict}
        self._prefix = prefix
        self._subject: Subject | None = None
        self._tracker: Tracker | None = None
        self._begun = self._measured = 0
        self._last: int | None = None
        self._expected = 0.0
        self._waited = False

    @property
    def spent(self) -> float:
        """Seconds that measuring has taken, reading its sample included."""
        return self._budget.spent

    @property
    def rows(self) -> Rows | None:
        """The examples that are measured; None before there are any."""
        return self._subject.rows if self._subject is not None and self._tracker else None

    def begin(self, model: nn.Module, loader: Any, step: int = 0, last: int | None = None) -> None:
        """Check on a few rows that the model can be measured; the budget begins now.

        Args:
            model: as it trains.
            loader: the training's own.
            step: the steps that were taken before.
            last: the training's last step, if it is known.

        Raises:
            UsageError: the training runs on several processes.

        A `SharpError` says that its data or its loss are none that can be measured.
        """
        self._budget = Budget(*self._limits)
        self._tracker, self._begun, self._measured, self._waited = None, step, 0, False
        self._last = last
        if processes() > 1:
            raise UsageError(
                f"sharpness during a training: it runs on {processes()} processes",
                "measure its checkpoints instead: sharpcli.measure_checkpoints",
            )
        with self._budget.spending(), global_random_state_kept(), torch.enable_grad():
            self._subject = Subject(
                plain_model(model),
                loader,
                samples=self._settings.track_samples,
                seed=self._settings.seed,
                **self._given,
            )
        self._budget.setup = self._budget.spent
        first = (step // self.every + 1) * self.every
        if last is not None and last < first:
            self._subject = None
            _log.warning(
                "sharpness: nothing is measured: the training ends after step %d, and the first "
                "measurement would be after step %d (every=%d)",
                *(last, first, self.every),
            )

    def due(self, step: int) -> bool:
        """Whether to measure after so many steps; the first time, on how many examples."""
        if self._subject is None or step <= self._begun or step % self.every:
            return False
        if self._tracker is None and not self._set_up(self._subject, step):
            return False
        return self._affordable(self._expected, step)

    def _set_up(self, subject: Subject, step: int) -> bool:
        """Set up what is affordable now; whether that is all, and the sample is chosen."""
        while not subject.ready:
            # The last step of it is only worth its time if a measurement is affordable too.
            if not self._affordable(subject.expected if subject.last else 0.0, step, subject.ahead):
                return False
            try:
                with self._spending(subject), global_random_state_kept(), torch.enable_grad():
                    subject.advance()
            except SharpError as error:
                self._subject = None
                _log.warning("sharpness: nothing is measured: %s", error)
                return False
            self._budget.setup = self._budget.spent
        self._settle(subject, step)
        self._budget.setup = self._budget.spent
        return True

    def _affordable(self, expected: float, step: int, setup: float = 0.0) -> bool:
        """Whether the budget allows a measurement; the first time that it does not, says so."""
        done = 1.0
        if self._last is not None:
            done = min((step - self._begun) / (self._last - self._begun), 1.0)
        if self._budget.allows(expected, done, setup=setup):
            return True
        if not self._waited:
            self._waited = True
            _log.warning(self._too_dear(expected, setup))
        return False

    @contextlib.contextmanager
    def _spending(self, subject: Subject) -> Iterator[None]:
        """Count the time of a block, without what a GPU still has to do for the training."""
        if subject.device.type == "cuda":
            torch.cuda.synchronize(subject.device)
        with self._budget.spending():
            yield

    def _settle(self, subject: Subject, step: int) -> None:
        """Take the largest sample that fits the budget."""
        share = self._budget.planned
        pace = self._budget.training / (step - self._begun)
        room = math.inf
        if share is not None:
            room = share * pace * self.every
            if self._last is not None:
                left = share * pace * (self._last - self._begun) - self._budget.spent
                room = min(room, left / (1 + (self._last - step) // self.every))
        with self._spending(subject), global_random_state_kept():
            subject.grow(_ROOM * room)
        self._tracker = Tracker(self._settings, (subject.rows, subject.searched))
        self._expected = subject.expected
        _log.info(
            "sharpness: %s of %s training examples, every %s%s",
            f"{subject.rows.count:,}",
            f"{subject.rows.total:,}",
            counted(self.every, "step"),
            "".join(f"; {note}" for note in subject.notes),
        )

    def _too_dear(self, expected: float, setup: float) -> str:
        planned, seconds = self._budget.planned or 0.0, self._budget.seconds
        what = "setting up" if setup else "measuring"
        taken = f"sharpness: {what} takes about {readable_time(expected + setup)}"
        if seconds is not None and self._budget.spent + expected + setup > seconds:
            return f"{taken}, more than is left of seconds={seconds:g}"
        return (
            f"{taken}, and {readable_time(self._budget.spent)} were spent in "
            f"{readable_time(self._budget.training)} of training: it waits until all of that is at "
            f"most {100 * planned:.3g}% (share={self._budget.share:g}; share=None measures every "
            f"{counted(self.every, 'step')})"
        )

    def measure(self, step: int, model: nn.Module, optimizer: Any = None) -> dict[str, float]:
        """The numbers of the model as it is now, with their errors, by the names that are logged.

        What is not finite is left out. A measure that fails is too, with a warning.
        """
        tracker, subject = self._tracker, self._subject
        assert tracker is not None
        assert subject is not None
        before = self._budget.spent
        with self._spending(subject), global_random_state_kept():
            moment = Moment(
                steps=step,
                epochs=0,
                epoch_ended=False,
                ended=False,
                model=plain_model(model),
                network=subject.network,
                rows=subject.rows,
                # Lightning and accelerate wrap it.
                optimizer=getattr(optimizer, "optimizer", optimizer) or _NoOptimizer(),
                loss=lambda: math.nan,
            )
            try:
                tracker.look(moment)
            except SharpError as error:
                _log.warning("sharpness at step %d: %s", step, error)
                return {}
        taken = self._budget.spent - before
        if self._measured == 0:  # the first one also checks second derivatives
            self._budget.setup += max(0.0, taken - self._expected)
        else:
            self._expected = taken
        self._measured += 1
        found = tracker.steps.pop()
        for name, failure in (found.failures or {}).items():
            _log.warning("sharpness at step %d: %s: %s", step, name, failure.message)
        named = _numbers(found.measures)
        if named:
            named |= {"examples": float(subject.rows.count), "seconds": taken}
        return {f"{self._prefix}{key}": value for key, value in named.items()}


def _numbers(measures: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers by flat key, with their errors."""
    named = {}
    for key, scalar in flat_scalars(measures).items():
        if scalar["value"] is None:
            continue
        named[key] = float(scalar["value"])
        for error in ("error", "sampling_error"):
            if scalar.get(error) is not None:
                named[f"{key}.{error}"] = float(scalar[error])
    return named


@dataclasses.dataclass(frozen=True)
class _NoOptimizer:
    """Stands where no optimizer is known: no rate and no state."""

    param_groups: Sequence[Mapping[str, Any]] = ({},)
    state: Mapping[Any, Any] = dataclasses.field(default_factory=dict)
