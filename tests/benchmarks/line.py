"""Loss and accuracy on the line between two minima, from models and data in memory."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from paired import in_turns, ratio
from problem import Setting, digits, epochs_of_adam, mnist, relu_mlp
from report import Bar, Section
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sharpcli.landscape.frame import line
from sharpcli.landscape.points.channels_last import channels_last
from sharpcli.landscape.points.evaluator import Anchors, Surface
from sharpcli.landscape.points.walk import Walk, Watch
from sharpcli.objective.checks import check_deterministic
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.rows import Rows
from sharpcli.tasks import Task, defaults

NAME = "line"
POINTS = 25
# Where the loss-landscapes package evaluates: it steps before it looks, so α = 0 is left out.
ALPHAS = [(i + 1) / POINTS for i in range(POINTS)]
_LI_BATCH = 128
_OURS, _OURS_LOSS = "sharp, loss and accuracy", "sharp, loss alone"
_METRICS = "loss-landscapes, loss and accuracy"
_ONE_METRIC = "loss-landscapes, loss and accuracy by one metric of our own"
_LOSS = "loss-landscapes, loss alone"
_LI = "DataLoader pass a point, tensors"
_LI_IMAGES = "DataLoader pass a point, images"
_AGREEMENT = 1e-5
# Seconds of one round, above which there are few.
_LONG = 10.0
# What is compared with which of ours, and the ratio asked for.
_BARS = (
    (_METRICS, _OURS, 2.0),
    (_LOSS, _OURS_LOSS, 2.0),
    (_LI_IMAGES, _OURS, 3.0),
    (_LI, _OURS, 3.0),
)
_OTHERS = ((_ONE_METRIC, _OURS),)

Examples = tuple[Tensor, Tensor]
Curves = np.ndarray
"""(points, 4): loss on train and test, accuracy on train and test; or (points, 2): the losses."""


@dataclass(frozen=True)
class Ends:
    """Two minima of one network, and its data: pixels that are integers divided by `levels`."""

    name: str
    start: nn.Module
    end: nn.Module
    splits: Mapping[str, Examples]
    levels: int

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Ends:
        """The same line on another device, in another dtype."""
        start, end = (copy.deepcopy(it).to(device, dtype) for it in (self.start, self.end))
        splits = {name: (x.to(device, dtype), y.to(device)) for name, (x, y) in self.splits.items()}
        return replace(self, start=start, end=end, splits=splits)


def ours(ends: Ends, *, accuracy: bool) -> Curves:
    """What `sharp interpolate` does between the models and data in memory and the curves."""
    task = Task(
        name="benchmark",
        options={},
        fingerprint="",
        model=lambda: ends.start,
        data=lambda split: ends.splits[split],
        predict=defaults.predict,
        loss=defaults.loss_for("benchmark"),
        metrics=defaults.metrics if accuracy else None,
    )
    device = ends.splits["train"][0].device
    network = Network(ends.start, task, device=device)
    states = [model.state_dict(keep_vars=True) for model in (ends.start, ends.end)]
    fixed = [network.fixed(state) for state in states]
    objectives = {}
    for name, (inputs, targets) in ends.splits.items():
        rows = Rows((inputs, targets), len(inputs), len(inputs))
        objectives[name] = Objective(network, rows, fixed[0])
    thetas = [network.flatten(state) for state in states]
    check_deterministic(objectives["train"], thetas[0])
    frame = line(*thetas)
    objectives = {name: channels_last(each, thetas[0]) for name, each in objectives.items()}
    walk = Walk(Surface(objectives), Watch())
    points = [(alpha,) for alpha in ALPHAS]
    found = walk.values("line", Anchors(frame.anchors, fixed), points, frame.weights)
    names = ("loss", "accuracy") if accuracy else ("loss",)
    return np.array(
        [[at[split][name].value for name in names for split in ends.splits] for at in found if at]
    )


def package(ends: Ends, kind: str) -> Curves:
    """`loss_landscapes.linear_interpolation`, as its README has it, on a copy of the models.

    `kind`: `loss` is its own `Loss` metric, `metrics` an accuracy metric beside it, written as the
    README says and joined by the package's `MetricPipeline`; `one` a metric that gives both.
    """
    import loss_landscapes
    from loss_landscapes.metrics import Loss, Metric, MetricPipeline

    criterion = nn.CrossEntropyLoss()

    class Accuracy(Metric):
        def __init__(self, inputs: Tensor, target: Tensor) -> None:
            super().__init__()
            self.inputs, self.target = inputs, target

        def __call__(self, model_wrapper: object) -> float:
            outputs = model_wrapper.forward(self.inputs)
            return (outputs.argmax(1) == self.target).float().mean().item()

    class Both(Accuracy):
        def __call__(self, model_wrapper: object) -> tuple[float, float]:
            outputs = model_wrapper.forward(self.inputs)
            right = (outputs.argmax(1) == self.target).float().mean()
            return criterion(outputs, self.target).item(), right.item()

    data = list(ends.splits.values())
    if kind == "one":
        metrics = [Both(x, y) for x, y in data]
    else:
        metrics = [Loss(criterion, x, y) for x, y in data]
        metrics += [Accuracy(x, y) for x, y in data] if kind == "metrics" else []
    found = loss_landscapes.linear_interpolation(
        ends.start, ends.end, MetricPipeline(metrics), steps=POINTS, deepcopy_model=True
    )
    return found.transpose(0, 2, 1).reshape(POINTS, -1) if kind == "one" else found


class _Images(Dataset):
    """Images as torchvision's data sets keep them: integers, made a float tensor when asked for."""

    def __init__(self, inputs: Tensor, targets: Tensor, levels: int) -> None:
        self.shape, self.levels = inputs.shape[1:], levels
        pixels = (inputs.cpu() * levels).round().to(torch.uint8).reshape(len(inputs), -1)
        side = math.isqrt(pixels.shape[1])
        self.pixels = pixels.view(-1, side, side).numpy()
        self.targets = targets.cpu().tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        image = np.array(Image.fromarray(self.pixels[index]))
        inputs = torch.from_numpy(image).to(torch.get_default_dtype()).div_(self.levels)
        return inputs.view(self.shape), self.targets[index]


