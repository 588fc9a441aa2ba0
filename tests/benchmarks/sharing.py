"""What the default measures share: one run of all against a run of each on its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from problem import Setting
from report import Bar, Section
from torch import nn

from sharpcli import MeasureSettings, measure_model

NAME = "sharing"
_BAR = 0.8
_EPSILONS = MeasureSettings().epsilons
# As a person would run them who asks for one number at a time: the trace needs its own sketch.
_SEPARATE = (
    MeasureSettings(measures=("loss",)),
    *(MeasureSettings(measures=("epsilon-sharpness",), epsilons=(each,)) for each in _EPSILONS),
    MeasureSettings(measures=("gradient",)),
    MeasureSettings(measures=("hessian",)),
    MeasureSettings(measures=("trace",)),
)


def run(setting: Setting) -> Section:
    width, count = (32, 200) if setting.quick else (setting.width, 4000)
    section = Section(
        NAME,
        "What measures share",
        f"The default measures of a trained 784-{width}-{width}-10 on {count:,} images, as one "
        "run and as a run of each measure and ε, alternating, in process seconds.",
    )
    model, data = _trained(width, count)
    together, apart = [], []
    for _ in range(1 if setting.quick else setting.repeats):
        together.append(_seconds(model, data, [MeasureSettings()]))
        apart.append(_seconds(model, data, _SEPARATE))
    ratios = [a / b for a, b in zip(together, apart, strict=True)]
    section.tables.append(
        (
            "Seconds",
            ("together", "each on its own", "ratio"),
            [
                (f"{a:.1f}", f"{b:.1f}", f"{ratio:.2f}")
                for a, b, ratio in zip(together, apart, ratios, strict=True)
            ],
        )
    )
    found = statistics.median(ratios)
    section.bars.append(Bar("together over apart", f"{found:.2f}", f"≤ {_BAR:g}", found <= _BAR))
    return section


def _seconds(
    model: nn.Module,
    data: tuple[torch.Tensor, torch.Tensor],
    runs: Sequence[MeasureSettings],
) -> float:
    started = time.process_time()
    for settings in runs:
        measure_model(model, data, settings=settings)
    return time.process_time() - started


def _trained(width: int, count: int) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """Four epochs of Adam on noisy images of ten classes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )
    centres, labels = torch.rand(10, 784), torch.randint(0, 10, (count,))
    images = (centres[labels] + 0.7 * torch.randn(count, 784)).clamp(0, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(4):
        for rows in torch.randperm(count).split(128):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model, (images, labels)
