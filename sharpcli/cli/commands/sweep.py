"""`sharp sweep`: train every run of a sweep file into a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from sharpcli.cli.exit_codes import exit_code
from sharpcli.cli.options.jobs import jobs_option, on_option
from sharpcli.cli.options.output import printing_options
from sharpcli.cli.parameter_types import ParameterType
from sharpcli.documents.results import is_interrupted
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted
from sharpcli.settings.output import OutputSettings

__all__ = ["sweep"]


class ShardType(ParameterType):
    """`i/n`: the i-th of n parts."""

    name = "I/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Two whole numbers, the first from 1 to the second; fails on anything else."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(value))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"'{value}' is no part such as 1/4 to 4/4", param, ctx)
        return int(found[1]), int(found[2])


@click.command(
    epilog="""\b
Examples:
  sharp sweep optimizers.toml --output runs --jobs 4
  sharp sweep optimizers.toml --output runs --shard $SLURM_ARRAY_TASK_ID/4
  sharp sweep optimizers.toml --output runs --on slurm --jobs 8"""
)
@click.argument("file", metavar="FILE.toml", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="The sweep's folder: sweep.json, and RUN/model.safetensors for each run.",
)
@jobs_option("Runs")
@click.option(
    "--together/--one-by-one",
    "together",
    default=None,
    help="Train runs that differ in seeds and numbers of the optimizer together, where that is "
    "faster: by default those whose checkpoints have the same bytes either way, with --together "
    "also those whose weights differ by rounding.",
)
@click.option(
    "--shard",
    type=ShardType(),
    default="1/1",
    show_default=True,
    help="Train the I-th of N parts only, as one job of an array.",
)
@on_option
@click.option(
    "--detach", is_flag=True, help="With --on, submit the jobs and return; they train on alone."
)
@printing_options
def sweep(
    file: Path,
    output: Path,
    jobs: int,
    together: bool | None,
    shard: tuple[int, int],
    on: str | None,
    detach: bool,
    printed: OutputSettings,
) -> int:
    """Train every run of a sweep file.

    FILE.toml names a task, settings of `sharp train` for all runs ([fixed]), values of which every
    combination is trained ([grid]) or that are drawn at random ([random]), and single runs
    ([[list]]). A run that is trained already is not trained again, so a sweep that was killed goes
    on where it stopped. With a [measure] table all runs are measured at the end, and `sharp compare
    DIR` shows the result. [slurm] has options of sbatch for --on slurm.
    """
    from sharpcli.cli.progress_bars import notes_of, progress_bars
    from sharpcli.cli.sweep_progress import sweep_progress
    from sharpcli.render import emit, report_problems, say, say_written
    from sharpcli.runs.sweep import sweep as train_all
    from sharpcli.runs.sweep_measures import MEASURES, measure_sweep
    from sharpcli.runs.sweep_together import Way

    way = {None: Way.SAME_BYTES, True: Way.TOGETHER, False: Way.ONE_BY_ONE}[together]
    with sweep_progress(quiet=printed.quiet) as watch:
        document = train_all(
            file, output, jobs=jobs, shard=shard, way=way, on=on, detach=detach, watch=watch
        )
    emit(document, printed)
    mine = document["results"][shard[0] - 1 :: shard[1]]
    code = exit_code({**document, "results": mine})
    if is_interrupted(document):
        trained = sum(result["status"] == Outcome.OK for result in document["results"])
        say(
            f"interrupted: {trained} of {counted(len(document['results']), 'run')} trained and "
            "kept; the same command goes on from there"
        )
        return code
    with progress_bars(quiet=printed.quiet) as begin:
        measured = measure_sweep(file, output, begin=begin, notes=notes_of(printed))
    if measured is None:
        return code
    report_problems(measured, quiet=printed.quiet)
    say_written(output / MEASURES, quiet=printed.quiet)
    return code or exit_code(measured)
