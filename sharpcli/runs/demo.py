"""Train small- and large-batch minima of one network, measure them, and sum up the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpcli.documents.results import Document, to_document
from sharpcli.documents.statuses import Outcome
from sharpcli.landscape.points.walk import Watch
from sharpcli.runs.interpolate import interpolate_checkpoints
from sharpcli.runs.measure import measure_checkpoints
from sharpcli.runs.train import summary, train_and_save
from sharpcli.runtime.progress import Begin, silent
from sharpcli.settings.measuring import RunSettings
from sharpcli.tasks import load_task
from sharpcli.training.train_settings import TrainSettings

__all__ = [
    "LARGE",
    "SETUPS",
    "SMALL",
    "TASK",
    "TASK_OPTIONS",
    "measure_and_join",
    "sentence",
    "train_all",
]

TASK = "digits"
TASK_OPTIONS = {"depth": "4"}

# Within an optimizer only the batch size differs. All stop at the same training loss, since every
# sharpness falls with the loss. 1,442 is the size of the training split. The learning rates were
# chosen so that all four train within seconds. With seeds 0 to 4, large batch against small:
# λ1 7.4-9.6 against 0.4-1.2 and φ 3.3-6.7 against 0.2-0.4 (sgd), λ1 14-24 against 0.8-3.2 and
# φ 11-19 against 0.4-1.4 (adam).
_SGD = TrainSettings(optimizer="sgd", lr=0.1, epochs=4000, until_loss=0.005)
_ADAM = TrainSettings(optimizer="adam", lr=0.002, epochs=4000, until_loss=0.005)
SMALL, LARGE = 8, 1442
SETUPS = tuple(
    replace(setting, batch_size=batch_size)
    for setting in (_SGD, _ADAM)
    for batch_size in (SMALL, LARGE)
)

_NAMES = {"sgd": "SGD", "adam": "Adam"}
EPSILON = 1e-3  # the box of the φ in the sentence
CLEAR = 1.5  # a smaller ratio is called no clear difference


def train_all(
    paths: Sequence[Path],
    seed: int,
    say: Callable[[str], object] = lambda _: None,
    begin: Begin = lambda _: silent,
) -> None:
    """Train every setup and save its checkpoint at its path; `say` gets one line on each."""
    task = load_task(TASK, TASK_OPTIONS)
    for setting, path in zip(SETUPS, paths, strict=True):
        description = f"training {setting.optimizer}, batch size {setting.batch_size}"
        trained = train_and_save(task, replace(setting, seed=seed), path, begin(description))
        say(f"{path}: {summary(trained)}")


def measure_and_join(
    paths: Sequence[Path], seed: int, begin: Begin = lambda _: silent
) -> tuple[Document, Document]:
    """The documents of a measurement of all checkpoints, and of the line between the first two."""
    measured = measure_checkpoints(paths, run=RunSettings(seed=seed), begin=begin)
    run = RunSettings(split="both", seed=seed)
    line = interpolate_checkpoints(paths[:2], run=run, watch=Watch(begin))
    return to_document(measured), to_document(line)


def sentence(results: Sequence[Mapping[str, Any]]) -> str:
    """Compare small- and large-batch minima in one sentence.

    `results` are those of a measure document. Batch sizes are compared within each optimizer, by φ
    (ε-sharpness at 1e-3, full space) and λ1.
    """
    ratios: dict[str, dict[str, float]] = {"φ": {}, "λ1": {}}
    by_setup = {_setup(result): result for result in results if result["status"] == Outcome.OK}
    for optimizer in dict.fromkeys(setting.optimizer for setting in SETUPS):
        small, large = by_setup.get((optimizer, SMALL)), by_setup.get((optimizer, LARGE))
        for name, read in (("φ", _phi), ("λ1", _lambda)):
            below, above = (read(result) if result else None for result in (small, large))
            if not below or not above or below <= 0 or above <= 0:
                return (
                    f"No comparison: {name} could not be measured for both batch sizes of "
                    f"{_NAMES[optimizer]}."
                )
            ratios[name][optimizer] = above / below
    every = [ratio for of in ratios.values() for ratio in of.values()]
    larger, smaller = f"large-batch ({LARGE:,})", f"small-batch ({SMALL})"
    if min(every) >= CLEAR:
        return f"The {larger} minima are sharper than the {smaller} ones: {_times(ratios, 1)}."
    if max(every) <= 1 / CLEAR:
        return f"The {smaller} minima are sharper than the {larger} ones: {_times(ratios, -1)}."
    return (
        f"No clear difference between the {larger} and the {smaller} minima: at the large-batch "
        f"ones, {_times(ratios, 1)}."
    )


def _times(ratios: Mapping[str, Mapping[str, float]], power: int) -> str:
    """`φ is 17× (SGD) and 29× (Adam) as high, λ1 …`."""
    parts = []
    for name, of in ratios.items():
        values = " and ".join(f"{x**power:.2g}× ({_NAMES[key]})" for key, x in of.items())
        parts.append(f"{name} is {values} as high")
    return ", ".join(parts)


def _setup(result: Mapping[str, Any]) -> tuple[Any, int]:
    metadata = result["checkpoint"]["metadata"]
    return metadata.get("optimizer"), int(metadata.get("batch_size", 0))


def _phi(result: Mapping[str, Any]) -> float | None:
    for entry in result["measures"].get("epsilon_sharpness", ()):
        if entry["epsilon"] == EPSILON and entry["subspace"] is None:
            value: float | None = entry["value"]
            return value
    return None


def _lambda(result: Mapping[str, Any]) -> float | None:
    eigenvalues = result["measures"].get("hessian", {}).get("eigenvalues")
    return eigenvalues[0]["value"] if eigenvalues else None
