"""What tracking λ1 costs and how far its sample is off; the edge of stability on digits.

Source of the second: Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge
of Stability, 2021. Below 2/η gradient descent moves into ever sharper places; there it cannot
follow the sharpest direction any further, and λ1 stays about there while the loss goes on falling.
With cross-entropy λ1 falls again once most examples are fitted; with a squared loss it stays.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from problem import Setting
from report import Bar, Section
from torch import Tensor, nn

from sharpcli.measures.leading import leading
from sharpcli.objective.objective import Objective
from sharpcli.runs.tracking import Tracker
from sharpcli.tasks import Task, load_task
from sharpcli.training.loop import train
from sharpcli.training.train_settings import TrainSettings
from sharpcli.training.watchers import Moment

NAME = "tracking"
_EVERY, _STEPS, _REPEATS = 50, 600, 3
_COST, _SAMPLE = 0.30, 0.05
_SEEDS = (0, 1, 2)
_SAMPLED = range(6)
# Tanh and full batches, as in the paper; deep enough that λ1 starts well below 2/η.
_NETWORK = {"activation": "tanh", "depth": "4", "width": "64"}
_RATES = (0.15, 0.2, 0.3)
_EDGE_STEPS, _EDGE_EVERY, _WITHIN = 1500, 10, 0.2
_SHOWN = 10  # the page shows every tenth tracked step


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Sharpness along a training",
        f"The text GPT at its default sizes, Adam at 0.003, λ1 every {_EVERY} steps: processor "
        "time against the same training without, in turns; and λ1 of the sample against that of "
        "all training data. Then full-batch gradient descent on digits "
        f"({', '.join(f'{k} {v}' for k, v in _NETWORK.items())}), λ1 every {_EDGE_EVERY} steps. λ1 "
        f"has risen from the first tracked step on where it is at least {1 - _WITHIN:.0%} of 2/η, "
        "unless that is step 0; the bar is on the median of all points from there to the end.",
    )
    section.bars += [*_costs(section, setting.quick), _samples(section, setting.quick)]
    section.bars.append(_edges(section, setting.quick))
    return section


def _costs(section: Section, quick: bool) -> list[Bar]:
    """Processor time of a training with and without tracking, in turns."""
    task = load_task("text", {})
    steps = 10 if quick else _STEPS
    plain = TrainSettings("adam", lr=0.003, steps=steps)
    every = 5 if quick else _EVERY
    asked = {
        "hessian": dataclasses.replace(plain, track=("hessian",), every=every),
        "hessian, preconditioned-hessian": dataclasses.replace(
            plain, track=("hessian", "preconditioned-hessian"), every=every
        ),
    }
    ratios: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(1 if quick else _REPEATS):
        alone = _seconds(task, plain)
        for name, settings in asked.items():
            ratios[name].append(_seconds(task, settings) / alone - 1)
    rows = [
        (name, f"{statistics.median(own):.0%}", ", ".join(f"{each:.0%}" for each in own))
        for name, own in ratios.items()
    ]
    section.tables.append(("More time than training alone", ("tracked", "median", "each"), rows))
    more = statistics.median(ratios["hessian"])
    return [Bar("λ1 tracked, more time", f"{more:.0%}", f"≤ {_COST:.0%}", more <= _COST)]


def _seconds(task: Task, settings: TrainSettings) -> float:
    started = time.process_time()
    train(task, settings, watchers=[Tracker(settings)] if settings.track else ())
    return time.process_time() - started


class _Keeper:
    """Keeps λ1 of all data and of the samples of several seeds at some steps."""

    name = "keeper"

    def __init__(self, every: int, settings: TrainSettings, seeds: Sequence[int]) -> None:
        self._every, self._settings, self._seeds = every, settings, seeds
        self.found: list[tuple[int, float, list[tuple[float, float]]]] = []

    def wants(self, steps: int, *, epoch_ended: bool, ended: bool) -> bool:
        return ended or (steps > 0 and steps % self._every == 0)

    def look(self, moment: Moment) -> None:
        tensors, network = moment.model.state_dict(), moment.network
        theta, fixed = network.flatten(tensors), network.fixed(tensors)
        whole = Objective(network, moment.rows, fixed, batch_size=256)
        with torch.enable_grad():
            true = leading(whole, theta, None, tolerance=0.02).scalar.value
        own = []
        for seed in self._seeds:
            tracker = Tracker(dataclasses.replace(self._settings, seed=seed, track=("hessian",)))
            tracker.look(moment)
            found = tracker.steps[0].measures["hessian"]["eigenvalues"][0]
            own.append((float(found.value), float(found.sampling_error)))
        self.found.append((moment.steps, float(true or 0.0), own))

    def state(self) -> Any:
        return None

    def restore(self, state: Any) -> None:
        raise NotImplementedError


def _samples(section: Section, quick: bool) -> Bar:
    """λ1 of the default sample, drawn by several seeds, against λ1 of all data."""
    settings = TrainSettings("adam", lr=0.003, steps=10 if quick else _STEPS)
    keeper = _Keeper(10 if quick else 100, settings, _SAMPLED)
    train(load_task("text", {}), settings, watchers=[keeper])
    rows = []
    off: list[float] = []
    held: list[bool] = []
    for step, whole, samples in keeper.found:
        own = [value / whole - 1 for value, _ in samples]
        errors = [f"{error / whole:.1%}" for _, error in samples]
        off += own
        held += [abs(value - whole) <= 1.96 * error for value, error in samples]
        said = ", ".join(f"{each:+.1%}" for each in own)
        rows.append((str(step), f"{whole:.4g}", said, ", ".join(errors)))
    seeds = f"seeds 0 to {_SAMPLED[-1]}"
    header = ("step", "λ1 of all data", f"off by, {seeds}", "sampling error")
    title = f"What the sample is off by; {sum(held)} of {len(held)} within 1.96 errors"
    section.tables.append((title, header, rows))
    typical = statistics.median(map(abs, off))
    return Bar("sample, median error", f"{typical:.1%}", f"≤ {_SAMPLE:.0%}", typical <= _SAMPLE)


def _edges(section: Section, quick: bool) -> Bar:
    """Gradient descent at several rates and seeds, with both losses; the bar is on squared loss."""
    digits = load_task("digits", _NETWORK)
    squared = dataclasses.replace(digits, loss=_squared)
    rates, seeds = (_RATES[-1:], _SEEDS[:1]) if quick else (_RATES, _SEEDS)
    rows, points, met = [], [], []
    for (name, task), rate, seed in itertools.product(
        (("squared", squared), ("cross-entropy", digits)), rates, seeds
    ):
        steps = 40 if quick else _EDGE_STEPS
        shares, loss = _path(task, rate, seed, steps)
        later = after_the_rise([share for _, share in shares])
        run_of = f"{name}, η = {rate:g}, seed {seed}"
        points.append((run_of, ", ".join(f"{share:.2f}" for _, share in shares[::_SHOWN])))
        seen = ("–", "–", "–")
        if later:
            close = sum(abs(share - 1) <= _WITHIN for share in later)
            spread = f"{min(later):.2f} to {max(later):.2f}"
            seen = f"{statistics.median(later):.2f}", spread, f"{close} of {len(later)}"
        rows.append((run_of, f"{loss:.3g}", *seen))
        if name == "squared":
            met.append(bool(later) and abs(statistics.median(later) - 1) <= _WITHIN)
    header = ("run", "final loss", "median λ1·η/2", "from, to", f"points within {_WITHIN:.0%}")
    section.tables.append(("After λ1 has risen to 2/η", header, rows))
    section.tables.append((f"λ1·η/2 every {_EDGE_EVERY * _SHOWN} steps", ("run", "λ1·η/2"), points))
    return Bar(
        f"edge of stability, squared loss: median λ1 within {_WITHIN:.0%} of 2/η",
        f"{sum(met)} of {len(met)} runs",
        "all",
        all(met),
    )


def _path(task: Task, rate: float, seed: int, steps: int) -> tuple[list[tuple[int, float]], float]:
    """λ1·η/2 at each tracked step of one training, and its final loss."""
    settings = TrainSettings(
        lr=rate,
        batch_size=len(task.data("train")[0]),
        steps=steps,
        seed=seed,
        track=("hessian",),
        every=_EDGE_EVERY,
    )
    tracker = Tracker(settings)
    trained = train(task, settings, watchers=[tracker])
    values = [
        (each.step, float(each.measures["hessian"]["eigenvalues"][0].value) * rate / 2)
        for each in tracker.steps
    ]
    return values, trained.train_loss


def after_the_rise(shares: Sequence[float]) -> list[float]:
    """The values from the first on that is at least 1 − tolerance; none without a rise.

    A path that begins there has not risen to it.
    """
    high = [share >= 1 - _WITHIN for share in shares]
    return list(shares[high.index(True) :]) if True in high and not high[0] else []


def _squared(outputs: Tensor, batch: Any) -> Tensor:
    targets = nn.functional.one_hot(batch[1], outputs.shape[1]).to(outputs)
    return (outputs - targets).square().sum(1) / 2
