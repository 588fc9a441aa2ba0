"""The options that `sharp interpolate` and `sharp landscape` share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from sharpcli.cli import completion
from sharpcli.cli.options.checkpoints import refuse_empty_paths
from sharpcli.cli.options.given import refuse_unread
from sharpcli.cli.parameter_types import ParameterType, WholeType
from sharpcli.errors import UsageError, counted
from sharpcli.settings.exploring import BatchNormSettings, GridSettings

__all__ = ["GatheringCommand", "check_paths", "exploring_options"]

_FARTHEST = 1e30  # distances beyond overflow in float32
_BETWEEN = "\0"  # no path contains it
_TAKEN = (
    "--mark and --trajectory take all files that follow them: name other checkpoints before them, "
    "or behind a --"
)


class GatheringCommand(click.Command):
    """A command whose `--mark` and `--trajectory` take all the files that follow them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the files after such an option, up to the next option, into one argument."""
        gathered: list[str] = []
        rest = iter(args)
        pending: str | None = next(rest, None)
        while pending is not None:
            gathered.append(pending)
            taking = pending in ("--mark", "--trajectory")
            pending = next(rest, None)
            files: list[str] = []
            while taking and pending is not None and not pending.startswith("-"):
                files.append(pending)
                pending = next(rest, None)
            if taking and not files and not ctx.resilient_parsing:
                raise click.BadOptionUsage(
                    gathered[-1], f"{gathered[-1]} names no checkpoint: a file follows it", ctx
                )
            if files:
                gathered.append(_BETWEEN.join(files))
        took = {"--mark", "--trajectory"} & {*gathered}  # before Click empties the list
        try:
            return super().parse_args(ctx, gathered)
        except click.MissingParameter as error:
            if not took:
                raise
            raise UsageError("there is no checkpoint A", _TAKEN) from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Options; and files, because one of those options may take some more."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(incomplete, type="file")]


class PointsType(ParameterType):
    """`25`, or `21x31` for two axes."""

    name = "N|NxM"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Positive numbers; fails on anything else."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
            self.fail(f"'{value}' is not a number of points such as 25 or 21x31", param, ctx)
        return tuple(int(part) for part in parts)


class RangesType(ParameterType):
    """`-1:2`, or `-1:1,0:3` for two axes."""

    name = "LOW:HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[float, float], ...]:
        """Pairs of finite numbers, the first no larger than the second; fails on anything else."""
        if isinstance(value, tuple):
            return value
        found = []
        for part in str(value).split(","):
            low, _, high = part.partition(":")
            try:
                pair = (float(low), float(high))
            except ValueError:
                self.fail(f"'{value}' is not a range such as -1:2 or -1:1,0:3", param, ctx)
            if not all(map(math.isfinite, pair)) or pair[0] > pair[1]:
                self.fail(f"'{part}' does not go from a number to a larger one", param, ctx)
            if max(map(abs, pair)) > _FARTHEST:
                self.fail(f"'{part}' goes farther than {_FARTHEST:g}", param, ctx)
            found.append(pair)
        if len(found) > 2:
            self.fail(f"'{value}' names {len(found)} axes: there are two at most", param, ctx)
        return tuple(found)


class FilesType(ParameterType):
    """The files that `GatheringCommand` has joined."""

    name = "CKPT..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """A tuple of paths; fails on an empty one."""
        files = value if isinstance(value, tuple) else tuple(str(value).split(_BETWEEN))
        if "" in files:
            self.fail(
                "a checkpoint's path is empty: is a variable of the shell not set?", param, ctx
            )
        return files

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,
        incomplete: str,
    ) -> list[CompletionItem]:
        """Files, by the shell itself."""
        return completion.files(ctx, param, incomplete)


POINTS: Final = PointsType()
RANGES: Final = RangesType()
FILES: Final = FilesType()


def exploring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options: `grid`, `batch_norm`, `marks`, `trajectories` and `resume`.

    `trajectories` are lists of checkpoints. An option with several files is one trajectory; options
    with a single file form one trajectory together.
    """

    @functools.wraps(command)
    def with_grid(*args: Any, **kwargs: Any) -> Any:
        grid = GridSettings(kwargs.pop("points"), kwargs.pop("ranges") or ())
        examples = kwargs.pop("batch_norm_examples")
        batch_norm = BatchNormSettings(kwargs.pop("batch_norm_mode"), examples)
        if batch_norm.mode != "recalibrate":
            refuse_unread(
                ("batch_norm_examples",),
                f"with --batch-norm {batch_norm.mode}",
                "leave it out, or use --batch-norm recalibrate",
            )
        marks = tuple(file for files in kwargs.pop("mark") for file in files)
        given = kwargs.pop("trajectory")
        single = tuple(files[0] for files in given if len(files) == 1)
        trajectories = [*([single] if single else []), *(f for f in given if len(f) > 1)]
        return command(
            *args,
            grid=grid,
            batch_norm=batch_norm,
            marks=marks,
            trajectories=trajectories,
            **kwargs,
        )

    for option in reversed(_OPTIONS):
        with_grid = option(with_grid)
    return with_grid


_OPTIONS = (
    click.option(
        "--points",
        type=POINTS,
        metavar="N|NxM",
        default=GridSettings().points,
        show_default="25",
        help="Points along each axis: 41 is 41x41 on a plane, 21x31 has 21 along alpha.",
    ),
    click.option(
        "--range",
        "ranges",
        type=RANGES,
        metavar="LOW:HIGH",
        help="Start and end of each axis: -1:2, or -1:1,0:3 for two.",
    ),
    click.option(
        "--batch-norm",
        "batch_norm_mode",
        type=click.Choice(["recalibrate", "interpolate", "batch"]),
        default=BatchNormSettings().mode,
        show_default=True,
        help="Running statistics at each point: recomputed on training data, interpolated between "
        "the checkpoints, or those of the evaluated batch.",
    ),
    click.option(
        "--batch-norm-examples",
        type=WholeType(2),
        metavar="N",
        help="Training examples for recalibration. Default: as many as fit in one pass.",
    ),
    click.option(
        "--mark",
        multiple=True,
        type=FILES,
        metavar="CKPT...",
        help="More checkpoints to show, at their projections.",
    ),
    click.option(
        "--trajectory",
        multiple=True,
        type=FILES,
        metavar="CKPT...",
        help="The checkpoints of an optimizer's path, to project. Repeat with several for another "
        "path.",
    ),
    click.option(
        "--resume/--no-resume",
        default=True,
        show_default=True,
        help="Continue from the finished points of a killed run, or start over.",
    ),
)


def check_paths(paths: Sequence[str], *, least: int = 1, gathered: bool = False) -> None:
    """Refuse an empty path, and fewer than `least` paths if options have `gathered` files.

    If none have, the exploring function checks the number itself.

    Raises:
        UsageError: A path is empty, or there are too few.
    """
    if len(paths) < least and gathered:
        raise UsageError(
            f"{counted(len(paths), 'checkpoint')} to explore, but it takes {least}", _TAKEN
        )
    refuse_empty_paths(paths)
