"""The settings of a training: what a user may set, and what is refused. Imports no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sharpcli.documents.stability import PRECONDITIONED_NAME
from sharpcli.errors import UsageError, did_you_mean, setting
from sharpcli.measures import known_measures
from sharpcli.settings.fields import SEEDS, SEEDS_HINT
from sharpcli.training.catalogue import BASE, options_text, read_options
from sharpcli.training.optimizers import HYPERPARAMETERS, OPTIMIZERS, Optimizer, find_optimizer
from sharpcli.training.schedules import parse_schedule

__all__ = ["EPOCHS", "EVERY", "TrainSettings"]

EPOCHS = 20  # where neither epochs nor steps are given
EVERY = 50  # steps between two measurements


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    A training ends after `epochs` or `steps`, whichever comes first (without both, 20 epochs), or
    where `until_loss` is given after the first epoch at whose end the loss on all training data, in
    eval mode, is at most this.

    `lr` None is the optimizer's usual one, and so are the shared hyperparameters; one that the
    optimizer does not have is refused. `optimizer_options` are further arguments of its
    constructor. `schedule` gives the learning rate by step in place of `lr`, and `batch_schedule`
    the batch size in place of `batch_size`. `fixed_batch`, if given, is the `batch_size`: the loss
    couples the examples of a batch and is defined on batches of so many.

    `clip_norm` shortens longer gradients. `accumulate` takes a step's batch in so many parts. `ema`
    is the decay of an exponential average of the weights, which is then what is saved. So is the
    equal average that starts at `swa`, a step or (below 1) a share of the training: it is over the
    weights after each epoch from there on, and after the last step. Statistics of batch
    normalisation are computed on the training data for an average.

    `evaluate_every` is how many steps apart, or at the end of each "epoch", the loss and the
    metrics are computed on training and test data. `noise_scale` asks for that of each step.

    `track` names measures that are taken at step 0, every `every` steps (50) and at the end, on
    `track_samples` of the training data (None: as many as the loss needs), eigenvalues to a share
    `track_tol` of λ1.

    >>> TrainSettings("AdamW", betas=(0.9, 0.99)).optimizer
    'adamw'
    """

    optimizer: str = "sgd"
    lr: float | None = None
    batch_size: int = 32
    epochs: int | None = None
    momentum: float | None = None
    betas: tuple[float, ...] | None = None
    weight_decay: float | None = None
    until_loss: float | None = None
    seed: int = 0
    fixed_batch: int | None = None
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    schedule: str | None = None
    batch_schedule: str | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    swa: float | None = None
    save_every: int | Literal["log"] | None = None
    save_optimizer: bool = False
    init: str | None = None
    init_optimizer: bool = False
    label_smoothing: float = 0.0
    augment: bool = False
    device: str = "cpu"
    dtype: Literal["float32", "float64", "bfloat16"] | None = None
    evaluate_every: int | Literal["epoch"] | None = None
    noise_scale: bool = False
    track: tuple[str, ...] = ()
    every: int | None = None
    track_samples: int | None = None
    track_tol: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what the optimizer cannot use; raises `UsageError` naming the setting."""
        self._settle_optimizer()
        if self.epochs is None and self.steps is None:
            self._set("epochs", EPOCHS)
        limits = {
            "lr": (self.lr is None or self.lr > 0, "a learning rate is above 0"),
            "batch_size": (self.batch_size >= 1, "a batch has at least one example"),
            "fixed_batch": (
                self.fixed_batch in (None, self.batch_size),
                f"it is what each step takes, so {setting('batch_size')} is the same",
            ),
            "epochs": (self.epochs is None or self.epochs >= 1, "train for at least one epoch"),
            "steps": (self.steps is None or self.steps >= 1, "train for at least one step"),
            "clip_norm": (
                self.clip_norm is None or 0 < self.clip_norm < math.inf,
                "the longest gradient is above 0",
            ),
            "accumulate": (
                self.accumulate >= 1 and (self.accumulate == 1 or self.fixed_batch is None),
                f"a batch has at least one part, and with {setting('fixed_batch')} only one",
            ),
            "ema": (self.ema is None or 0 <= self.ema < 1, "a decay is at least 0 and below 1"),
            "swa": (
                self.swa is None or 0 <= self.swa <= (self.steps or sys.maxsize),
                "the average starts at step 0 or later, and at the last step at the latest",
            ),
            "batch_schedule": (
                self.batch_schedule is None or self.fixed_batch is None,
                f"{setting('fixed_batch')} is the batch size of every step",
            ),
            "save_every": (
                self.save_every in (None, "log")
                or (isinstance(self.save_every, int) and self.save_every >= 1),
                "give a number of steps, or log: after 1, 2, 4, 8, … steps",
            ),
            "label_smoothing": (
                0 <= self.label_smoothing < 1,
                "the share of all other classes is at least 0 and below 1",
            ),
            "dtype": (
                self.dtype in (None, "float32", "float64", "bfloat16"),
                "the arithmetic is float32, float64 or bfloat16",
            ),
            "evaluate_every": (
                self.evaluate_every in (None, "epoch")
                or (isinstance(self.evaluate_every, int) and self.evaluate_every >= 1),
                'a number of steps from 1, or "epoch"',
            ),
            "seed": (self.seed in SEEDS, SEEDS_HINT),
            "until_loss": (
                self.until_loss is None or self.until_loss > 0,
                "the loss to reach is above 0",
            ),
        }
        limits |= self._limits_of_tracking()
        for name, each in HYPERPARAMETERS.items():
            value = getattr(self, name)
            limits[name] = value is None or each.accepts(value), each.range
        for name, (holds, range_) in limits.items():
            if not holds:
                raise UsageError(f"{setting(name, getattr(self, name))}: is out of range", range_)
        self._refuse_unused()
        if self.init_optimizer and self.init is None:
            raise UsageError(
                f"{setting('init_optimizer', True)}: there is no checkpoint to take it from",
                f"name the checkpoint that training starts from: {setting('init')}",
            )
        if self.batch_schedule is not None and parse_schedule(self.batch_schedule).observes:
            raise UsageError(
                f"{setting('batch_schedule', self.batch_schedule)}: looks at the loss",
                "only a learning rate can; give a batch size that is known before",
            )

    def _limits_of_tracking(self) -> dict[str, tuple[bool, str]]:
        """Refuse a measure that does not exist; what the other settings of tracking have to be."""
        known = [*known_measures(), PRECONDITIONED_NAME] if self.track else []
        if PRECONDITIONED_NAME in self.track and not self.preconditions:
            raise UsageError(
                f"{setting('track', PRECONDITIONED_NAME)}: {self.optimizer} has no preconditioner "
                "that is known here",
                "it is for adam, adamw and RMSprop; take hessian",
            )
        for name in self.track:
            if name not in known:
                raise UsageError(
                    f"{setting('track', name)}: there is no such measure", did_you_mean(name, known)
                )
        if not self.track:
            for name in ("every", "track_samples"):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"{setting(name, getattr(self, name))}: nothing is tracked",
                        f"name a measure: {setting('track', 'hessian')}",
                    )
        return {
            "every": (self.every is None or self.every >= 1, "measure at most after each step"),
            "track_samples": (
                self.track_samples is None
                or (self.track_samples >= 1 and self.fixed_batch is None),
                f"measure at least one example, and with {setting('fixed_batch')} all of them",
            ),
            "track_tol": (0 < self.track_tol <= 1, "a share of λ1 is above 0 and at most 1"),
        }

    def averages_after(self, epochs: int, steps: int) -> bool:
        """Whether the equal average of the weights has begun after so many epochs and steps."""
        if self.swa is None:
            return False
        parts = (epochs, self.epochs), (steps, self.steps)
        share = max(done / most for done, most in parts if most is not None)
        return steps >= self.swa if self.swa >= 1 else share >= self.swa

    @property
    def preconditions(self) -> bool:
        """Whether the optimizer scales its steps by a diagonal that is known here."""
        plain = not self.optimizer_options.get("centered")
        return plain and self.optimizer in ("adam", "adamw", "RMSprop")

    @property
    def tracked_every(self) -> int:
        """The steps between two measurements."""
        return EVERY if self.every is None else self.every

    def _settle_optimizer(self) -> None:
        """Put the name in one spelling, options in their types, and shared ones in their fields."""
        own = self.kind
        name = self.optimizer.lower()
        self._set("optimizer", name if name in OPTIMIZERS else own.kind.partition(":")[2])
        options = dict(self.optimizer_options)
        if options:
            options = read_options(own.type.__name__, own.arguments, options)
        for name in ("lr", *HYPERPARAMETERS):
            if name in options:
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"{setting(name)} and {setting(f'optimizer_options.{name}')} are the same",
                        "give one of them",
                    )
                self._set(name, options.pop(name))
        if own.base is not None:
            options[BASE] = own.base
        self._set("optimizer_options", options)

    def _refuse_unused(self) -> None:
        for name in ("lr", *HYPERPARAMETERS):
            if getattr(self, name) is not None and not self.kind.takes(name):
                raise UsageError(
                    f"{setting(name, getattr(self, name))}: {self.optimizer} has no such argument",
                    f"its options: {options_text(self.kind.arguments)}",
                )
        if self.swa is not None and self.ema is not None:
            raise UsageError(
                f"{setting('swa', self.swa)}: cannot be used with {setting('ema')}",
                "give one of them; both average the weights",
            )
        if self.schedule is None:
            return
        if self.lr is not None:
            raise UsageError(
                f"{setting('lr', self.lr)}: has no effect with {setting('schedule')}",
                "give one of them; a schedule has its own rates",
            )
        if not self.kind.takes("lr"):
            raise UsageError(
                f"{setting('schedule', self.schedule)}: {self.optimizer} has no learning rate",
                "leave it out",
            )
        parse_schedule(self.schedule)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def kind(self) -> Optimizer:
        """The optimizer that takes the steps."""
        return find_optimizer(self.optimizer, self.optimizer_options.get(BASE))

    @property
    def extras(self) -> dict[str, Any]:
        """What else made the weights, where it is not the default, as a checkpoint keeps it."""
        given = {
            "schedule": self.schedule,
            "batch_schedule": self.batch_schedule,
            "clip_norm": self.clip_norm,
            "accumulate": None if self.accumulate == 1 else self.accumulate,
            "ema": self.ema,
            "swa": self.swa,
            "until_loss": self.until_loss,
            "label_smoothing": self.label_smoothing or None,
            "augment": self.augment or None,
            "dtype": None if self.dtype == "float32" else self.dtype,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def first_batch(self) -> int:
        """The batch size of the first step."""
        if self.batch_schedule is None:
            return self.batch_size
        return max(1, round(parse_schedule(self.batch_schedule).at(0)))

    @property
    def step_size(self) -> float | None:
        """The learning rate of the first step; None where the optimizer has none."""
        if self.schedule is not None:
            return parse_schedule(self.schedule).at(0)
        return self.kind.default_lr if self.lr is None else self.lr
