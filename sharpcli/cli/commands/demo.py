"""`sharp demo`: train, measure and compare in about a minute, on real data from scikit-learn."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpcli.cli.parameter_types import SEED
from sharpcli.errors import SharpError
from sharpcli.runtime.files import reserved
from sharpcli.runtime.text import visible
from sharpcli.settings.output import OutputSettings

if TYPE_CHECKING:
    from sharpcli.training import TrainSettings

__all__ = ["demo"]


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
    help="The folder for the four checkpoints.",
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

    Trains a small network on real handwritten digits four times: with SGD and Adam, with small and
    large batches, to the same training loss. Measures how sharp the four minima are and summarizes
    the result. Prints the commands that repeat each step, and draws the loss between two minima.
    """
    from sharpcli.cli.progress_bars import progress_bars
    from sharpcli.render import console, emit, error_console
    from sharpcli.render.terminal.pictures import picture_lines
    from sharpcli.runs import demo as run

    def say(line: str) -> None:
        if not quiet:
            error_console().print(visible(line))

    paths = checkpoint_paths(folder)
    with reserved(*paths), progress_bars(quiet=quiet) as begin:
        run.train_all(paths, seed, say, begin)
        measured, between = run.measure_and_join(paths, seed, begin)
    emit(measured, OutputSettings(quiet=quiet))
    click.echo(f"\n{run.sentence(measured['results'])}\n\nTo repeat each step by hand:")
    for setting, path in zip(run.SETUPS, paths, strict=True):
        click.echo(visible(f"  {train_command(replace(setting, seed=seed), path)}"))
    click.echo(visible(f"  sharp measure {shlex.join(map(str, paths))} --seed {seed}"))
    click.echo(visible(f"  sharp interpolate {shlex.join(map(str, paths[:2]))} --seed {seed}"))
    click.echo(
        f"\nThe loss between the minima of {run.SETUPS[0].optimizer}: A with batches of "
        f"{run.SMALL}, B of {run.LARGE:,}"
    )
    screen = console()
    for text in picture_lines(between["results"][0], screen.width, colour=False):
        screen.print(text)


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoint path of each setup; creates the folder."""
    from sharpcli.runs.demo import SETUPS

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        dangling = os.path.islink(folder)  # noqa: PTH114 (never raises)
        reason = "it is a link to a missing target" if dangling else error.strerror
        raise SharpError(
            f"{folder}: cannot be created: {reason}", "name another with --folder"
        ) from error
    return [folder / f"{it.optimizer}-batch-{it.batch_size}.safetensors" for it in SETUPS]


def train_command(setting: TrainSettings, path: Path) -> str:
    """The `sharp train` command that produces this checkpoint."""
    from sharpcli.runs.demo import TASK, TASK_OPTIONS

    options = [word for name, value in TASK_OPTIONS.items() for word in ("-O", f"{name}={value}")]
    words = ["sharp", "train", TASK, *options]
    for name in ("optimizer", "lr", "batch_size", "epochs", "until_loss", "seed"):
        words += [f"--{name.replace('_', '-')}", str(getattr(setting, name))]
    return shlex.join([*words, "--output", str(path)])