def dataloader_pass(ends: Ends, *, images: bool = False) -> Curves:
    """A loop over points that sets the weights and goes through a DataLoader of each split.

    As in Li et al.'s published code: the weights of the start plus a step along the difference,
    batches of 128, the loss's item and the count of right answers a batch. `images`: the data are
    8-bit images that are made tensors one by one, as there; else tensors, as fast as it goes.
    """
    model = copy.deepcopy(ends.start).eval()
    criterion = nn.CrossEntropyLoss()
    device = ends.splits["train"][0].device
    loaders = [
        DataLoader(
            _Images(x, y, ends.levels) if images else TensorDataset(x.cpu(), y.cpu()),
            batch_size=_LI_BATCH,
        )
        for x, y in ends.splits.values()
    ]
    start, end = ends.start.state_dict(), ends.end.state_dict()
    direction = {name: end[name] - start[name] for name in start}
    curves = []
    for alpha in ALPHAS:
        model.load_state_dict({name: start[name] + alpha * direction[name] for name in start})
        losses, accuracies = [], []
        for loader in loaders:
            total, right, count = 0.0, 0, 0
            with torch.no_grad():
                for batch in loader:
                    inputs, targets = (each.to(device) for each in batch)
                    outputs = model(inputs)
                    total += criterion(outputs, targets).item() * len(inputs)
                    right += int((outputs.max(1).indices == targets).sum())
                    count += len(inputs)
            losses.append(total / count)
            accuracies.append(right / count)
        curves.append([*losses, *accuracies])
    return np.array(curves)


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "A line of 25 points",
        f"The line between two minima of one network (batches of 64 and of 512), {POINTS} points, "
        "training and test data, from models and data in memory to the curves. The "
        "loss-landscapes package runs `linear_interpolation` as its README says, on all rows at "
        "once: its `Loss` metric on both splits, joined by its `MetricPipeline`; it brings no "
        "accuracy, so one written as the README shows stands beside it, and for information a "
        "metric of our own that takes loss and accuracy from one forward pass. The DataLoader pass "
        "is what Li et al.'s code does at a point: set the weights, go through a DataLoader in "
        f"batches of {_LI_BATCH}, on both splits; `images` keeps 8-bit images and makes each a "
        "tensor when it is asked for, as torchvision's data sets there do, `tensors` is spared "
        "that. All in float32; our losses take the "
        "softmax in float64. The error is the worst relative one of a loss, against a plain loop "
        "in float64.",
    )
    for make in (_mlp, _digits, _lenet):
        ends = make(setting.width, setting.quick).to(setting.device)
        truth = dataloader_pass(ends.to(setting.device, torch.float64))
        rivals: dict[str, Callable[[], Curves]] = {
            _OURS: lambda ends=ends: ours(ends, accuracy=True),
            _METRICS: lambda ends=ends: package(ends, "metrics"),
            _ONE_METRIC: lambda ends=ends: package(ends, "one"),
            _LI_IMAGES: lambda ends=ends: dataloader_pass(ends, images=True),
            _LI: lambda ends=ends: dataloader_pass(ends),
            _OURS_LOSS: lambda ends=ends: ours(ends, accuracy=False),
            _LOSS: lambda ends=ends: package(ends, "loss"),
        }
        pilot = in_turns(rivals, 1)
        long = sum(it.median for it in pilot.values()) > _LONG
        timed = in_turns(rivals, setting.repeats if long else 3 * setting.repeats)
        by_ours = {peer: (mine, None) for peer, mine in _OTHERS}
        by_ours |= {peer: (mine, asked) for peer, mine, asked in _BARS}
        rows = []
        for name, it in timed.items():
            mine, asked = by_ours.get(name, (name, None))
            found = ratio(it, timed[mine])
            error = _loss_difference(it.result, truth)
            rows.append((name, it.spread(), str(found) if mine != name else "1", f"{error:.1e}"))
            if asked:
                what = f"{name}, {ends.name}"
                section.bars.append(Bar(what, str(found), f"≥ {asked:g}", found.median >= asked))
        header = ("", "seconds", "by ours", "error of a loss")
        section.tables.append((ends.name, header, rows))
        apart = max(_loss_difference(it.result, timed[_OURS].result) for name, it in timed.items())
        met = apart <= _AGREEMENT and _same_accuracies([it.result for it in timed.values()], ends)
        what = f"losses apart, {ends.name}"
        section.bars.append(Bar(what, f"{apart:.1e}", f"≤ {_AGREEMENT:g}, accuracies equal", met))
    return section


