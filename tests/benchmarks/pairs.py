"""How often the paired interval of a ratio holds what all of the data give, and how wide it is."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from problem import Problem, Setting, mnist, objective, relu_mlp
from report import Bar, Section
from sharpcli.documents.scalars import flat_scalars
from sharpcli.settings.measuring import MeasureSettings
from torch import Tensor
from torch.nn.functional import cross_entropy

from sharpcli.documents.pairing import Pair, pair_of
from sharpcli.documents.results import CheckpointResult, Report, to_document
from sharpcli.measures import compute, known_measures
from sharpcli.measures.context import Context
from sharpcli.objective.objective import Objective

NAME = "pairs"
_IMAGES, _TEST, _SAMPLE, _SAMPLES = 4000, 1000, 512, 200
_LEAST, _MOST, _WIDTH = 90.0, 99.0, 0.65
_LAMBDA = "hessian.eigenvalues[0]"
_PROMISED = (_LAMBDA, "trace", "epsilon_sharpness[1e-3]", "loss.train", "loss.gap")
_MEASURES = ("loss", "epsilon-sharpness", "gradient", "hessian", "trace")


@dataclass(frozen=True)
class _Minimum:
    """A training: Adam's settings, and the loss at which it ends."""

    name: str
    seed: int
    batch: int
    betas: tuple[float, float]
    loss: float


_PAIRS = (
    (
        _Minimum("batches of 64", 0, 64, (0.9, 0.999), 0.1),
        _Minimum("batches of 512", 1, 512, (0.9, 0.999), 0.1),
    ),
    (
        _Minimum("β = 0.9, 0.999", 2, 64, (0.9, 0.999), 0.02),
        _Minimum("β = 0.5, 0.9", 2, 64, (0.5, 0.9), 0.02),
    ),
)


def run(setting: Setting) -> Section:
    images, test, sample, samples = (
        (600, 100, 300, 4) if setting.quick else (_IMAGES, _TEST, _SAMPLE, _SAMPLES)
    )
    section = Section(
        NAME,
        "Two minima on one sample",
        f"Pairs of minima of 784-64-64-10 that Adam (1e-3) reaches on {images} MNIST images. "
        f"{samples} random samples of {sample} images are measured as `--samples` does, both "
        f"minima on the same sample; the test data are all {test} others. Covered: how many of "
        "the 95 % intervals of the ratio hold the ratio on all images. Width: the paired "
        "interval's by that of the same numbers taken as independent, median. Deviations are of "
        "log(a/b) over the samples, and as each sample's own standard error tells, the root of "
        "the mean square.",
    )
    header = ("number", "a/b", "covered", "too low", "too high", "width", "deviation", "told")
    for pair in _PAIRS[:1] if setting.quick else _PAIRS:
        built = [_trained(each, images, test, setting.device) for each in pair]
        whole = [_scalars(splits, theta, 0, tol=1e-5) for splits, theta in built]
        found = []
        for number in range(samples):
            chosen = torch.randperm(images, generator=torch.Generator().manual_seed(1000 + number))[
                :sample
            ].sort()[0]
            found.append([_on(chosen, splits, theta, number) for splits, theta in built])
            if number % 20 == 0:
                print(f"  {pair[0].name}: {number} of {samples}", file=sys.stderr)
        rows = []
        keys = [key for key in found[0][0] if key in found[0][1]]
        for key in [*_PROMISED, *(key for key in keys if key not in _PROMISED)]:
            true = _value(whole[0][key]) / _value(whole[1][key])
            both = [
                [pair_of(a[key], b[key], key, sample, images, same_rows=same) for a, b in found]
                for same in (True, False)
            ]
            row, covered, width = _row(*both, true)
            if row is None:
                continue
            rows.append((key, f"{true:.3g}", *row))
            name = f"{pair[0].name} against {pair[1].name}"
            if key in _PROMISED:
                section.bars.append(
                    Bar(
                        f"{key} covered, {name}",
                        f"{covered:.1f} %",
                        f"{_LEAST:g}–{_MOST:g} %",
                        _LEAST <= covered <= _MOST,
                    )
                )
            if key == _LAMBDA:
                bar = Bar(
                    f"λ1's width by unpaired, {name}",
                    f"{width:.3f}",
                    f"≤ {_WIDTH}",
                    width <= _WIDTH,
                )
                section.bars.append(bar)
        losses = " and ".join(f"{_value(each['loss.train']):.3g}" for each in whole)
        section.tables.append((f"{name}, training losses {losses}", header, rows))
    return section


