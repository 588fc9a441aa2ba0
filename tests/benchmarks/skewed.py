"""How often a sample's intervals hold the number of all data where a few examples carry it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from problem import Setting, digits, relu_mlp
from report import Bar, Section
from sharpcli.documents.scalars import flat_scalars
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpcli.documents.results import to_document
from sharpcli.runs.measure import measure_model
from sharpcli.runtime.progress import Notes

NAME = "skewed"
_TOTAL, _SEEDS = 2000, 200
_SAMPLES = (64, 256, 512, 1024)
_LEAST = 90.0
# Ordinary data stay unmarked at this many examples and more.
_ORDINARY, _UNMARKED = 256, 90.0
_WITHIN = 1.96
_TARGETS = (0.2, 0.1, 0.07, 0.05, 0.04)
_GROWN_TOTAL, _GROWN_FROM = 6000, 256


@dataclass(frozen=True)
class _Data:
    """A model at a minimum of the loss on some data; `loss` gives one number an example."""

    model: nn.Module
    rows: tuple[Tensor, ...]
    loss: Callable[[Tensor, Any], Tensor]
    skewed: bool = True


@dataclass
class _Seen:
    """Of each number, how often an interval held the truth and how often it was marked."""

    held: dict[str, list[bool]] = field(default_factory=dict)
    marked: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, key: str, scalar: Mapping[str, Any], true: Mapping[str, Any]) -> None:
        error, value = scalar.get("sampling_error"), scalar["value"]
        off = abs(value - (scalar.get("sampling_bias") or 0.0) - true["value"])
        own = sum(
            each["error"] or 0.0 for each in (scalar, true) if each["error_kind"] == "residual"
        )
        random = scalar["error"] if scalar["error_kind"] == "standard_error" else 0.0
        random = 0.0 if random == error else random
        reach = _WITHIN * math.hypot(error or 0.0, random) + own
        # A number without a sampling error is that of all data, or marked.
        self.held.setdefault(key, []).append(off <= reach + 1e-9 * abs(true["value"]))
        self.marked.setdefault(key, []).append(bool(scalar.get("sampling_status")))

    def shares(self, key: str) -> tuple[float, float, float]:
        """Percent held; marked; held or marked."""
        held, marked = self.held[key], self.marked[key]
        either = [h or m for h, m in zip(held, marked, strict=True)]
        return tuple(100 * sum(each) / len(held) for each in (held, marked, either))  # type: ignore[return-value]


def run(setting: Setting) -> Section:
    seeds = 3 if setting.quick else _SEEDS
    section = Section(
        NAME,
        "Samples of skewed data",
        f"Small networks on {_TOTAL} examples of which a few carry the loss: a class of 2 % of the "
        "examples, targets of 1 % that lie far out, weights with a heavy tail; and digits at "
        f"losses of 0.3 and 0.1 for comparison. {seeds} samples of each size. An interval is value "
        "− sampling_bias ± 1.96·√(sampling_error² + standard error²), and a residual beyond. "
        "“Held” is the share of all intervals that hold the number of all data, “marked” that of "
        "the ones marked unreliable, and “held or marked” what is promised. Below, samples that "
        f"grow from {_GROWN_FROM} of {_GROWN_TOTAL} examples until `--relative-error` is met; the "
        "ones that grew to all of the data, which cannot be off, are left out.",
    )
    header = ("data", "examples", "number", "held", "marked", "held or marked")
    rows: list[tuple[str, ...]] = []
    for name, data in _sets(setting).items():
        whole = _numbers(data, None, 0)
        worst, most = 100.0, 0.0
        for samples in _SAMPLES:
            seen = _Seen()
            for seed in range(seeds):
                for key, scalar in _numbers(data, samples, seed).items():
                    seen.add(key, scalar, whole[key])
            print(f"  {name}: {samples}", file=sys.stderr, flush=True)
            for key in whole:
                held, marked, either = seen.shares(key)
                worst = min(worst, either)
                if samples >= _ORDINARY:
                    most = max(most, marked)
                cells = (f"{held:.0f} %", f"{marked:.0f} %", f"{either:.0f} %")
                rows.append((name, str(samples), _short(key), *cells))
        what = f"{name}: held or marked, the worst number and size"
        section.bars.append(Bar(what, f"{worst:.0f} %", f"≥ {_LEAST:g} %", worst >= _LEAST))
        if not data.skewed:
            unmarked = 100 - most
            what = f"{name}: unmarked from {_ORDINARY} examples on, the worst number and size"
            met = unmarked >= _UNMARKED
            section.bars.append(Bar(what, f"{unmarked:.0f} %", f"≥ {_UNMARKED:g} %", met))
    section.tables.append(("Samples of one size", header, rows))
    section.tables.append(_growing(section, seeds))
    return section


def _growing(section: Section, seeds: int) -> tuple[str, tuple[str, ...], list[Any]]:
    data = _scaled_rows()
    whole = _numbers(data, None, 0)
    rows, all_held = [], list[bool]()
    for target in _TARGETS:
        held: dict[int, list[bool]] = {}
        spent = 0
        for seed in range(seeds):
            sizes = list[int]()
            found = _numbers(data, _GROWN_FROM, seed, target=target, sizes=sizes)
            spent += sum(sizes)
            if sizes[-1] < _GROWN_TOTAL:
                seen = _Seen()
                seen.add("trace", found["trace"], whole["trace"])
                held.setdefault(sizes[-1], []).append(seen.held["trace"][0])
        stopped = [each for some in held.values() for each in some]
        all_held += stopped
        sizes_told = ", ".join(f"{n}: {sum(h)} of {len(h)}" for n, h in sorted(held.items()))
        share = f"{100 * sum(stopped) / len(stopped):.0f} %" if stopped else "–"
        rows.append((f"{target:g}", sizes_told, share, f"{spent / seeds:.0f}"))
        print(f"  grown to {target:g}: {share}", file=sys.stderr, flush=True)
    if all_held:
        share_held = 100 * sum(all_held) / len(all_held)
        met = share_held >= _LEAST
        what = "grown samples: held where they stopped, all targets"
        section.bars.append(Bar(what, f"{share_held:.0f} %", f"≥ {_LEAST:g} %", met))
    header = ("relative error", "held, by examples", "held", "examples measured in all")
    return "The trace of growing samples", header, rows


def _sets(setting: Setting) -> dict[str, _Data]:
    generator = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = normal(_TOTAL, 6)
    score = inputs[:, 0] + 0.5 * inputs[:, 1] + 0.3 * normal(_TOTAL)
    rare = (score > score.quantile(0.98)).long()
    product = inputs[:, :1] * inputs[:, 1:2]
    noisy = product + 0.1 * normal(_TOTAL, 1)
    noisy[torch.randperm(_TOTAL, generator=generator)[: _TOTAL // 100]] += 15
    weights = (1.5 * normal(_TOTAL)).exp()
    skewed = {
        "rare class": _trained(_tanh(6, 8, 2), (inputs, rare), _classes),
        "outliers": _trained(_tanh(6, 8, 1), (inputs, noisy), _squares),
        "heavy tail": _trained(_tanh(6, 8, 1), (inputs, product, weights), _weighted),
    }
    images, labels = digits()
    ordinary = {
        f"digits, loss {depth:g}": _trained(
            relu_mlp(64, 10, 10), (images, labels), _classes, depth=depth, skewed=False
        )
        for depth in (() if setting.quick else (0.3, 0.1))
    }
    return skewed | ordinary


def _scaled_rows() -> _Data:
    """Two classes of inputs whose scale differs from example to example by a factor of about 2."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(_GROWN_TOTAL, 5, generator=generator)
    inputs *= torch.exp(0.5 * torch.randn(_GROWN_TOTAL, 1, generator=generator))
    noise = torch.randn(_GROWN_TOTAL, generator=generator)
    labels = (inputs[:, :2].sum(1) + noise > 0).long()
    return _trained(_tanh(5, 4, 2), (inputs, labels), _classes)


