"""`sharp landscape`: the loss surface around a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from sharpcli.cli import completion
from sharpcli.cli.exploring import beside_of, check_moving, run_exploration
from sharpcli.cli.options.exploring import GatheringCommand, check_paths, exploring_options
from sharpcli.cli.options.given import given, refuse_unread
from sharpcli.cli.options.output import output_options, plot_option
from sharpcli.cli.options.run import exploring_run_options, parameters_option
from sharpcli.cli.options.task import task_options
from sharpcli.cli.parameter_types import POSITIVE, NumberType, WholeType
from sharpcli.runs.direction_kinds import DIRECTION_KINDS
from sharpcli.settings.exploring import (
    BatchNormSettings,
    DirectionSettings,
    GridSettings,
    LandscapeSettings,
)
from sharpcli.settings.measuring import RunSettings
from sharpcli.settings.output import OutputSettings

__all__ = ["landscape"]

DEFAULT = DirectionSettings()
_MAP_POINTS = 11  # along an axis: a point of a map costs as much as a hundred of the loss


@click.command(
    cls=GatheringCommand,
    epilog="""\b
Examples:
  sharp landscape model.safetensors --task task.py --plot surface.html
  sharp landscape model.pt --directions hessian --dimensions 1 --points 41
  sharp landscape step-9.pt --directions trajectory --trajectory step-*.pt""",
)
@click.argument("checkpoint", metavar="A", shell_complete=completion.files)
@click.option(
    "--directions",
    type=click.Choice([*DIRECTION_KINDS]),
    default=DEFAULT.kind,
    show_default=True,
    help=f"The axes. {'; '.join(f'{k.name}: {k.meaning}' for k in DIRECTION_KINDS.values())}.",
)
@click.option(
    "--dimensions",
    type=WholeType(1, 2),
    default=DEFAULT.dimensions,
    show_default=True,
    help="A line or a plane.",
)
@click.option(
    "--normalize",
    type=click.Choice(["filter", "layer", "none"]),
    help="Scale the axes to the norms of the weights, filter by filter or layer by layer. "
    f"Default: {', '.join(f'{k.normalize} ({k.name})' for k in DIRECTION_KINDS.values())}.",
)
@click.option(
    "--tol",
    type=NumberType(0, 1, open_=True),
    metavar="T",
    default=DEFAULT.tol,
    show_default=True,
    help="Hessian axes: largest residual as a fraction of λ1.",
)
@click.option(
    "--max-products",
    type=POSITIVE,
    metavar="N",
    help="Hessian axes: stop after this many products. Default: depends on the axes.",
)
@click.option(
    "--map",
    "map_",
    type=click.Choice(["hessian"]),
    help="Also λ1, λmin and |λmin/λ1| at every point of the training (or --split) loss, as in the "
    "convexity maps of Li et al. 2018: 30 to 60 products a point, by default on 11x11 points.",
)
@parameters_option
@exploring_options
@task_options
@exploring_run_options
@output_options
@plot_option("landscape")
def landscape(
    checkpoint: str,
    directions: Any,
    dimensions: Any,
    normalize: Any,
    map_: Any,
    tol: float,
    max_products: int | None,
    grid: GridSettings,
    batch_norm: BatchNormSettings,
    marks: tuple[str, ...],
    trajectories: list[tuple[str, ...]],
    resume: bool,
    task: str | None,
    task_options: dict[str, str],
    run: RunSettings,
    output: OutputSettings,
) -> int:
    """Draw the loss surface around a checkpoint.

    Computes loss and metrics on training and test data along one or two axes through the
    checkpoint, which is at 0. Random axes are scaled to the weights, filter by filter (Li et al.
    2018), so that pictures of two networks can be compared. Finished points are saved at once, so a
    killed run continues where it stopped.
    """
    check_paths([checkpoint])
    check_moving(output, plane=dimensions == 2, gathered=bool(trajectories))
    for kind in DIRECTION_KINDS.values():
        if kind.name != directions:
            refuse_unread(
                kind.reads,
                f"with --directions {directions}",
                f"leave it out, or use --directions {kind.name}",
            )
    axes = DirectionSettings(directions, dimensions, normalize, tol, max_products)
    if map_ and not given(["points"]):
        grid = dataclasses.replace(grid, points=(_MAP_POINTS,))
    settings = LandscapeSettings(grid, batch_norm, axes, map_)

    def explore(watch: Any) -> Any:
        from sharpcli.runs.landscape import landscape_checkpoint

        beside = beside_of(marks, trajectories)
        return landscape_checkpoint(
            checkpoint, task, task_options, run, settings, beside=beside, watch=watch
        )

    return run_exploration(explore, output, resume=resume)