def _loss_difference(found: Curves, reference: Curves) -> float:
    return float(np.max(np.abs(found[:, :2] / reference[:, :2] - 1)))


def _same_accuracies(results: list[Curves], ends: Ends) -> bool:
    """Whether all count the same right answers, but for one that rounding decides."""
    counts = np.array([len(y) for _, y in ends.splits.values()])
    right = np.array([np.rint(it[:, 2:] * counts) for it in results if it.shape[1] == 4])
    return bool(np.ptp(right, axis=0).max() <= 1)


@functools.cache
def _mlp(width: int, quick: bool) -> Ends:
    inputs, targets = mnist(500 if quick else 5000)
    width = 32 if quick else width
    return _ends(
        f"784-{width}-{width}-10 on MNIST",
        lambda: relu_mlp(784, width, width, 10),
        inputs,
        targets,
        epochs=2 if quick else 5,
    )


@functools.cache
def _digits(width: int, quick: bool) -> Ends:
    return _ends(
        "64-64-64-10 on digits", lambda: relu_mlp(64, 64, 64, 10), *digits(), levels=16, epochs=10
    )


@functools.cache
def _lenet(width: int, quick: bool) -> Ends:
    """Two convolutions and two linear layers on MNIST."""
    inputs, targets = mnist(500 if quick else 5000)

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        )

    return _ends("LeNet-5 on MNIST", make, inputs.view(-1, 1, 28, 28), targets, epochs=2)


def _ends(
    name: str,
    make: Callable[[], nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    levels: int = 255,
) -> Ends:
    """Four fifths to train on, one fifth to test; one start, two batch sizes."""
    count = len(inputs) * 4 // 5
    train, test = (inputs[:count], targets[:count]), (inputs[count:], targets[count:])
    models = []
    for batch in (64, 512):
        torch.manual_seed(0)
        model = make()
        training = epochs_of_adam(model, *train, batch=batch, seed=0)
        for _ in range(epochs):
            next(training)
        model.zero_grad(set_to_none=True)
        models.append(model.eval())
    sizes = f"{len(train[0]):,} and {len(test[0]):,} rows"
    return Ends(f"{name}, {sizes}", *models, {"train": train, "test": test}, levels)
