"""Which measures move though the function does not: hidden units rescaled by random factors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from problem import Setting, digits, epochs_of_adam, mnist, relu_mlp
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import Tensor, nn

from sharpcli.documents.results import RescaledNumber, RescalingFacts
from sharpcli.measures import known_measures
from sharpcli.measures.columns import column_titles
from sharpcli.runs.measure import measure_model

NAME = "rescaling"
# Numbers that no rescaling may move by more than this share, and those that must be said to move.
_LARGEST = 0.02
_INVARIANT = (
    "path_norm.norm",
    "margin.output",
    "margin.over_path_norm",
    "adaptive_sharpness.worst_linf",
)
_INVARIANT_BY_LAYER = (*_INVARIANT, "margin.over_spectral_norms", "spectral_norms.product")
_MOVED = ("epsilon_sharpness[1e-3]", "hessian.eigenvalues[0]", "trace")
_MEASURES = (
    "loss",
    "epsilon-sharpness",
    "gradient",
    "hessian",
    "trace",
    "adaptive-sharpness",
    "parameter-norms",
    "spectral-norms",
    "path-norm",
    "margin",
)
_FACTOR = 4.0


def run(setting: Setting) -> Section:
    """Rescale two trained networks, unit by unit and layer by layer, and measure them again."""
    section = Section(
        NAME,
        "Rescaling hidden units",
        "`sharp measure --rescale-check`: trained networks, and the same functions with every "
        f"hidden unit (or every layer) rescaled by a random factor between 1/{_FACTOR:g} and "
        f"{_FACTOR:g}. The tables have the largest relative change over the seeds, by unit and by "
        "layer, and how often the verdict was `moved`.",
    )
    draws = 1 if setting.quick else 5
    still, still_by_layer, outputs = 0.0, 0.0, 0.0
    moved = cases = 0
    for name, model, inputs, targets in _networks(setting):
        found: dict[str, dict[str, list[RescaledNumber]]] = {}
        for by in ("unit", "layer"):
            for seed in range(draws):
                numbers, facts = _rescaled(model, inputs, targets, by, seed, setting)
                outputs = max(outputs, facts.output_difference)
                for number in numbers:
                    found.setdefault(number.measure, {}).setdefault(by, []).append(number)
        section.tables.append((name, _HEADER, _rows(found)))
        still = max(still, _most(found, _INVARIANT, "unit"))
        still_by_layer = max(still_by_layer, _most(found, _INVARIANT_BY_LAYER, "layer"))
        verdicts = [each.verdict for key in _MOVED for each in found[key]["unit"]]
        moved, cases = moved + verdicts.count("moved"), cases + len(verdicts)
    known = [key for key in _INVARIANT if key.partition(".")[0] in _keys()]
    section.bars += [
        Bar(
            f"{', '.join(known)} by unit: largest change",
            f"{100 * still:.2g} %",
            "≤ 2 %",
            still <= _LARGEST,
        ),
        Bar(
            "by layer also the margin's share of the spectral norms, and their product",
            f"{100 * still_by_layer:.2g} %",
            "≤ 2 %",
            still_by_layer <= _LARGEST,
        ),
        Bar("φ, λ1, trace named as moved", f"{moved} of {cases}", "all", moved == cases),
        Bar("difference of outputs in float64", f"{outputs:.1e}", "≤ 1e-10", outputs <= 1e-10),
    ]
    return section


_HEADER = ("measure", "by unit", "by layer", "moved by unit", "moved by layer")


def _rescaled(
    model: nn.Module, inputs: Tensor, targets: Tensor, by: str, seed: int, setting: Setting
) -> tuple[list[RescaledNumber], RescalingFacts]:
    settings = MeasureSettings(
        measures=tuple(name for name in _MEASURES if name in known_measures()),
        epsilons=(1e-3,),
        top=1,
        rescale_check=True,
        rescale_by=by,  # type: ignore[arg-type]
        rescale_factor=_FACTOR,
    )
    run = RunSettings(device=setting.device.type, seed=seed)
    (result,) = measure_model(model, (inputs, targets), run=run, settings=settings).results
    assert result.error is None, result.error
    return list(result.rescaled), result.rescaling


def _networks(setting: Setting) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    """Trained networks with their data: an MLP, and convolutions with batch norms."""
    torch.manual_seed(0)
    width, count, epochs = (16, 300, 5) if setting.quick else (128, 2000, 15)
    inputs, targets = mnist(count)
    model: nn.Module = relu_mlp(784, width, width, 10)
    yield _trained(f"784-{width}-{width}-10 on MNIST", model, inputs, targets, epochs)
    images, labels = digits()
    count, channels = (200, 8) if setting.quick else (1500, 32)
    images = images[:count].reshape(-1, 1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.BatchNorm2d(2 * channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * channels, 10),
    )
    yield _trained("convolutions with batch norms on digits", model, images, labels[:count], epochs)


def _trained(
    name: str, model: nn.Module, inputs: Tensor, targets: Tensor, epochs: int
) -> tuple[str, nn.Module, Tensor, Tensor]:
    training = epochs_of_adam(model, inputs, targets, batch=64, seed=0)
    loss = [next(training) for _ in range(epochs)][-1]
    return f"{name}, training loss {loss:.2g}", model.eval(), inputs, targets


def _rows(found: dict[str, dict[str, list[RescaledNumber]]]) -> list[list[str]]:
    titles = column_titles(found)
    return [
        [
            titles[key],
            *(f"{100 * _largest(by[kind]):.2g} %" for kind in ("unit", "layer")),
            *(_moved(by[kind]) for kind in ("unit", "layer")),
        ]
        for key, by in found.items()
    ]


def _moved(numbers: list[RescaledNumber]) -> str:
    return f"{sum(number.verdict == 'moved' for number in numbers)} of {len(numbers)}"


def _largest(numbers: list[RescaledNumber]) -> float:
    return max(abs(number.relative_change) for number in numbers)


def _most(
    found: dict[str, dict[str, list[RescaledNumber]]], keys: tuple[str, ...], by: str
) -> float:
    return max(_largest(found[key][by]) for key in keys if key in found)


def _keys() -> set[str]:
    return {measure.key for measure in known_measures().values()}