def _row(
    paired: list[Pair], alone: list[Pair], true: float
) -> tuple[tuple[str, ...] | None, float, float]:
    """A table's cells, the share covered in per cent, and the width by that of unpaired ones."""
    known = [each for each in paired if each.ratio.interval is not None]
    if not known or not all(each.paired for each in paired):
        return None, 0.0, 0.0
    ends = [each.ratio.interval for each in known]
    low = sum(high < true for _, high in ends)
    high = sum(low > true for low, _ in ends)
    count = len(paired)  # an interval without ends holds everything
    widths = [
        (a.ratio.interval[1] - a.ratio.interval[0]) / (b.ratio.interval[1] - b.ratio.interval[0])
        for a, b in zip(paired, alone, strict=True)
        if a.ratio.interval and b.ratio.interval
    ]
    width = statistics.median(widths) if widths else math.nan
    logs = [math.log(each.ratio.value) for each in paired if (each.ratio.value or 0) > 0]
    told = [each.log_error for each in paired if each.log_error is not None]
    covered = 100 * (count - low - high) / count
    return (
        (
            f"{covered:.1f} %",
            f"{100 * low / count:.1f} %",
            f"{100 * high / count:.1f} %",
            f"{width:.3f}",
            f"{statistics.stdev(logs):.3f}" if len(logs) > 1 else "–",
            f"{math.sqrt(sum(x * x for x in told) / len(told)):.3f}" if told else "–",
        ),
        covered,
        width,
    )


def _trained(
    minimum: _Minimum, count: int, test: int, device: torch.device
) -> tuple[dict[str, Objective], Tensor]:
    """The objectives of both splits, and θ."""
    torch.manual_seed(minimum.seed)
    inputs, targets = mnist(count + test)
    model = relu_mlp(784, 64, 64, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=minimum.betas)
    for _ in itertools.count():
        for rows in torch.randperm(count).split(minimum.batch):
            optimizer.zero_grad()
            cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(cross_entropy(model(inputs[:count]), targets[:count]))
        if loss < minimum.loss:
            break
    problem = Problem("", model, inputs[:count], targets[:count], loss).to(device)
    others = Problem("", model, inputs[count:], targets[count:], loss).to(device)
    (train, theta), (held_out, _) = objective(problem), objective(others)
    return {"train": train, "test": held_out}, theta


def _on(
    chosen: Tensor, splits: Mapping[str, Objective], theta: Tensor, seed: int
) -> Mapping[str, Mapping[str, Any]]:
    train = splits["train"]
    part = Objective(train.network, train.rows.take(chosen), train.fixed)
    return _scalars({**splits, "train": part}, theta, seed)


def _scalars(
    splits: Mapping[str, Objective], theta: Tensor, seed: int, *, tol: float = MeasureSettings.tol
) -> Mapping[str, Mapping[str, Any]]:
    """The default measures as `sharp measure` makes them, by flat key."""
    settings = MeasureSettings(epsilons=(1e-3,), tol=tol)
    context = Context(splits["train"], splits, theta, settings, seed=seed)
    try:
        measures = compute([known_measures()[name] for name in _MEASURES], context)
    finally:
        context.release()
    report = Report("measure", {}, {}, {}, [CheckpointResult({"path": ""}, measures=measures)])
    return flat_scalars(to_document(report)["results"][0]["measures"])


def _value(scalar: Mapping[str, Any]) -> float:
    value = scalar["value"]
    return math.nan if value is None else float(value)
