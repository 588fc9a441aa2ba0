"""`sharp interpolate`: the loss between two checkpoints, or on the plane through three."""

from __future__ import annotations

from typing import Any

import click

from sharpcli.cli import completion
from sharpcli.cli.exploring import beside_of, run_exploration
from sharpcli.cli.options.exploring import GatheringCommand, check_paths, exploring_options
from sharpcli.cli.options.given import refuse_unread
from sharpcli.cli.options.output import output_options, plot_option
from sharpcli.cli.options.run import exploring_run_options
from sharpcli.cli.options.task import task_options
from sharpcli.cli.parameter_types import POSITIVE, NumberType
from sharpcli.settings.exploring import (
    BatchNormSettings,
    GridSettings,
    InterpolateSettings,
    PathSettings,
)
from sharpcli.settings.measuring import RunSettings
from sharpcli.settings.output import OutputSettings

__all__ = ["interpolate"]

DEFAULT = PathSettings()


@click.command(
    cls=GatheringCommand,
    epilog="""\b
Examples:
  sharp interpolate small.safetensors large.safetensors --task task.py
  sharp interpolate a.pt b.pt --align --path bezier --plot line.pdf
  sharp interpolate a.pt b.pt c.pt --json --output plane.json""",
)
@click.argument("checkpoints", nargs=-1, metavar="A B [C]", shell_complete=completion.files)
@exploring_options
@click.option(
    "--align",
    is_flag=True,
    help="Also the line to B after its hidden units are permuted to match A's (weight matching).",
)
@click.option(
    "--path",
    "path_kind",
    type=click.Choice(["bezier", "chain"]),
    help="Also a curved path from A to B, trained on the training data.",
)
@click.option(
    "--path-steps",
    type=POSITIVE,
    metavar="N",
    default=DEFAULT.steps,
    show_default=True,
    help="--path: training steps.",
)
@click.option(
    "--path-batch-size",
    type=POSITIVE,
    metavar="N",
    default=DEFAULT.batch_size,
    show_default=True,
    help="--path: examples a step.",
)
@click.option(
    "--path-lr",
    type=NumberType(0, open_=True),
    metavar="R",
    default=DEFAULT.lr,
    show_default=True,
    help="--path: the first step in each parameter, as a share of the ends' distance in it.",
)
@task_options
@exploring_run_options
@output_options
@plot_option("interpolate")
def interpolate(
    checkpoints: tuple[str, ...],
    grid: GridSettings,
    batch_norm: BatchNormSettings,
    marks: tuple[str, ...],
    trajectories: list[tuple[str, ...]],
    resume: bool,
    align: bool,
    path_kind: Any,
    path_steps: int,
    path_batch_size: int,
    path_lr: float,
    task: str | None,
    task_options: dict[str, str],
    run: RunSettings,
    output: OutputSettings,
) -> int:
    """Draw the loss between checkpoints.

    Computes loss and metrics on training and test data, on the line through A and B (α = 0 at A, 1
    at B) or the plane through A, B and C, in true weight distance. A line also gives the height of
    the barrier between A and B. Finished points are saved at once, so a killed run continues where
    it stopped.
    """
    check_paths(checkpoints, least=2, gathered=bool(marks or trajectories))
    path = None
    if path_kind is None:
        refuse_unread(
            ("path_steps", "path_batch_size", "path_lr"),
            "without --path",
            "leave it out, or add --path bezier or --path chain",
        )
    else:
        path = PathSettings(path_kind, path_steps, path_batch_size, path_lr, run.seed)
    settings = InterpolateSettings(grid, batch_norm, align, path)

    def explore(watch: Any) -> Any:
        from sharpcli.runs.interpolate import interpolate_checkpoints

        beside = beside_of(marks, trajectories)
        return interpolate_checkpoints(
            checkpoints, task, task_options, run, settings, beside=beside, watch=watch
        )

    return run_exploration(explore, output, resume=resume)
