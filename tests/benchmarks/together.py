"""Runs that are trained together against one after another: runs an hour, and their weights."""

from __future__ import annotations

import time
from typing import Any

import torch
from problem import Setting
from report import Bar, Section

from sharpcli.tasks import load_task
from sharpcli.training.loop import Trained, train
from sharpcli.training.optimizers import TrainSettings
from sharpcli.training.together import train_together

NAME = "together"
_RUNS = 16
_NETWORKS = {
    "MLP 64-64-64-10": {"width": "64", "depth": "2"},
    "CNN": {"model": "cnn"},
}
_FASTER, _CLOSE, _NEVER_SLOWER = 8.0, 1e-5, 0.95


def run(setting: Setting) -> Section:
    # A long enough training that its start matters little, as in a sweep; the CNN's steps are long.
    steps = {
        "MLP 64-64-64-10": 300 if setting.quick else 3000,
        "CNN": 100 if setting.quick else 300,
    }
    section = Section(
        NAME,
        "Runs together",
        f"{_RUNS} runs of `digits` with other seeds and rates, batch 32, SGD with momentum and "
        "AdamW: trained together (where the first steps show that it is faster) against one after "
        "another, the first runs and the stack in turn, by CPU time of one thread.",
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows, bars = [], []
        for name, options in _NETWORKS.items():
            for optimizer in ("sgd", "adamw")[: 1 if setting.quick else 2]:
                ratio, off, count = _against(options, optimizer, steps[name], setting.quick)
                rows.append((name, optimizer, f"{count} of {_RUNS}", f"{ratio:.1f}", f"{off:.1e}"))
                least = _FASTER if name.startswith("MLP") else _NEVER_SLOWER
                bars.append(
                    Bar(
                        f"{name}, {optimizer}: runs an hour",
                        f"{ratio:.1f} ×",
                        f"≥ {least:g} ×",
                        ratio >= least,
                    )
                )
                bars.append(
                    Bar(
                        f"{name}, {optimizer}: weights",
                        f"{off:.1e}",
                        f"≤ {_CLOSE:g}",
                        off <= _CLOSE,
                    )
                )
    finally:
        torch.set_num_threads(threads)
    head = ("network", "optimizer", "together", "runs an hour, ratio", "weights differ by")
    section.tables.append(("Together against one by one", head, rows))
    section.bars += bars
    return section


def _against(
    options: dict[str, str], optimizer: str, steps: int, quick: bool
) -> tuple[float, float, int]:
    """The ratio of speeds, the largest relative difference, and how many were trained together."""
    task = load_task("digits", options)
    rate = 0.02 if optimizer == "sgd" else 1e-3
    momentum: dict[str, Any] = {"momentum": 0.9} if optimizer == "sgd" else {}
    settings = [
        TrainSettings(
            optimizer, lr=rate * (1 + i % 4), steps=steps, epochs=10**6, seed=i, **momentum
        )
        for i in range(_RUNS)
    ]
    train(task, TrainSettings(optimizer, steps=1))  # imports
    count = 2 if quick else 4
    alone, seconds = [], 0.0
    found: dict[int, Any] = {}
    for each in settings[: count // 2]:
        seconds += _timed(lambda each=each: alone.append(train(task, each)))
    left: list[int] = []
    whole = _timed(lambda: left.extend(train_together(task, settings, found.__setitem__)))
    for each in settings[count // 2 : count]:
        seconds += _timed(lambda each=each: alone.append(train(task, each)))
    each_alone = seconds / count
    off = max((_off(alone[i], found[i]) for i in range(count) if i in found), default=0.0)
    return _RUNS * each_alone / (whole + len(left) * each_alone), off, len(found)


def _timed(work: Any) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _off(one: Trained, other: Trained) -> float:
    flat = [torch.cat([t.double().flatten() for t in r.tensors.values()]) for r in (one, other)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())
