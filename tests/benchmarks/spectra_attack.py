"""Whether what a spectrum says holds: ends, edge, counts and moments against all eigenvalues."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from problem import Setting
from report import Bar, Section
from torch import Tensor, nn

from sharpcli.linalg.quadrature import quadrature
from sharpcli.runs.spectrum import _numbers

NAME = "spectra"
_STEPS, _SEEDS, _PROBES = (12, 20, 40, 80), 30, (2, 4)
_ASKED = 93.0
_SIZE = 2000


@dataclass
class _Matrix:
    """A symmetric matrix (n, n), or a diagonal (n,), as an operator."""

    entries: Tensor
    products: int = 0

    def __post_init__(self) -> None:
        self.size, self.dtype, self.device = (
            len(self.entries),
            self.entries.dtype,
            self.entries.device,
        )

    def __matmul__(self, vectors: Tensor) -> Tensor:
        self.products += vectors.shape[1] if vectors.ndim == 2 else 1
        if self.entries.ndim == 2:
            return self.entries @ vectors
        return self.entries.reshape(-1, *[1] * (vectors.ndim - 1)) * vectors


def _even(low: float, high: float, count: int = _SIZE) -> Tensor:
    """Independent uniform eigenvalues."""
    generator = torch.Generator().manual_seed(7)
    return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)


def _with(values: list[float], rest: Tensor) -> Tensor:
    rest = rest.clone()
    rest[: len(values)] = torch.tensor(values, dtype=torch.float64)
    return rest


def _wishart(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    factor = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return torch.linalg.eigvalsh(factor @ factor.T / columns)


_DIAGONALS: dict[str, Callable[[], Tensor]] = {
    "three equal, uniform": lambda: _with([10.0] * 3, _even(0, 1)),
    "five and five equal, uniform": lambda: _with([10.0] * 5 + [9.0] * 5, _even(0, 0.5)),
    "two equal, one apart, Wishart": lambda: _with([5.0, 5.0, 7.0], _wishart(800, 1600)),
    "one far out": lambda: _with([1e5], _even(-1, 1)),
    "one farther out": lambda: _with([1e8], _even(-1, 1)),
    "low rank": lambda: _with([4.0, 4.0, 2.0, 1.0], torch.zeros(_SIZE, dtype=torch.float64)),
    "both ends twice": lambda: _with([2.0, 2.0, -2.0, -2.0], _even(0, 0.01)),
    "four near each other": lambda: _with([10.0, 10.001, 10.002, 10.003], _even(0, 0.1)),
    "power law": lambda: 12 / torch.arange(1, _SIZE + 1, dtype=torch.float64),
    "a spike at zero, ten outliers": lambda: torch.cat(
        [_even(-5e-7, 5e-7, _SIZE - 210), _even(0, 1, 200) ** 4 / 2, torch.linspace(2, 12, 10)]
    ).double(),
    "one below": lambda: _with([-3.0], _even(0, 1)),
    "uniform": lambda: _even(-1, 1),
    "two values": lambda: _with([1.0] * (_SIZE // 2), -torch.ones(_SIZE, dtype=torch.float64)),
    "all equal": lambda: 2 * torch.ones(_SIZE, dtype=torch.float64),
    "log-normal": lambda: torch.exp(
        2 * torch.randn(_SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ),
}


def _network(number: int) -> Tensor:
    """The Hessian of a small network after some steps of descent, by double backward in float64."""
    torch.manual_seed(1000 + number)
    features, hidden, classes = 5 + number % 4, 12 + 2 * number, 3 + number % 3
    activation = (nn.Tanh, nn.GELU, nn.Softplus)[number % 3]
    model = nn.Sequential(
        nn.Linear(features, hidden), activation(), nn.Linear(hidden, 8), nn.Tanh(),
        nn.Linear(8, classes),
    ).double()  # fmt: skip
    inputs = torch.randn(80, features, dtype=torch.float64)
    targets = (inputs[:, :classes] + 0.3 * torch.randn(80, classes)).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30 * (1 + number)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    parameters = list(model.parameters())
    loss = nn.functional.cross_entropy(model(inputs), targets)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([each.ravel() for each in gradient])
    rows = [
        torch.cat([x.ravel() for x in torch.autograd.grad(g, parameters, retain_graph=True)])
        for g in flat
    ]
    matrix = torch.stack(rows)
    return (matrix + matrix.T) / 2


def _bulk(values: Tensor) -> tuple[float, int]:
    """The edge and the number of outliers of all eigenvalues, by definition (docs/measures.md)."""
    x = sorted(values.tolist(), reverse=True)
    count = 0
    for i in range(1, min(len(x) // 10, len(x) - 1) + 1):
        gap, ten = x[i - 1] - x[i], x[i : i + 10]
        if len(ten) < 10:
            break
        local = (5 + math.log(i)) * (ten[0] - ten[-1]) / 9
        if gap > 0 and gap >= max(local, 0.05 * (x[i] - x[-1]), 0.01 * (x[0] - x[-1])):
            count = i
    return x[count], count


def _verdicts(
    numbers: dict[str, Any], values: Tensor, rounding: float
) -> Iterator[tuple[str, str]]:
    """For each number whether it is right, wrong, a bound, or marked as not known."""
    edge, count = _bulk(values)
    true = {
        "largest": float(values.max()),
        "smallest": float(values.min()),
        "bulk_edge": edge,
        "outliers": count,
    }
    for key, value in true.items():
        scalar = numbers[key]
        read = scalar.get if isinstance(scalar, dict) else lambda name, s=scalar: getattr(s, name)
        if read("status") == "upper_bound":
            held = value <= read("value") + rounding
            yield key, "bound" if held else "wrong"
        elif read("status") != "converged":
            yield key, "marked"
        else:
            off = abs(read("value") - value)
            yield key, "right" if off <= (read("error") or 0.0) else "wrong"


def run(setting: Setting) -> Section:
    seeds, steps = (2, (12, 20)) if setting.quick else (_SEEDS, _STEPS)
    section = Section(
        NAME,
        "What a spectrum says, against all eigenvalues",
        f"Stochastic Lanczos quadrature with {_PROBES[0]} and {_PROBES[1]} probes of "
        f"{', '.join(map(str, steps))} steps, {seeds} seeds, of diagonals of {_SIZE} with multiple "
        "and isolated eigenvalues and of the Hessians of ten small networks, in float64 and "
        "float32. A number that is printed as converged has to lie within its error of the true "
        "one, the bulk's edge and the outliers those of the definition on all eigenvalues; an "
        "upper bound has to be one. Moments lie within two of their errors, or not.",
    )
    matrices = {
        name: made() for name, made in list(_DIAGONALS.items())[: 3 if setting.quick else None]
    }
    for number in range(2 if setting.quick else 10):
        matrices[f"network {number}"] = _network(number)
    rows, wrong, within, moments = [], 0, 0, 0
    for name, entries in matrices.items():
        tally: Counter[tuple[str, str]] = Counter()
        inside = looked = 0
        for dtype in (torch.float64, torch.float32):
            held = entries.to(dtype)
            # What float32 holds is the matrix there.
            double = held.double()
            values = double if held.ndim == 1 else torch.linalg.eigvalsh(double)
            true = [float((values**power).mean()) for power in range(1, 5)]
            for m in steps:
                for seed in range(seeds):
                    probes = _PROBES[seed % 2]
                    found = quadrature(_Matrix(held), probes=probes, steps=m, seed=seed)
                    numbers = _numbers(found, None, "hessian")
                    for key, verdict in _verdicts(numbers, values, found.rounding):
                        tally[key, verdict] += 1
                        if verdict == "wrong":
                            print(
                                "  wrong:", name, dtype, m, seed, key, numbers[key], file=sys.stderr
                            )
                    for moment, value in zip(numbers["moments"], true, strict=True):
                        inside += abs(moment.value - value) <= 2 * moment.error
                        looked += 1
        within, moments = within + inside, moments + looked
        wrong += sum(count for (_, verdict), count in tally.items() if verdict == "wrong")
        cells = [
            " / ".join(str(tally[key, each]) for each in ("right", "bound", "marked", "wrong"))
            for key in ("largest", "smallest", "bulk_edge", "outliers")
        ]
        rows.append((name, *cells, f"{100 * inside / looked:.1f} %"))
        print(" ", *rows[-1], sep=" | ", file=sys.stderr)
    header = ("matrix", "λ1", "λmin", "edge", "outliers", "moments within 2σ")
    section.tables.append(("Right / bound / marked / wrong", header, rows))
    share = 100 * within / moments
    section.bars.append(
        Bar(
            "moments within 2σ", f"{share:.1f} % of {moments:,}", f"≥ {_ASKED:g} %", share >= _ASKED
        )
    )
    total = len(matrices) * 2 * len(steps) * seeds * 4
    section.bars.append(
        Bar(
            "ends, edges and counts that are wrong and say converged",
            f"{wrong} of {total:,}",
            "0",
            wrong == 0,
        )
    )
    return section
