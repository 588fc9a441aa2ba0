"""`sharp train`: train a task's model and save it with the settings that made it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpcli import __version__
from sharpcli.cli.options import refuse_overwriting, task_argument
from sharpcli.cli.parameter_types import POSITIVE, SEED, NumberType
from sharpcli.documents.results import Report, Scalar, to_document
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError, counted
from sharpcli.runtime import interruption
from sharpcli.runtime.files import is_special, reserved
from sharpcli.runtime.text import visible
from sharpcli.settings import OutputSettings
from sharpcli.training import OPTIMIZERS, TrainSettings

if TYPE_CHECKING:
    from sharpcli.documents.results import Document
    from sharpcli.runtime.progress import Progress
    from sharpcli.tasks import Task
    from sharpcli.training.loop import Trained

__all__ = ["train", "train_and_save"]

_DEFAULT = TrainSettings()


@click.command(
    epilog="""\b
Examples:
  sharp train digits --optimizer adam --epochs 9 --output adam.safetensors
  sharp train task.py -O width=128 --lr 0.05 --epochs 50 --until-loss 0.01"""
)
@task_argument
@click.option(
    "--optimizer",
    type=click.Choice(OPTIMIZERS),
    default=_DEFAULT.optimizer,
    show_default=True,
    help="What takes the steps.",
)
@click.option(
    "--lr", type=NumberType(), metavar="X", help="Learning rate. Default: 0.1 (sgd), else 0.001."
)
@click.option(
    "--batch-size",
    type=POSITIVE,
    metavar="N",
    default=_DEFAULT.batch_size,
    show_default=True,
    help="Examples in a step.",
)
@click.option(
    "--fixed-batch",
    type=POSITIVE,
    metavar="N",
    help="For a loss that couples the examples of a batch: steps and the train loss are of batches "
    "of N. Default: each example's loss is its own.",
)
@click.option(
    "--epochs",
    type=POSITIVE,
    metavar="N",
    default=_DEFAULT.epochs,
    show_default=True,
    help="Passes over the data, at most.",
)
@click.option(
    "--momentum",
    type=NumberType(),
    metavar="X",
    default=_DEFAULT.momentum,
    show_default=True,
    help="Momentum of sgd.",
)
@click.option(
    "--betas",
    type=NumberType(),
    nargs=2,
    metavar="B1 B2",
    default=_DEFAULT.betas,
    show_default=True,
    help="Memory of adam and adamw.",
)
@click.option(
    "--weight-decay",
    type=NumberType(),
    metavar="X",
    default=_DEFAULT.weight_decay,
    show_default=True,
    help="L2 for sgd and adam, decoupled for adamw.",
)
@click.option(
    "--until-loss",
    type=NumberType(),
    metavar="X",
    help="Stop after the first epoch that ends with a loss on all training data of at most X.",
)
@click.option(
    "--seed",
    type=SEED,
    metavar="N",
    default=_DEFAULT.seed,
    show_default=True,
    help="The seed of weights and batches.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    default="model.safetensors",
    show_default=True,
    help="Where the checkpoint goes.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON document on stdout instead of a line."
)
@click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
def train(
    task: str | None,
    task_options: dict[str, str],
    output: Path,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train a task's model and save a checkpoint.

    TASK is a built-in task's name, a task file or an object (package.module:name). The checkpoint
    is a safetensors file whose metadata hold the settings, which `sharp measure` shows beside
    what it measures.
    """
    from sharpcli.cli.progress_bars import progress_bars
    from sharpcli.render import emit, say
    from sharpcli.tasks import load_task

    if task is None:
        raise UsageError(
            "no task is named", "sharp train digits, or a task file: sharp train task.py"
        )
    if given["fixed_batch"] is not None:
        given["batch_size"] = given["fixed_batch"]
    settings = TrainSettings(**given)
    refuse_overwriting(("--output", output))
    if is_special(output) and not output.is_dir():
        raise SharpError(f"{output}: a checkpoint is a file, not a device or a pipe", "name a file")
    with reserved(output), progress_bars(quiet=quiet) as begin:
        loaded = load_task(task, task_options)
        started = time.perf_counter()
        trained = train_and_save(loaded, settings, output, begin(f"training {loaded.name}"))
    seconds = time.perf_counter() - started
    if as_json:
        found = document(loaded, settings, output, trained, seconds)
        emit(found, OutputSettings(format="json", quiet=quiet))
        return
    click.echo(visible(f"{output}: {summary(trained)}"))
    for note in [] if quiet else notes(settings, trained):
        say(note)


def train_and_save(
    task: Task, settings: TrainSettings, output: Path, progress: Progress
) -> Trained:
    """Train, and write the tensors with all settings as metadata to `output`."""
    from sharpcli.checkpoint import save_checkpoint
    from sharpcli.training.loop import train as run

    trained = run(task, settings, progress)
    with interruption.deferred():  # it may have taken hours
        save_checkpoint(output, trained.tensors, metadata(task, settings, trained))
    return trained


def document(
    task: Task, settings: TrainSettings, output: Path, trained: Trained, seconds: float
) -> Document:
    """The document of kind "train": one result, with the metadata that the checkpoint holds."""
    from sharpcli.checkpoint import load_checkpoint
    from sharpcli.documents.environment import environment

    saved = load_checkpoint(output)
    result = {
        "checkpoint": {"path": output, "sha256": saved.sha256, "metadata": saved.metadata},
        "status": Outcome.OK,
        "epochs": trained.epochs,
        "steps": trained.steps,
        "loss": {"train": Scalar(trained.train_loss)},
        "seconds": seconds,
    }
    about = {"name": task.name, "options": task.options, "fingerprint": task.fingerprint}
    asked = {"train": asdict(settings)}
    said = notes(settings, trained)
    return to_document(Report("train", asked, environment(), about, [result], notes=said))


def notes(settings: TrainSettings, trained: Trained) -> list[str]:
    """What is good to know of a training: that it ended before the loss that was asked for."""
    if trained.reached:
        return []
    return [
        f"the loss did not reach {settings.until_loss:g} in {counted(trained.epochs, 'epoch')}\n"
        "  hint: give more --epochs or another --lr"
    ]


def metadata(task: Task, settings: TrainSettings, trained: Trained) -> Mapping[str, Any]:
    """The settings that made a checkpoint: those that its optimizer uses, and what came out."""
    from sharpcli.tasks.arguments import as_text

    uses_momentum = settings.optimizer == "sgd"
    beta1, beta2 = settings.betas
    memory = {"momentum": settings.momentum} if uses_momentum else {"beta1": beta1, "beta2": beta2}
    return {
        "optimizer": settings.optimizer,
        "lr": settings.step_size,
        "batch_size": settings.batch_size,
        **({} if settings.fixed_batch is None else {"fixed_batch": settings.fixed_batch}),
        **memory,
        "weight_decay": settings.weight_decay,
        "epochs": trained.epochs,
        "steps": trained.steps,
        "seed": settings.seed,
        "task": task.name,
        "task_options": ",".join(f"{k}={as_text(v)}" for k, v in task.options.items()),
        "train_loss": f"{trained.train_loss:.6g}",
        "sharpcli": __version__,
    }


def summary(trained: Trained) -> str:
    """One line on how a training went."""
    return (
        f"train loss {trained.train_loss:.4g} after {counted(trained.epochs, 'epoch')}, "
        f"{counted(trained.steps, 'step')}"
    )
