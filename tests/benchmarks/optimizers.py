"""Optimizers with schedules against plain float64 loops written from their formulas."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from problem import Setting
from report import Bar, Section

from sharpcli.training import TrainSettings
from sharpcli.training.loop import train

sys.path.append(str(Path(__file__).parents[1] / "support"))

import plain_loops as plain
import plain_others as others

NAME = "optimizers"
_STEPS = 100
_CLOSE = 1e-6


@dataclass(frozen=True)
class _Case:
    """An optimizer, its settings and options, and its formula as a loop over the rates."""

    optimizer: str
    lr: float
    loop: Callable[[list[float]], plain.Array]
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: bool = False  # it is pytorch-optimizer's

    @property
    def label(self) -> str:
        given = {**self.settings, **self.options}
        return ", ".join([self.optimizer, *(f"{name}={value}" for name, value in given.items())])


_MOMENTUM, _DECAY = {"momentum": 0.9}, {"weight_decay": 0.1}
_BETAS = (0.9, 0.99, 0.999)
_MIX = {"betas": _BETAS, "weight_decay": 0.1}
_CASES = (
    _Case("SGD", 0.03, lambda r: plain.sgd(r, decay=0.1), _DECAY),
    _Case("SGD", 0.03, lambda r: plain.sgd(r, 0.9), _MOMENTUM),
    _Case("SGD", 0.03, lambda r: plain.sgd(r, 0.9, nesterov=True), _MOMENTUM, {"nesterov": True}),
    _Case("Adam", 0.03, lambda r: plain.adam(r, decay=0.1), _DECAY),
    _Case("Adam", 0.03, lambda r: plain.adam(r, amsgrad=True), {}, {"amsgrad": True}),
    _Case("AdamW", 0.03, lambda r: plain.adam(r, decay=0.1, decoupled=True), _DECAY),
    _Case("RMSprop", 0.01, others.rmsprop),
    _Case(
        "RMSprop",
        0.01,
        lambda r: others.rmsprop(r, momentum=0.5, centered=True),
        {"momentum": 0.5},
        {"centered": True},
    ),
    _Case("Adagrad", 0.3, lambda r: others.adagrad(r, 0.01), {}, {"lr_decay": 0.01}),
    _Case("Adadelta", 1.0, others.adadelta),
    _Case("Adamax", 0.03, others.adamax),
    _Case("NAdam", 0.03, others.nadam),
    _Case("RAdam", 0.03, others.radam),
    _Case("ASGD", 0.03, others.asgd),
    _Case("Rprop", 0.01, others.rprop),
    _Case("SAM", 0.005, lambda r: plain.sam(r, 0.2, 0.5), {"momentum": 0.5}, {"rho": 0.2}),
    _Case(
        "SAM",
        0.03,
        lambda r: plain.adam(r, slope=plain.nearby(0.1)),
        {},
        {"rho": 0.1, "base_optimizer": "adam"},
    ),
    _Case("ASAM", 0.005, lambda r: plain.sam(r, 0.5, adaptive=True, eta=0.01)),
    _Case("Lion", 0.01, others.lion, extra=True),
    _Case(
        "AdEMAMix",
        0.01,
        lambda r: plain.ademamix(r, _BETAS, 2.0, 0.1),
        _MIX,
        {"alpha": 2.0, "weight_decouple": True},
        extra=True,
    ),
    _Case(
        "AdEMAMix",
        0.01,
        lambda r: plain.ademamix(r, _BETAS, 2.0, 0.1, over=_STEPS),
        _MIX,
        {"alpha": 2.0, "weight_decouple": True, "t_alpha_beta3": _STEPS},
        extra=True,
    ),
)

# A schedule of peak k, and its formula.
_SCHEDULES: Mapping[str, Callable[[float, int], float]] = {
    "": lambda k, t: k,
    "EXP(k0={k}, gamma=0.98)": lambda k, t: k * 0.98**t,
    "STEP(k0={k}, gamma=0.5, l=30)": lambda k, t: k * 0.5 ** (t // 30),
    "cosine({k}, steps=100)": lambda k, t: k / 2 * (1 + math.cos(math.pi * t / 100)),
}


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Optimizers",
        f"{_STEPS} full-batch steps in float64 on least squares of {len(plain.TARGETS)} examples, "
        "by `sharpcli.training.loop.train` and by a loop in NumPy that is written from the "
        "published formula, with the gradient by hand. The difference is the largest of any "
        "weight, relative to the largest weight.",
    )
    library = importlib.util.find_spec("pytorch_optimizer") is not None
    cases = [case for case in _CASES if library or not case.extra]
    chosen = cases[:: 5 if setting.quick else 1]
    rows, worst = [], 0.0
    for case in chosen:
        for spec, formula in _SCHEDULES.items():
            off, moved = _off(case, spec.format(k=case.lr), formula)
            worst = max(worst, off if moved > 0.1 else math.inf)
            rows.append((case.label, spec.format(k=case.lr) or f"lr={case.lr}", f"{off:.1e}"))
    section.tables.append(("", ("optimizer", "rate", "largest relative difference"), rows))
    if not library:
        section.notes.append("Without pytorch-optimizer: Lion and AdEMAMix are left out.")
    section.bars.append(
        Bar(
            f"{len(chosen)} optimizers, {len(_SCHEDULES)} rates, after {_STEPS} steps",
            f"{worst:.1e}",
            f"≤ {_CLOSE:g}",
            worst <= _CLOSE,
        )
    )
    return section


def _off(case: _Case, spec: str, formula: Callable[[float, int], float]) -> tuple[float, float]:
    """The largest relative difference, and how far the weights went from their start."""
    given = {"schedule": spec} if spec else {"lr": case.lr}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        settings = TrainSettings(
            case.optimizer,
            batch_size=len(plain.TARGETS),
            steps=_STEPS,
            optimizer_options={**case.settings, **case.options},
            **given,
        )
        found = train(plain.task(), settings).tensors["weight"][0].numpy()
    finally:
        torch.set_default_dtype(before)
    expected = case.loop([formula(case.lr, step) for step in range(_STEPS)])
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    return off, float(np.linalg.norm(expected - plain.START))
