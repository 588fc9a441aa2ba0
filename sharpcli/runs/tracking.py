"""Measures along a training, on a fixed sample of its data: a watcher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.curvature import SelfCheck, in_float64, self_check
from sharpcli.documents.checkpoints import Tracked, TrackedStep
from sharpcli.documents.results import Failure
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.stability import PRECONDITIONED, PRECONDITIONED_NAME, Threshold
from sharpcli.errors import SharpError
from sharpcli.measures import choose, compute, options_of
from sharpcli.measures.context import Context
from sharpcli.measures.example_curvature import with_sampling_error
from sharpcli.measures.leading import EXACT, leading, rounding_share
from sharpcli.measures.measure import Measure
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.reliability import carriers_of_columns
from sharpcli.objective.rows import Rows
from sharpcli.objective.shards import part
from sharpcli.runtime.randomness import own_generator
from sharpcli.settings.measuring import MeasureSettings
from sharpcli.training.stability import preconditioner, threshold
from sharpcli.training.train_settings import TrainSettings
from sharpcli.training.watchers import Moment

__all__ = ["Tracker", "sample_of", "searched_of", "terms_of", "usual_sample"]

# Examples in a microbatch: as many as this memory holds, counted once in bytes, so that a resumed
# training takes the same.
_BATCH, _BYTES = 256, 2**28
_CHECKED = 8  # examples on which second derivatives are checked in float64, once
# Terms of the loss, such as tokens, in the sample, and its fewest examples; and the share of it in
# which an eigenvector is searched. On the text GPT at its default sizes λ1 of 192 windows of 32
# bytes, along a vector of 32 of them, is off by a median of 4 % from that of all data; the largest
# eigenvalue of the 32 by 9 %, nearly always upwards.
_TERMS, _LEAST, _SEARCHED = 6144, 192, 6


class Tracker:
    """Measures what `settings.track` names at step 0, every `settings.every` steps and at the end.

    `steps` are the measurements so far. `examples` of `examples_in_all` are measured. A `sample` is
    what `sample_of` gives, drawn by somebody else.
    """

    name = "track"

    def __init__(self, settings: TrainSettings, sample: tuple[Rows, Tensor] | None = None) -> None:
        self._settings = settings
        self._rows: Rows | None = None
        self._searched = torch.zeros(0, dtype=torch.int64)  # where in the sample
        if sample is not None:
            self._rows, self._searched = sample
        self._check: SelfCheck | None = None
        self._smooth = True  # until differences of gradients are not
        self._batch: int | None = None
        self._rounded: tuple[float, float] | None = None  # a loss, and rounding's share of λ1 there
        self.steps: list[TrackedStep] = []
        self.examples = self.examples_in_all = 0

    def wants(self, steps: int, *, epoch_ended: bool, ended: bool) -> bool:  # noqa: ARG002
        """Whether it measures after so many steps."""
        return ended or steps % self._settings.tracked_every == 0

    def look(self, moment: Moment) -> None:
        """Measure; a measure that fails is noted with its reason."""
        if self._rows is None:
            self._rows, self._searched = sample_of(moment.rows, moment.network, self._settings)
        self.examples, self.examples_in_all = self._rows.count, moment.rows.count
        network, tensors = moment.network, moment.model.state_dict()
        objective = self._objective(network, self._rows, network.fixed(tensors))
        theta = network.flatten(tensors)
        limit = self._threshold(moment)
        measures: dict[str, Any] = {}
        failures: dict[str, Failure] = {}
        for name in self._settings.track:
            try:
                with torch.enable_grad():  # which the loop turns off between steps
                    measures |= self._measured(name, objective, theta, moment)
            except SharpError as error:
                failures[name] = Failure(error.message, error.hint)
        rate = moment.optimizer.param_groups[0].get("lr")
        self.steps.append(
            TrackedStep(
                moment.steps,
                math.nan if rate is None else float(rate),
                limit,
                measures,
                failures or None,
            )
        )

    def tracked(self) -> Tracked:
        """All measurements so far."""
        return Tracked(self.steps, self.examples, self.examples_in_all)

    def state(self) -> Any:
        """All measurements, and what was found out about the products."""
        check = None if self._check is None else asdict(self._check)
        steps = [_plain(asdict(each)) for each in self.steps]
        return {"steps": steps, "check": check, "smooth": self._smooth, "rounded": self._rounded}

    def restore(self, state: Any) -> None:
        """Go on where `state` was taken."""
        self._check = None if state["check"] is None else SelfCheck(**state["check"])
        self._smooth = state["smooth"]
        self._rounded = None if state["rounded"] is None else tuple(state["rounded"])
        self.steps = [_step(each) for each in state["steps"]]

    def _objective(self, network: Network, rows: Rows, fixed: Mapping[str, Tensor]) -> Objective:
        if self._batch is None:
            each = Objective(network, rows, fixed, batch_size=_BATCH).saved_bytes
            self._batch = max(_BATCH, int(min(rows.count, _BYTES / max(each, 1.0))))
        return Objective(network, rows, fixed, batch_size=self._batch)

    def _threshold(self, moment: Moment) -> Threshold | None:
        # An average of the weights is not where the optimizer takes its steps.
        return None if self._settings.ema is not None else threshold(moment.optimizer)

    def _measured(
        self, name: str, objective: Objective, theta: Tensor, moment: Moment
    ) -> dict[str, Any]:
        """The numbers of one measure, without the time that it took."""
        if name == "hessian":
            return {name: {"eigenvalues": [self._largest(objective, theta, moment, None)]}}
        if name == PRECONDITIONED_NAME:
            return self._preconditioned(objective, theta, moment)
        (measure,) = choose([name])
        check = self._checked(objective, theta) if measure.needs_curvature else None
        context = Context(
            objective,
            {"train": objective},
            theta,
            self._measure_settings(measure),
            seed=self._settings.seed,
            self_check=check,
        )
        try:
            found: dict[str, Any] = _untimed(compute([measure], context))
        finally:
            context.release()
        return found

    def _preconditioned(
        self, objective: Objective, theta: Tensor, moment: Moment
    ) -> dict[str, Any]:
        """λ1 of the preconditioned Hessian; nothing before the first step, where there is no P."""
        network = moment.network
        named = dict(moment.model.named_parameters())
        parts = preconditioner(moment.optimizer, {name: named[name] for name in network.names})
        if parts is None:
            return {}
        found = self._largest(objective, theta, moment, network.flatten(parts))
        return {PRECONDITIONED: {"eigenvalues": [found]}}

    def _largest(
        self, objective: Objective, theta: Tensor, moment: Moment, diagonal: Tensor | None
    ) -> Scalar:
        """λ1 of the Hessian, of its preconditioned form with a `diagonal`."""
        searched = objective
        if len(self._searched) < objective.rows.count:
            searched = part(objective, self._searched)
        found = leading(
            searched,
            theta,
            self._checked(objective, theta),
            tolerance=self._settings.track_tol,
            diagonal=diagonal,
            differences=self._smooth,
            rounding=lambda value, vector: self._rounding(searched, theta, value, vector),
            # Each start is independent of the last eigenvector, and the same after a resume.
            seed=self._settings.seed + moment.steps,
            named="track_tol",
        )
        self._smooth = found.smooth
        along = found.vector if diagonal is None else diagonal.rsqrt() * found.vector
        scalar = with_sampling_error(found.scalar, objective, theta, along, self._searched)
        if 2 * len(self._searched) < objective.rows.count:
            return scalar
        return _between_halves(scalar, found.scalar.value)

    def _rounding(self, objective: Objective, theta: Tensor, value: float, vector: Tensor) -> float:
        """The share of λ1 that rounding may change: measured again as often as the loss halves.

        Rounding of a cross-entropy's slopes grows as its loss falls: twice the last share counts.
        """
        loss = abs(objective.loss(theta))
        if self._rounded is None or not self._rounded[0] / 2 < loss < 2 * self._rounded[0]:
            share = rounding_share(objective, theta, value, vector, self._settings.seed)
            self._rounded = loss, share
        return 2 * self._rounded[1]

    def _checked(self, objective: Objective, theta: Tensor) -> SelfCheck:
        """The check of second derivatives that `measure` makes too, when first asked for."""
        if self._check is None:
            double, there = in_float64(objective, theta, objective.rows.head(_CHECKED))
            self._check = self_check(double, there, mode=EXACT.hvp, seed=self._settings.seed)
        return self._check

    def _measure_settings(self, measure: Measure) -> MeasureSettings:
        tolerance = self._settings.track_tol
        return MeasureSettings(
            measures=(measure.name,),
            top=1,
            tol=tolerance,
            relative_error=tolerance,
            curvature=EXACT,
            options=options_of([measure], {}),
        )


def sample_of(rows: Rows, network: Network, settings: TrainSettings) -> tuple[Rows, Tensor]:
    """The training data that are measured, and the numbers in it where eigenvectors are searched.

    As many examples as `track_samples`, drawn by the seed; by default so many that the loss is a
    mean of 6,144 terms, at least 192 examples. Where the loss couples the examples of a batch, all.
    A sixth of a sample is searched, no less than of the default; of all data, all.
    """
    wanted = settings.track_samples
    if settings.fixed_batch is not None:
        return rows, torch.arange(rows.count)
    few = rows.head(_LEAST)
    own = Objective(network, few, network.fixed({}), batch_size=few.count)
    theta = network.flatten(dict(network.model.named_parameters()))
    default = usual_sample(terms_of(own, theta))
    wanted = wanted or default
    if wanted >= rows.count:
        return rows, torch.arange(rows.count)
    order = torch.randperm(rows.count, generator=own_generator("tracked sample", settings.seed))
    chosen, places = order[:wanted].sort()
    sample = rows.take(chosen)
    if rows.sliceable:
        sample.carriers = carriers_of_columns(rows.batch, rows.count, wanted)
    first = searched_of(max(wanted, default))
    return sample, (places < first).nonzero().ravel()


def terms_of(objective: Objective, theta: Tensor) -> float:
    """Terms of the loss in an example, such as tokens; at least one. Cost: a forward pass."""
    rows = objective.rows
    with torch.no_grad():
        parameters = objective.network.unflatten(theta)
        _, weight = objective.sum_and_weight(parameters, rows.batch, rows.count)
    return max(float(weight) / rows.count, 1.0)


def usual_sample(terms: float) -> int:
    """Examples in a sample for a loss with so many terms in each."""
    return max(_LEAST, math.ceil(_TERMS / terms))


def searched_of(sample: int) -> int:
    """Examples among those of a sample in which an eigenvector is searched."""
    return -(-sample // _SEARCHED)


def _between_halves(scalar: Scalar, searched: float | None) -> Scalar:
    """The value over a sample, half of it or more searched, with what its vector adds to the error.

    Where the vector was searched the curvature is too large on average, because it fits these
    examples, and in the other half too small, because it is not theirs. The value lies in the
    middle.
    """
    if scalar.sampling_error is None or scalar.value is None or searched is None:
        return scalar
    return replace(
        scalar, sampling_error=math.hypot(scalar.sampling_error, searched - scalar.value)
    )


def _untimed(node: Any) -> Any:
    """Numbers without the seconds that they took, which differ between two equal trainings."""
    if isinstance(node, Mapping):
        return {key: _untimed(value) for key, value in node.items() if key != "seconds"}
    return [_untimed(each) for each in node] if isinstance(node, list) else node


def _plain(node: Any) -> Any:
    """Enumerations as their text, for the state file."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(each) for each in node]
    return str(node) if isinstance(node, str) else node


def _step(state: Mapping[str, Any]) -> TrackedStep:
    """A measurement from its plain form."""
    limit, failures = state["threshold"], state["failures"]
    step = TrackedStep(state["step"], state["lr"], measures=state["measures"])
    return replace(
        step,
        threshold=None if limit is None else Threshold(**limit),
        failures=failures and {name: Failure(**each) for name, each in failures.items()},
    )
