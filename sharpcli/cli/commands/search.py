"""`sharp search`: look for the settings of a training with the best result."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sharpcli.cli import completion
from sharpcli.cli.exit_codes import ExitCode
from sharpcli.cli.options.jobs import jobs_option
from sharpcli.cli.options.output import printing_options
from sharpcli.cli.parameter_types import POSITIVE
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import UsageError, counted
from sharpcli.settings.output import OutputSettings

__all__ = ["search"]


@click.command(
    epilog="""\b
Examples:
  sharp search search.toml --output found --jobs 4
  sharp search digits search.toml --output found --trials 100
  sharp search search.toml --output found --storage mysql://me@host/trials"""
)
@click.argument(
    "places", metavar="[TASK] FILE.toml", nargs=-1, required=True, shell_complete=completion.tasks
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="The search's folder: search.json, search.db, and TRIAL/model.safetensors for each trial.",
)
@click.option(
    "--trials", type=POSITIVE, metavar="N", help="Trials in all, in place of the file's number."
)
@click.option(
    "--storage",
    metavar="URL",
    help="Where Optuna keeps the trials, so that several machines can share them. Default: "
    "DIR/search.db, with SQLite.",
)
@jobs_option("Trials")
@printing_options
def search(
    places: tuple[str, ...],
    output: Path,
    trials: int | None,
    storage: str | None,
    jobs: int,
    printed: OutputSettings,
) -> int:
    """Look for the settings with the best result.

    FILE.toml is written like a sweep file: settings of all trials in [fixed], and in [search]
    ranges from which Optuna chooses, such as lr = { low = 1e-4, high = 1, scale = "log" }. The
    objective is the loss, or a metric, of training data that are held out. A trial that is worse
    than others at the same point ends early. The same command goes on where it was killed, and
    several may run at once. Needs `pip install 'sharpcli[search]'`.
    """
    from sharpcli.cli.search_progress import search_progress
    from sharpcli.render import emit, say
    from sharpcli.render.pages.searches import ranked
    from sharpcli.runs.search import search as look
    from sharpcli.runtime import interruption
    from sharpcli.training.sweep_file import path_of_task

    if len(places) > 2:
        raise UsageError("a search takes a task and a file", "sharp search digits search.toml")
    *task, file = places
    with search_progress(quiet=printed.quiet) as watch:
        document = look(
            Path(file),
            output,
            task=task[0] if task else None,
            storage=storage,
            trials=trials,
            jobs=jobs,
            watch=watch,
        )
    emit(document, printed)
    found = [each for each in ranked(document) if each["status"] == Outcome.OK]
    if found and printed.format == "table":
        named = task[0] if task else path_of_task(Path(file), document["task"]["name"])
        click.echo(f"\nto train it again:\n  {_command(Path(file), found[0], named)}")
    if interruption.received():
        ended = sum(each["status"] != Outcome.WAITING for each in document["results"])
        say(f"interrupted: {counted(ended, 'trial')} kept; the same command goes on from there")
        return interruption.exit_code()
    return ExitCode.DONE if found else ExitCode.FAILED


def _command(file: Path, trial: Mapping[str, Any], task: str) -> str:
    """The line of `sharp train` with the settings of a trial, to be run from this folder."""
    from sharpcli.training.train_settings import TrainSettings

    words = ["sharp", "train", task]
    for name, value in trial["options"].items():
        words += ["-O", f"{name}={value}"]
    plain = asdict(TrainSettings())
    for name, value in trial["settings"].items():
        if value is None or _word(value) == _word(plain[name]):
            continue
        if name == "batch_size" and trial["settings"]["fixed_batch"] is not None:
            continue
        words += _option(name, str(file.parent / value) if name == "init" else value)
    return shlex.join([*words, "--output", "best.safetensors"])


def _option(name: str, value: Any) -> list[str]:
    """A setting as `sharp train` takes it."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, Mapping):
        return [word for k, each in value.items() for word in ("-P", f"{k}={_word(each)}")]
    if value is True:
        return [option]
    if name == "betas":  # the option takes two
        return [option, *map(str, value)] if len(value) == 2 else ["-P", f"betas={_word(value)}"]
    return [option, _word(value)]


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