def _tanh(*widths: int) -> nn.Module:
    first, hidden, last = widths
    return nn.Sequential(nn.Linear(first, hidden), nn.Tanh(), nn.Linear(hidden, last))


def _classes(outputs: Tensor, batch: Any) -> Tensor:
    return cross_entropy(outputs.double(), batch[1], reduction="none")


def _squares(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs - batch[1]).square()[:, 0]


def _weighted(outputs: Tensor, batch: Any) -> Tensor:
    return _squares(outputs, batch) * batch[2]


def _trained(
    model: nn.Module,
    rows: tuple[Tensor, ...],
    loss: Callable[[Tensor, Any], Tensor],
    *,
    depth: float = 0.0,
    skewed: bool = True,
) -> _Data:
    """Adam on all rows at once, 500 steps or until the loss is below `depth`."""
    torch.manual_seed(0)
    for layer in model:  # type: ignore[attr-defined]
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(500):
        optimizer.zero_grad()
        mean = loss(model(rows[0]), rows).mean()
        if float(mean.detach()) < depth:
            break
        mean.backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return _Data(model, rows, loss, skewed)


def _numbers(
    data: _Data,
    samples: int | None,
    seed: int,
    *,
    target: float | None = None,
    sizes: list[int] | None = None,
) -> dict[str, Mapping[str, Any]]:
    """The leading numbers of `sharp measure`; `sizes` gets those of the samples it took."""
    names = ("trace",) if target else ("loss", "epsilon-sharpness", "hessian", "trace", "gradient")
    said: list[str] = []
    report = measure_model(
        data.model,
        data.rows,
        loss=data.loss,
        metrics=None,
        run=RunSettings(device="cpu", samples=samples, seed=seed),
        settings=MeasureSettings(
            measures=names, epsilons=(1e-3,), top=1, sampling_error=target, tol=1e-4
        ),
        notes=Notes(note=said.append),
    )
    result = to_document(report)["results"][0]
    if sizes is not None:
        last = result["checkpoint"]["examples"]
        first = samples or last
        sizes += [min(first * 2**k, last) for k in range(64) if first * 2**k < 2 * last]
    found = flat_scalars(result["measures"])
    return {key: each for key, each in found.items() if key in _SHORT}


_SHORT = {
    "loss.train": "loss",
    "epsilon_sharpness[1e-3]": "φ",
    "hessian.eigenvalues[0]": "λ1",
    "trace": "trace",
    "gradient.norm": "‖∇L‖",
}


def _short(key: str) -> str:
    return _SHORT[key]
