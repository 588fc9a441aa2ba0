"""Intervals of noise scales on real images, against all examples one by one in float64."""

from __future__ import annotations

from typing import Any

import torch
from problem import Setting
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from sharpcli.runs.measure import measure_model

NAME = "noise-scales"
_SHARE = 0.9
_NAMES = {"simple": "B_simple", "noise": "B_noise"}


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Noise scales beside exact ones",
        "The 1,797 digits of scikit-learn and networks 64-24-10 with tanh, early and late in a "
        "training with momentum. The exact noise scales take the gradient of every example and "
        "the dense Hessian, in plain PyTorch and float64. `sharp` looks at 256 examples and draws "
        "32 products, with all data for G and H, and with samples of the data for both; the seed "
        "changes. An interval is the 95 % bootstrap interval; one without an end does not count as "
        "inside.",
    )
    draws = 8 if setting.quick else 100
    inputs, targets = _digits()
    for steps in (20, 300):
        model = _trained(inputs, targets, steps)
        exact = _exact(model, inputs, targets)
        rows = []
        for samples in (None, 1000):
            inside = dict.fromkeys(_NAMES, 0)
            open_ = dict.fromkeys(_NAMES, 0)
            widths: dict[str, list[float]] = {name: [] for name in _NAMES}
            for seed in range(draws):
                found = _measured(model, inputs, targets, samples, seed)
                for name in _NAMES:
                    low, high = found[name]["interval"]
                    if low is None or high is None:
                        open_[name] += 1
                        continue
                    inside[name] += low <= exact[name] <= high
                    widths[name].append((high - low) / 2 / abs(exact[name]))
            for name, title in _NAMES.items():
                width = sorted(widths[name])[len(widths[name]) // 2] if widths[name] else None
                rows.append(
                    (
                        title,
                        "all" if samples is None else f"{samples}",
                        f"{exact[name]:.4g}",
                        f"{inside[name]} of {draws - open_[name]}",
                        str(open_[name]),
                        "–" if width is None else f"± {100 * width:.0f} %",
                    )
                )
                counted = draws - open_[name]
                asked = f"{title} after {steps} steps, {samples or 'all'} examples: inside"
                if not counted:
                    section.notes.append(
                        f"{title} after {steps} steps, {samples} examples: G is "
                        "noise, and every run said so."
                    )
                    continue
                met = inside[name] >= _SHARE * counted
                section.bars.append(
                    Bar(asked, f"{inside[name]} of {counted}", f"≥ {_SHARE:.0%}", met)
                )
        header = ("", "examples", "exact", "inside", "without an end", "half width")
        section.tables.append((f"after {steps} steps", header, rows))
    return section


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


def _trained(inputs: Tensor, targets: Tensor, steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (128,))
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return model


def _exact(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Both noise scales from all examples' gradients, with products by forward over reverse."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    theta = torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])

    def loss(point: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = torch.split(point, [shape.numel() for shape in shapes])
        own = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return functional.cross_entropy(functional_call(model, own, (x,)), y)

    x = inputs.double()
    gradients = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(theta, x, targets)
    mean = gradients.mean(0)
    slope = torch.func.grad(lambda point: loss(point, x, targets))

    def product(vector: Tensor) -> Tensor:
        return torch.func.jvp(slope, (theta,), (vector,))[1]

    off = gradients - mean
    images = torch.cat([torch.vmap(product)(part) for part in off.split(100)])
    return {
        "simple": float(off.square().sum() / len(off) / (mean @ mean)),
        "noise": float((off * images).sum() / len(off) / (mean @ product(mean))),
    }


def _measured(
    model: nn.Module, inputs: Tensor, targets: Tensor, samples: int | None, seed: int
) -> dict[str, Any]:
    settings = MeasureSettings(measures=("noise-scale",), options={"noise_examples": 256})
    report = measure_model(
        model,
        (inputs, targets),
        run=RunSettings(device="cpu", samples=samples, seed=seed),
        settings=settings,
    )
    found: dict[str, Any] = report.results[0].measures["noise_scale"]
    return found
