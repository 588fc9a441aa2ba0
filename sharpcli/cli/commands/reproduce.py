"""`sharp reproduce`: the literature's claims as experiments with verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from sharpcli.cli.exit_codes import ExitCode
from sharpcli.cli.options.given import refuse_unread
from sharpcli.cli.options.jobs import jobs_option, on_option
from sharpcli.cli.options.output import plot_option, printing_options
from sharpcli.cli.parameter_types import WholeType
from sharpcli.errors import UsageError
from sharpcli.runtime import interruption
from sharpcli.settings.output import OutputSettings

__all__ = ["reproduce"]

_OF_A_RUN = ("scale", "seeds", "folder", "jobs", "on", "plot_files")
_OF_PRINTING = ("output_format", "as_json")


def _complete(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:  # noqa: ARG001
    from sharpcli.runs.experiments import experiments

    return [CompletionItem(name) for name in experiments() if name.startswith(start)]


@click.command(
    epilog="""\b
Examples:
  sharp reproduce
  sharp reproduce keskar-sharpness --jobs 2 --plot keskar.svg
  sharp reproduce keskar-sharpness --seeds 10 --output ten-seeds
  sharp reproduce --page claims.md"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_complete)
@click.option(
    "--scale",
    type=click.Choice(["small", "paper"]),
    default="small",
    show_default=True,
    help="small: minutes on two cores. paper: the paper's sizes, for GPUs.",
)
@click.option(
    "--seeds",
    type=WholeType(2, 10_000),
    metavar="N",
    help="How many seeds. Default: those of the experiment's sweep files.",
)
@click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder of runs and result. Default: NAME-SCALE.",
)
@jobs_option("Runs")
@on_option
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    metavar="FILE.md",
    help="Run nothing: write a page with the verdicts and figures of the results in the folders "
    "NAME, or without a NAME of the last runs that are kept in the package.",
)
@plot_option("reproduce")
@printing_options
def reproduce(names: tuple[str, ...], printed: OutputSettings, **asked: Any) -> int:
    """Check what the literature claims, with verdicts.

    Without a NAME it lists the experiments, their claims, and the verdicts of the last runs that
    are kept. NAME is one of them, or a folder with an experiment.toml of your own.

    An experiment trains, measures and judges: each claim has a statistic and a prediction that its
    file states before the run, and the interval over seeds decides. The folder has the sweep files
    as they were run and all runs; a call that was killed goes on where it stopped.
    """
    if asked["page"] is not None:
        refuse_unread((*_OF_A_RUN, *_OF_PRINTING), "with --page", "leave it out: nothing is run")
        if asked["page"].suffix.lower() not in (".md", ".markdown"):
            raise UsageError(f"--page {asked['page']}: is no page of markdown", "name a FILE.md")
        return _write_page(names, asked["page"], quiet=printed.quiet)
    if not names:
        refuse_unread(
            _OF_A_RUN,
            "without an experiment",
            "name one of the list that `sharp reproduce` prints",
        )
        return _list(printed)
    if len(names) > 1:
        raise UsageError(f"{names[1]}: one experiment is run at a time", "run them in turn")
    return _run(names[0], printed, asked)


def _list(output: OutputSettings) -> int:
    from sharpcli.render import emit
    from sharpcli.runs.experiments import list_experiments

    emit(list_experiments(), output)
    return ExitCode.DONE


def _write_page(names: tuple[str, ...], page: Path, *, quiet: bool) -> int:
    from sharpcli.render import say_written
    from sharpcli.render.files.claims_page import write_claims_page
    from sharpcli.runs.experiments import saved_results

    for file in write_claims_page(saved_results(names), page):
        say_written(file, quiet=quiet)
    return ExitCode.DONE


def _run(name: str, output: OutputSettings, asked: dict[str, Any]) -> int:
    from sharpcli.cli.progress_bars import notes_of, progress_bars
    from sharpcli.cli.sweep_progress import sweep_progress
    from sharpcli.render import emit, say
    from sharpcli.runs.experiments import experiments, find_experiment
    from sharpcli.runs.reproduce import Asked
    from sharpcli.runs.reproduce import reproduce as run_experiment

    experiment = find_experiment(name)
    if name in experiments() and (Path(name) / "experiment.toml").is_file() and not output.quiet:
        say(f"{name} is the built-in experiment; ./{name} is the folder")
    folder = asked["folder"] or Path(f"{experiment.name}-{asked['scale']}")

    def watches(stage: str) -> Any:
        if not output.quiet:
            say(f"stage {stage}")
        return sweep_progress(quiet=output.quiet)

    document = run_experiment(
        experiment,
        folder,
        Asked(asked["scale"], asked["seeds"], asked["jobs"], asked["on"]),
        watches=watches,
        bars=lambda: progress_bars(quiet=output.quiet),
        notes=notes_of(output),
    )
    if document is None:
        say("interrupted: what is finished is kept; the same command goes on from there")
        return interruption.exit_code()
    emit(document, output)
    return ExitCode.DONE
