"""`sharp train`: train a task's model and save it with the settings that made it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from sharpcli.cli import completion
from sharpcli.cli.options.given import each_once
from sharpcli.cli.options.output import refuse_overwriting
from sharpcli.cli.options.task import task_argument
from sharpcli.cli.parameter_types import (
    DEVICE,
    NAME_VALUE,
    NAMES,
    POSITIVE,
    SEED,
    EveryType,
    NumberType,
)
from sharpcli.documents.results import to_document
from sharpcli.errors import SharpError, UsageError
from sharpcli.runtime.destinations import is_special
from sharpcli.runtime.files import reserved
from sharpcli.runtime.progress import Latest
from sharpcli.runtime.text import visible
from sharpcli.settings.output import OutputSettings
from sharpcli.training.optimizers import HYPERPARAMETERS, OPTIMIZERS
from sharpcli.training.train_settings import EVERY, TrainSettings

__all__ = ["train"]

_DEFAULT = TrainSettings()


def _by_optimizer(texts: Mapping[str, str]) -> str:
    """Join texts about optimizers: `L2 (sgd, adam), decoupled (adamw)`."""
    groups: dict[str, list[str]] = {}
    for name, text in texts.items():
        groups.setdefault(text, []).append(name)
    return ", ".join(f"{text} ({', '.join(names)})" for text, names in groups.items())


def _hyperparameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting that many optimizers share."""
    for name, each in reversed(list(HYPERPARAMETERS.items())):
        numbers = range(1, len(each.default) + 1) if isinstance(each.default, tuple) else ()
        roles = {
            of: it.roles[name] for of, it in OPTIMIZERS.items() if it.roles and name in it.roles
        }
        role = _by_optimizer(roles)
        usual = " ".join(map(str, each.default)) if numbers else each.default
        command = click.option(
            f"--{name.replace('_', '-')}",
            type=NumberType(),
            nargs=len(numbers) or 1,
            metavar=" ".join(f"{name[0].upper()}{number}" for number in numbers) or "X",
            default=None,
            help=f"{role[0].upper()}{role[1:]}. Default: {usual} of these, else the optimizer's "
            "own.",
        )(command)
    return command


