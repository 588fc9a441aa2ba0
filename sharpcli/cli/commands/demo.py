"""`sharp demo`: the whole story in about a minute, on real data that come with scikit-learn."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpcli.cli.commands.measure import run_measure
from sharpcli.cli.commands.train import summary, train_and_save
from sharpcli.cli.parameter_types import SEED
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError
from sharpcli.runtime.files import reserved
from sharpcli.runtime.progress import Begin, silent
from sharpcli.runtime.text import visible
from sharpcli.settings import OutputSettings, RunSettings
from sharpcli.training import TrainSettings

if TYPE_CHECKING:
    from sharpcli.documents.results import Document

__all__ = ["SETUPS", "demo", "sentence"]

TASK = "digits"
TASK_OPTIONS = {"depth": "4"}

# Within an optimizer only the batch size differs; all stop at the same training loss, since every
# sharpness falls with the loss. 1,442 is the whole training split. The learning rates were chosen
# so that all four train within seconds. Seen with seeds 0 to 4, large batch against small:
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

EPSILON = 1e-3  # the box of the φ that the sentence quotes
CLEAR = 1.5  # a ratio nearer to 1 than this is called no clear difference


@click.command(
    epilog="""\b
Examples:
  sharp demo
  sharp demo --folder /tmp/minima --seed 1"""
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default="sharp-demo",
    show_default=True,
    help="Where the four checkpoints go.",
)
@click.option(
    "--seed",
    type=SEED,
    metavar="N",
    default=0,
    show_default=True,
    help="The seed of weights and batches.",
)
@click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
def demo(folder: Path, seed: int, quiet: bool) -> None:
    """Train and measure small- and large-batch minima.

    Trains a small network on real handwritten digits four times (SGD and Adam, small and large
    batches, to one training loss), measures how sharp the four minima are, says what that shows,
    prints the commands that repeat each step, and draws the loss between two of the minima.
    """
    from sharpcli.cli.progress_bars import progress_bars
    from sharpcli.render import console, emit
    from sharpcli.render.terminal.pictures import picture_lines

    paths = checkpoint_paths(folder)
    with reserved(*paths), progress_bars(quiet=quiet) as begin:
        train_all(paths, seed, quiet, begin)
        document = run_measure(paths, None, {}, RunSettings(seed=seed), begin=begin)
        between = line_between(paths[:2], seed, begin)
    emit(document, OutputSettings(quiet=quiet))
    click.echo(f"\n{sentence(document['results'])}\n\nTo repeat each step by hand:")
    for setting, path in zip(SETUPS, paths, strict=True):
        click.echo(visible(f"  {train_command(replace(setting, seed=seed), path)}"))
    click.echo(visible(f"  sharp measure {shlex.join(map(str, paths))} --seed {seed}"))
    click.echo(visible(f"  sharp interpolate {shlex.join(map(str, paths[:2]))} --seed {seed}"))
    click.echo(
        f"\nThe loss between the minima of {SETUPS[0].optimizer}: A with batches of {SMALL}, B of "
        f"{LARGE:,}"
    )
    screen = console()
    for text in picture_lines(between["results"][0], screen.width, colour=False):
        screen.print(text)


def line_between(paths: Sequence[Path], seed: int, begin: Begin = lambda _: silent) -> Document:
    """Interpolate between two checkpoints and give the document."""
    from sharpcli.documents.results import to_document
    from sharpcli.landscape.points.walk import Watch
    from sharpcli.runs.landscape import interpolate_checkpoints

    run = RunSettings(split="both", seed=seed)
    return to_document(interpolate_checkpoints(paths, run=run, watch=Watch(begin)))


def checkpoint_paths(folder: Path) -> list[Path]:
    """Where the checkpoint of each setup goes; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        dangling = os.path.islink(folder)  # noqa: PTH114 (never raises)
        reason = "it is a link that leads nowhere" if dangling else error.strerror
        raise SharpError(
            f"{folder}: cannot be made: {reason}", "name another with --folder"
        ) from error
    return [folder / f"{it.optimizer}-batch-{it.batch_size}.safetensors" for it in SETUPS]


def train_all(
    paths: Sequence[Path], seed: int, quiet: bool, begin: Begin = lambda _: silent
) -> None:
    """Train every setup and save its checkpoint at its path."""
    from sharpcli.render import error_console
    from sharpcli.tasks import load_task

    task = load_task(TASK, TASK_OPTIONS)
    for setting, path in zip(SETUPS, paths, strict=True):
        description = f"training {setting.optimizer}, batch size {setting.batch_size}"
        trained = train_and_save(task, replace(setting, seed=seed), path, begin(description))
        if not quiet:
            error_console().print(visible(f"{path}: {summary(trained)}"))


def train_command(setting: TrainSettings, path: Path) -> str:
    """The `sharp train` command that makes this checkpoint."""
    options = [word for name, value in TASK_OPTIONS.items() for word in ("-O", f"{name}={value}")]
    words = ["sharp", "train", TASK, *options]
    for name in ("optimizer", "lr", "batch_size", "epochs", "until_loss", "seed"):
        words += [f"--{name.replace('_', '-')}", str(getattr(setting, name))]
    return shlex.join([*words, "--output", str(path)])


def sentence(results: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on what the measured numbers show, whichever way they fall.

    `results` are those of a measure document; small and large batches are compared within an
    optimizer, by φ (ε-sharpness at 1e-3, full space) and λ1.
    """
    ratios: dict[str, dict[str, float]] = {"φ": {}, "λ1": {}}
    by_setup = {_setup(result): result for result in results if result["status"] == Outcome.OK}
    for optimizer in dict.fromkeys(setting.optimizer for setting in SETUPS):
        small, large = by_setup.get((optimizer, SMALL)), by_setup.get((optimizer, LARGE))
        for name, read in (("φ", _phi), ("λ1", _lambda)):
            below, above = (read(result) if result else None for result in (small, large))
            if not below or not above or below <= 0 or above <= 0:
                return (
                    f"Nothing can be said: {name} of {optimizer} could not be measured for both "
                    "batch sizes."
                )
            ratios[name][optimizer] = above / below
    every = [ratio for of in ratios.values() for ratio in of.values()]
    larger, smaller = f"the large-batch ({LARGE:,})", f"the small-batch ({SMALL})"
    if min(every) >= CLEAR:
        return f"Sharper are {larger} minima: {_times(ratios, 1)} those of {smaller} ones."
    if max(every) <= 1 / CLEAR:
        return f"Sharper are {smaller} minima: {_times(ratios, -1)} those of {larger} ones."
    return (
        f"No clear difference between {larger} and {smaller} minima: {_times(ratios, 1)} "
        "those of the small-batch ones."
    )


def _times(ratios: Mapping[str, Mapping[str, float]], power: int) -> str:
    """`φ is 17 (sgd) and 29 (adam) times, λ1 …`."""
    parts = []
    for name, of in ratios.items():
        values = " and ".join(
            f"{ratio**power:.2g} ({optimizer})" for optimizer, ratio in of.items()
        )
        parts.append(f"{name} is {values} times")
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
