"""Whether numbers that are printed as converged lie within their errors of dense float64 ones."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from problem import Setting
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from torch import Tensor, nn

from sharpcli.runs.measure import measure_model

NAME = "certified"
_NETWORKS = 84
_DATA = {"wine": (load_wine, 3), "cancer": (load_breast_cancer, 2), "diabetes": (load_diabetes, 1)}
_ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus)
_LEAST_NUMBERS = 1500
# The reference's own rounding, in machine epsilons of its largest eigenvalue: LAPACK's bound for
# such sizes, and that of its columns.
_REFERENCE = 64


@dataclass(frozen=True)
class _Truth:
    """A network's numbers by dense double backward in float64."""

    eigenvalues: Tensor
    trace: float
    gradient: float
    loss: float

    @property
    def rounding(self) -> float:
        return _REFERENCE * torch.finfo(torch.float64).eps * float(self.eigenvalues.abs().max())


def squared_error(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs[:, 0] - batch[1]).square()


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Numbers on raw tabular features against dense float64",
        "Networks with one hidden layer on breast cancer, wine and diabetes, features as they "
        "come, after 0 to 400 steps of Adam, with default options but for k and the precision. "
        "Each number that is printed as converged is compared with that of the dense Hessian, by a "
        "float64 double backward.",
    )
    networks = 6 if setting.quick else _NETWORKS
    tallies: dict[str, Counter[str]] = {}
    for index, (model, train, loss) in enumerate(_networks(networks)):
        print(f"  network {index + 1} of {networks}", file=sys.stderr, flush=True)
        truth = _truth(model, train, loss)
        for dtype in ("float32", "float64"):
            for k in (5, 10):
                found = _measures(model, train, loss, dtype, k)
                _count(found, truth, tallies, dtype)
    rows = [
        [name, str(t["in"] + t["out"]), str(t["in"]), str(t["out"]), str(t["marked"])]
        for name, t in tallies.items()
    ]
    section.tables.append(
        ("Numbers", ["number", "unmarked", "within the error", "outside", "marked"], rows)
    )
    section.bars += _bars(tallies, quick=setting.quick)
    return section


def _bars(tallies: dict[str, Counter[str]], *, quick: bool) -> list[Bar]:
    def total(name: str) -> Counter[str]:
        return sum((t for key, t in tallies.items() if key.startswith(name)), Counter())

    values = total("λᵢ")
    asked = values["in"] + values["out"] + values["marked"]
    least = 1 if quick else _LEAST_NUMBERS
    bars = [
        Bar(
            "λ1 … λk marked converged, inside their errors",
            f"{values['in']} of {values['in'] + values['out']}, {asked} asked for",
            f"all, of {least} or more",
            values["out"] == 0 and asked >= least,
        )
    ]
    for name in ("λmin", "‖∇L‖", "loss"):
        t = total(name)
        seen = f"{t['in']} of {t['in'] + t['out']}"
        bars.append(Bar(f"{name} inside its error", seen, "all", t["out"] == 0))
    t = total("trace")
    share = t["in"] / max(t["in"] + t["out"], 1)
    seen = f"{t['in']} of {t['in'] + t['out']}"
    bars.append(Bar("trace within 2σ", seen, "95 %", share >= 0.95))
    return bars


def _networks(count: int) -> Iterator[tuple[nn.Module, tuple[Tensor, Tensor], Any]]:
    """Networks of several sizes, activations and ages, each with its data and loss."""
    for index in range(count):
        load, classes = list(_DATA.values())[index % len(_DATA)]
        raw = load(scaled=False) if load is load_diabetes else load()
        inputs = torch.tensor(raw.data, dtype=torch.float32)
        targets = torch.tensor(raw.target)
        targets = targets.float() if classes == 1 else targets.long()
        torch.manual_seed(index)
        width = (4, 8, 10, 12, 16)[index % 5]
        activation = _ACTIVATIONS[(index // 3) % len(_ACTIVATIONS)]
        model = nn.Sequential(
            nn.Linear(inputs.shape[1], width), activation(), nn.Linear(width, classes)
        )
        loss = squared_error if classes == 1 else None
        _train(model, inputs, targets, steps=(0, 50, 150, 400)[index % 4])
        yield model, (inputs, targets), loss


def _train(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        _mean_loss(model(inputs), targets).backward()
        optimizer.step()


def _mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape[1] == 1:
        return (outputs[:, 0] - targets).square().mean()
    return nn.functional.cross_entropy(outputs, targets)


def _truth(model: nn.Module, train: tuple[Tensor, Tensor], loss: Any) -> _Truth:
    inputs, targets = (t.double() if t.is_floating_point() else t for t in train)
    wide = torch.nn.Sequential(*model).double()
    parameters = [p.detach().clone().requires_grad_() for p in wide.parameters()]
    names = [name for name, _ in wide.named_parameters()]
    outputs = torch.func.functional_call(wide, dict(zip(names, parameters, strict=True)), (inputs,))
    value = _mean_loss(outputs, targets)
    slopes = torch.autograd.grad(value, parameters, create_graph=True)
    gradient = torch.cat([slope.reshape(-1) for slope in slopes])
    columns = []
    for entry in gradient:
        column = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        columns.append(torch.cat([part.reshape(-1) for part in column]))
    matrix = torch.stack(columns)
    model.float()
    return _Truth(
        torch.linalg.eigvalsh((matrix + matrix.T) / 2).flip(0),
        float(matrix.trace()),
        float(gradient.norm()),
        float(value),
    )


def _measures(
    model: nn.Module, train: tuple[Tensor, Tensor], loss: Any, dtype: str, k: int
) -> dict[str, Any]:
    report = measure_model(
        model,
        train,
        loss=loss,
        run=RunSettings(dtype=dtype),
        settings=MeasureSettings(measures=("loss", "gradient", "hessian", "trace"), top=k),
    )
    return dict(report.results[0].measures)


def _count(
    found: dict[str, Any], truth: _Truth, tallies: dict[str, Counter[str]], dtype: str
) -> None:
    hessian = found["hessian"]
    pairs = [
        *(
            ("λᵢ", s, float(t))
            for s, t in zip(hessian["eigenvalues"], truth.eigenvalues, strict=False)
        ),
        ("λmin", hessian["smallest"], float(truth.eigenvalues[-1])),
        ("‖∇L‖", found["gradient"]["norm"], truth.gradient),
        ("loss", found["loss"]["train"], truth.loss),
    ]
    for name, scalar, true in pairs:
        tally = tallies.setdefault(f"{name}, {dtype}", Counter())
        if scalar.status == "upper_bound":
            tally["in" if true <= scalar.value + truth.rounding else "out"] += 1
        elif scalar.status != "converged":
            tally["marked"] += 1
        else:
            # A value that rounds like the reference's own is as right as that is.
            room = (scalar.error or 0.0) + (
                truth.rounding if name.startswith("λ") else 1e-12 * true
            )
            tally["in" if abs(scalar.value - true) <= room else "out"] += 1
            if abs(scalar.value - true) > room:
                print(f"  outside: {name} {dtype} {scalar} true {true}", file=sys.stderr)
    tally = tallies.setdefault(f"trace, {dtype}", Counter())
    trace = found["trace"]
    if trace["status"] != "converged":
        tally["marked"] += 1
    else:
        room = 2 * trace["error"] + truth.rounding
        tally["in" if abs(trace["value"] - truth.trace) <= room else "out"] += 1