@click.command(
    epilog="""\b
Examples:
  sharp train digits --optimizer adam --epochs 9 --output adam.safetensors
  sharp train digits --optimizer SAM -P rho=0.05 -P base_optimizer=adamw
  sharp train task.py -O width=128 --lr 0.05 --epochs 50 --until-loss 0.01"""
)
@task_argument
@click.option(
    "--optimizer",
    metavar="NAME",
    shell_complete=completion.optimizers,
    default=_DEFAULT.optimizer,
    show_default=True,
    help=f"What takes the steps: {', '.join(OPTIMIZERS)}, any other class of torch.optim (RMSprop, "
    "NAdam, LBFGS, Muon, …), or of pytorch-optimizer (Lion, AdEMAMix, SAM, ScheduleFreeAdamW, …).",
)
@click.option(
    "--optimizer-option",
    "-P",
    "optimizer_options",
    multiple=True,
    type=NAME_VALUE,
    metavar="NAME=VALUE",
    help="An option of the optimizer, such as -P nesterov=true. Again for more.",
)
@click.option(
    "--lr",
    type=NumberType(),
    metavar="X",
    help="Learning rate. Default: "
    f"{_by_optimizer({name: f'{it.default_lr:g}' for name, it in OPTIMIZERS.items()})}, "
    "else the optimizer's own.",
)
@click.option(
    "--batch-size",
    type=POSITIVE,
    metavar="N",
    default=_DEFAULT.batch_size,
    show_default=True,
    help="Examples per step.",
)
@click.option(
    "--fixed-batch",
    type=POSITIVE,
    metavar="N",
    help="For a loss that couples the examples of a batch: steps and the training loss use batches "
    "of N. Default: a mean over independent examples.",
)
@click.option(
    "--epochs",
    type=POSITIVE,
    metavar="N",
    help=f"Passes over the data, at most. Default: {_DEFAULT.epochs}, without --steps.",
)
@click.option("--steps", type=POSITIVE, metavar="N", help="Updates of the weights, at most.")
@_hyperparameter_options
@click.option(
    "--until-loss",
    type=NumberType(),
    metavar="X",
    help="Stop after the first epoch whose final loss on all training data is at most X.",
)
@click.option(
    "--schedule",
    metavar="SPEC",
    shell_complete=completion.policies,
    help="The learning rate by step, in place of --lr, such as 'FIX(k0=0.1)'.",
)
@click.option(
    "--batch-schedule",
    metavar="SPEC",
    shell_complete=completion.policies,
    help="The batch size by step, in place of --batch-size: the same policies.",
)
@click.option(
    "--clip-norm",
    type=NumberType(0, open_=True),
    metavar="X",
    help="Scale a gradient that is longer than X down to X.",
)
@click.option(
    "--accumulate",
    type=POSITIVE,
    metavar="N",
    default=_DEFAULT.accumulate,
    show_default=True,
    help="Parts in which a step's batch goes through the model, to need less memory.",
)
@click.option(
    "--ema",
    type=NumberType(0, 1),
    metavar="D",
    help="Save an average of the weights instead: after a step, D of it and 1 - D of the weights.",
)
@click.option(
    "--swa",
    type=NumberType(0),
    metavar="START",
    help="Save the equal average of the weights after each epoch instead, from step START on, or "
    "below 1 from that share of the training on.",
)
@click.option(
    "--label-smoothing",
    type=NumberType(0, 1),
    metavar="X",
    default=_DEFAULT.label_smoothing,
    show_default=True,
    help="In steps, give a share X of each target to all classes alike. Losses that are reported "
    "are without it.",
)
@click.option(
    "--augment",
    is_flag=True,
    help="In steps, change the batches at random as the task says; digits and mnist shift images "
    "by a pixel.",
)
@click.option(
    "--save-every",
    type=EveryType("log"),
    metavar="N|log",
    help="Save the weights along the way as well, in FILE.path/step-*.safetensors: the initial "
    "ones, those after every N steps, or after 1, 2, 4, 8, … (log), and the last ones.",
)
@click.option(
    "--save-optimizer",
    is_flag=True,
    help="Save the optimizer's state as well, in FILE.optimizer, for --init-optimizer.",
)
@click.option(
    "--init",
    metavar="CKPT",
    shell_complete=completion.files,
    help="Start from a checkpoint's weights. Batches and schedules begin anew.",
)
@click.option(
    "--init-optimizer",
    is_flag=True,
    help="Take up the optimizer's state beside CKPT, with the rate and the options given here.",
)
@click.option(
    "--device",
    type=DEVICE,
    metavar="NAME",
    default=_DEFAULT.device,
    show_default=True,
    help="auto (the first GPU, else the CPU), cpu, cuda, cuda:1 or mps.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "bfloat16"]),
    default="float32",
    show_default=True,
    help="The arithmetic. bfloat16: of the passes of steps (autocast); weights, optimizer and "
    "losses that are reported stay float32.",
)
@click.option(
    "--evaluate-every",
    type=EveryType("epoch"),
    metavar="N|epoch",
    help="Compute loss and metrics on training and test data at step 0, every N steps or after "
    "each epoch, and at the end. They go into FILE.curves.json.",
)
@click.option(
    "--noise-scale",
    is_flag=True,
    help="Add SGD's noise scale to the curves: η(N/B−1), with momentum ηN/(B(1−m)).",
)
@click.option(
    "--track",
    type=NAMES,
    shell_complete=completion.measures_in_a_list,
    metavar="NAME,…",
    default=(),
    help="Measure during the training, such as hessian,epsilon-sharpness: at the start, every N "
    "steps and at the end. Names as in `sharp measure --list`.",
)
@click.option(
    "--every",
    type=POSITIVE,
    metavar="N",
    help=f"Steps between two measurements of --track. Default: {EVERY}.",
)
@click.option(
    "--track-samples",
    type=POSITIVE,
    metavar="N",
    help="Training examples that --track measures. Default: enough for 6,144 terms of the loss, at "
    "least 192.",
)
@click.option(
    "--track-tol",
    type=NumberType(0, 1, open_=True),
    metavar="T",
    default=_DEFAULT.track_tol,
    show_default=True,
    help="--track: largest error of λ1 as a fraction of it.",
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
    help="The file of the checkpoint.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on from the state that a killed training left beside FILE; or start over.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON document on stdout instead of a line."
)
@click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
def train(
    task: str | None,
    task_options: dict[str, str],
    output: Path,
    resume: bool,
    as_json: bool,
    quiet: bool,
    optimizer_options: tuple[tuple[str, str], ...],
    **given: Any,
) -> None:
    """Train a task's model and save a checkpoint.

    TASK is a built-in task's name, a task file or an object (package.module:name). The checkpoint
    is a safetensors file whose metadata hold the settings, which `sharp measure` shows with its
    results. Loss, rate, batch size and gradient norm by step go to FILE.curves.json. While it
    trains, FILE.state holds its state: after a kill, the same command goes on from there and gives
    the same weights.
    """
    from sharpcli.cli.progress_bars import notes_of, progress_bars
    from sharpcli.render import emit, say
    from sharpcli.runs.train import notes, report, summary, train_and_save
    from sharpcli.tasks import load_task

    if task is None:
        raise UsageError(
            "no task is named", "sharp train digits, or a task file: sharp train task.py"
        )
    if given["fixed_batch"] is not None:
        given["batch_size"] = given["fixed_batch"]
    shown = OutputSettings(format="json" if as_json else "table", quiet=quiet)
    options = each_once("-P", optimizer_options, "give each option once")
    settings = TrainSettings(**given, optimizer_options=options)
    refuse_overwriting(("--output", output))
    if is_special(output) and not output.is_dir():
        raise SharpError(f"{output}: a checkpoint is a file, not a device or a pipe", "name a file")
    with reserved(output), progress_bars(quiet=quiet) as begin:
        loaded = load_task(task, task_options)
        started = time.perf_counter()
        latest = Latest()
        training = begin(f"training {loaded.name}", latest)
        trained = train_and_save(
            *(loaded, settings, output, training),
            resume=resume,
            notes=notes_of(shown),
            latest=latest,
        )
    seconds = time.perf_counter() - started
    if as_json:
        found = report(loaded, settings, output, trained, seconds)
        emit(to_document(found), shown)
        return
    click.echo(visible(f"{output}: {summary(trained)}"))
    for note in [] if quiet else notes(settings, trained):
        say(note)
