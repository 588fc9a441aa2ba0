"""A step of `sharpcli.training.loop.train` against a step of a plain PyTorch loop."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from problem import Setting
from report import Bar, Section
from torch import nn
from torch.nn import functional

from sharpcli.tasks import Task, load_task
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train
from sharpcli.training.state import StateFile

NAME = "training"
_MOST = 1.05
_BATCH = 32
# The steps before this one are not timed: the first ones warm up, and the loop takes the norm of
# each gradient only at the first 64.
_FROM = 64


@dataclass(frozen=True)
class _Case:
    """A network, and the steps that are taken in turn: a block takes some hundredths of a second.

    It is a multiple of 16, because the loop takes the gradient's norm at every 16th step.
    """

    name: str
    task: str
    options: Mapping[str, str]
    block: int


_CASES = (
    _Case("digits MLP", "digits", {}, 64),
    _Case("digits CNN", "digits", {"model": "cnn"}, 16),
    _Case("text GPT", "text", {}, 16),
)
_OPTIMIZERS: Mapping[str, tuple[TrainSettings, Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (
        TrainSettings("sgd", lr=0.05, momentum=0.9),
        lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9),
    ),
    "adamw": (
        TrainSettings("adamw", lr=1e-3, weight_decay=0.01),
        lambda weights: torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.01),
    ),
}


def run(setting: Setting) -> Section:
    rounds = 3 if setting.quick else 12 * setting.repeats
    section = Section(
        NAME,
        "Steps of training",
        f"A step of `sharp train` against one of a plain loop, batch {_BATCH}, on the same data "
        "in memory: randperm, rows by index, forward, `F.cross_entropy`, `zero_grad`, `backward`, "
        "`step`. Without a check of its loss the plain loop would train on after a NaN, and a "
        "loop that shows its loss reads it: it is timed with `loss.item()` in every step and "
        "without. All three take blocks of steps in turns, in one process; the watcher that "
        "hands over to the plain loops is called after each step. The loop of sharp keeps its "
        "curves and its state file. What a training does once is not in the time: checks of the "
        "task before the first step and the loss on all data after the last.",
    )
    rows = []
    for case in _CASES:
        for name in ("adamw",) if setting.quick else _OPTIMIZERS:
            turns = _turns(case, name, rounds)
            ours, reading, bare = (
                [1e6 * seconds / case.block for seconds in each]
                for each in (turns.ours, turns.plain[0], turns.plain[1])
            )
            by_reading, by_bare = _ratios(ours, reading), _ratios(ours, bare)
            rows.append(
                (
                    case.name,
                    name,
                    f"{statistics.median(ours):.0f}",
                    f"{statistics.median(reading):.0f}",
                    f"{statistics.median(bare):.0f}",
                    _spread(by_reading),
                    _spread(by_bare),
                )
            )
            median = statistics.median(by_reading)
            section.bars.append(
                Bar(
                    f"{case.name}, {name}: a step by the plain loop's",
                    f"{median:.3f}",
                    f"≤ {_MOST}",
                    median <= _MOST,
                )
            )
    header = (
        *("network", "optimizer", "µs a step", "plain with item()", "plain"),
        *("ratio with item()", "ratio without"),
    )
    section.tables.append((f"{rounds} rounds: medians, ratios with their quartiles", header, rows))
    return section


@dataclass
class _Turns:
    """A watcher of the training that lets the plain loops take a block after each of its own."""

    block: int
    loops: list[Iterator[None]]
    name: str = "turns"
    ours: list[float] = field(default_factory=list)
    plain: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    _began: float = 0.0

    def wants(self, steps: int, *, epoch_ended: bool, ended: bool) -> bool:
        if steps < _FROM or (steps - _FROM) % self.block:
            return False
        now = time.perf_counter()
        if steps > _FROM:
            self.ours.append(now - self._began)
            order = (0, 1) if len(self.ours) % 2 else (1, 0)
            for which in order:
                self.plain[which].append(self._block(self.loops[which]))
        self._began = time.perf_counter()
        return False

    def _block(self, loop: Iterator[None]) -> float:
        began = time.perf_counter()
        for _ in range(self.block):
            next(loop)
        return time.perf_counter() - began

    def look(self, moment: Any) -> None:
        """Nothing to see."""

    def state(self) -> None:
        """Nothing to keep."""

    def restore(self, state: Any) -> None:
        """Nothing to go on from."""


def _turns(case: _Case, optimizer: str, rounds: int) -> _Turns:
    """The seconds of each block, of the loop and of both plain loops."""
    task = load_task(case.task, case.options)
    settings, build = _OPTIMIZERS[optimizer]
    loops = [_plain(task, build, read=read) for read in (True, False)]
    for loop in loops:
        for _ in range(_FROM):
            next(loop)
    turns = _Turns(case.block, loops)
    steps = _FROM + rounds * case.block + 1  # the loss on all data comes before the last look
    with tempfile.TemporaryDirectory() as folder:
        train(
            task,
            TrainSettings(
                settings.optimizer,
                lr=settings.lr,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                batch_size=_BATCH,
                steps=steps,
            ),
            state=StateFile(Path(folder) / "model.safetensors"),
            watchers=[turns],
        )
    return turns


def _plain(
    task: Task, build: Callable[[Any], torch.optim.Optimizer], *, read: bool
) -> Iterator[None]:
    """The loop that everybody writes; with `read` it keeps the loss of each step."""
    torch.manual_seed(0)
    model: nn.Module = task.model()
    model.train()
    optimizer = build(model.parameters())
    inputs, targets = task.data("train")
    losses = []
    while True:
        shuffled = torch.randperm(len(inputs))
        for chosen in shuffled.split(_BATCH):
            outputs = model(inputs[chosen])
            loss = functional.cross_entropy(outputs.flatten(0, -2), targets[chosen].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if read:
                losses.append(loss.item())
            yield


def _ratios(ours: list[float], plain: list[float]) -> list[float]:
    return sorted(a / b for a, b in zip(ours, plain, strict=True))


def _spread(ratios: list[float]) -> str:
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:.3f} ({low:.3f} to {high:.3f}; {ratios[0]:.2f} to {ratios[-1]:.2f})"
