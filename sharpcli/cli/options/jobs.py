"""The options of how many trainings run at once, and where."""

from __future__ import annotations

from collections.abc import Callable

import click

from sharpcli.cli.options.given import Command
from sharpcli.cli.parameter_types import POSITIVE

__all__ = ["jobs_option", "on_option"]


def jobs_option(trained: str) -> Callable[[Command], Command]:
    """The option --jobs of a command that calls what it trains `trained`; it gets `jobs: int`."""
    return click.option(
        "--jobs",
        type=POSITIVE,
        metavar="N",
        default=1,
        show_default=True,
        help=f"{trained} that are trained at once, each by a process with one thread.",
    )


def on_option(command: Command) -> Command:
    """Add --on; the command gets `on: str | None`."""
    return click.option(
        "--on",
        type=click.Choice(["slurm", "local"]),
        help="Train in --jobs jobs on a Slurm cluster, or in local ones to try that. Needs "
        "submitit.",
    )(command)
