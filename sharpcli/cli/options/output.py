"""The options of the result's file, format and figures."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from sharpcli.cli.options.given import Command, decorate
from sharpcli.documents.labels import CHECKPOINT_SUFFIXES
from sharpcli.errors import UsageError
from sharpcli.render.formats import FORMATS
from sharpcli.render.kinds import FIGURES, KINDS
from sharpcli.runtime.destinations import is_special
from sharpcli.runtime.files import reserved
from sharpcli.settings.output import OutputSettings

__all__ = [
    "output_options",
    "plot_option",
    "printing_options",
    "refuse_overwriting",
    "resume_option",
]


_quiet_option = click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")


def output_options(command: Command) -> Command:
    """Add the options of the result's file and format; the command gets `output`."""

    @functools.wraps(command)
    def with_output(*args: Any, **kwargs: Any) -> Any:
        output = OutputSettings(
            format=_chosen_format(
                kwargs.pop("output_format"), kwargs.pop("as_json"), kwargs["output_file"]
            ),
            output=kwargs.pop("output_file"),
            quiet=kwargs.pop("quiet"),
            strict=kwargs.pop("strict"),
            verbose=kwargs.pop("verbose"),
            plot=tuple(dict.fromkeys(kwargs.pop("plot_files", ()))),
        )
        if output.quiet and output.verbose:
            raise UsageError("--quiet and --verbose exclude each other", "give one of them")
        outputs = [("--output", output.output), *(("--plot", path) for path in output.plot)]
        refuse_overwriting(*outputs)
        _refuse_replacing_a_checkpoint(*outputs)
        with reserved(output.output, *output.plot):
            return command(*args, output=output, **kwargs)

    return decorate(
        with_output,
        *_format_options("The form of the result. With --output, by default as its suffix says."),
        click.option(
            "--output",
            "output_file",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write the result to FILE instead of to the screen, completely or not at all.",
        ),
        _quiet_option,
        click.option(
            "--strict", is_flag=True, help="Exit with code 3 if some number did not converge."
        ),
        click.option("--verbose", is_flag=True, help="Print more details on stderr."),
    )


def printing_options(command: Command) -> Command:
    """Add the options of what a command prints whose results go to a folder; it gets `printed`."""

    @functools.wraps(command)
    def with_printed(*args: Any, **kwargs: Any) -> Any:
        form = kwargs.pop("output_format")
        printed = OutputSettings(
            format="json" if kwargs.pop("as_json") else form,
            quiet=kwargs.pop("quiet"),
            plot=tuple(dict.fromkeys(kwargs.pop("plot_files", ()))),
        )
        return command(*args, printed=printed, **kwargs)

    return decorate(
        with_printed,
        *_format_options("The form of what is printed on stdout."),
        _quiet_option,
    )


def _format_options(help_: str) -> tuple[Callable[[Command], Command], ...]:
    """--format and --json."""
    return (
        click.option(
            "--format",
            "output_format",
            type=click.Choice(list(FORMATS)),
            default=OutputSettings().format,
            show_default=True,
            help=help_,
        ),
        click.option("--json", "as_json", is_flag=True, help="Short for --format json."),
    )


def plot_option(kind: str = "") -> Callable[[Command], Command]:
    """Add --plot; `output_options` and `printing_options` pass its files on as `plot`.

    Suffix, folder and drawing library are checked before the command's body runs.

    Args:
        kind: of the command's results, which decides what they are drawn as; empty: any.
    """
    known = KINDS[kind].figures if kind else FIGURES
    drawn = ", ".join(suffix for suffix in FIGURES if suffix in known and FIGURES[suffix])
    exported = ", ".join(suffix for suffix in FIGURES if suffix in known and not FIGURES[suffix])

    def checked(
        context: click.Context,  # noqa: ARG001 (Click passes it)
        option: click.Parameter,  # noqa: ARG001
        paths: tuple[Path, ...],
    ) -> tuple[Path, ...]:
        if paths:
            from sharpcli.render.files.plotting import check_plot

            for path in paths:
                check_plot(path, kind)
        return paths

    def add(command: Command) -> Command:
        return decorate(
            command,
            click.option(
                "--plot",
                "plot_files",
                multiple=True,
                type=click.Path(path_type=Path),
                metavar="FILE",
                callback=checked,
                help=f"Draw the result to FILE too: {drawn.replace('.html', '.html (interactive)')}"
                f", or {exported} to draw it elsewhere. Repeatable.",
            ),
        )

    return add


def resume_option(command: Command) -> Command:
    """Add --resume; the command gets `resume: bool`."""
    return decorate(
        command,
        click.option(
            "--resume/--no-resume",
            default=True,
            show_default=True,
            help="With --output: go on from the checkpoints that a killed run has finished, which "
            "FILE.partial holds, or start over.",
        ),
    )


def refuse_overwriting(*outputs: tuple[str, Path | None]) -> None:
    """Refuse to write a file that the command also reads, or that is named twice.

    Args:
        outputs: Pairs of an option that names a file to write, and its path.

    Raises:
        UsageError: A file would be overwritten.
    """
    context = click.get_current_context()
    taken = {
        os.path.realpath(path): f"{path}, which is read here"
        for name in _READ
        for path in _texts(context.params.get(name))
        if os.path.isfile(path)  # noqa: PTH113 (a task's name may not be a valid path)
    }
    for option, path in outputs:
        if path is None or is_special(path):
            continue
        target = os.path.realpath(path)
        if target in taken:
            raise UsageError(
                f"{option} {path}: would overwrite {taken[target]}",
                "name another file to write",
            )
        taken[target] = f"the file of {option}, which is also written"


def _refuse_replacing_a_checkpoint(*outputs: tuple[str, Path | None]) -> None:
    """Raise `UsageError` if a result would replace what looks like a checkpoint."""
    for option, path in outputs:
        if path is None or is_special(path) or not os.path.exists(path):  # noqa: PTH110 (never raises)
            continue
        # The index of a sharded checkpoint is JSON, as a result is.
        if path.suffix.lower() in CHECKPOINT_SUFFIXES or path.name.endswith(".index.json"):
            raise UsageError(
                f"{option} {path}: would overwrite a file that looks like a checkpoint",
                "name a file such as result.json",
            )


def _texts(value: Any) -> Iterator[str]:
    """The strings in a parameter's value: one, a tuple, or a tuple of tuples."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _texts(each)


# The parameters that name files to read.
_READ = (
    *("checkpoints", "checkpoint", "results", "result"),
    *("mark", "trajectory", "task", "task_argument", "init"),
)


def _chosen_format(chosen: Any, as_json: bool, output: Path | None) -> Any:
    """The output format; --json has the same priority as a --format given in the same place.

    Without either, the suffix of the file to write decides.

    Raises:
        UsageError: Both are given and differ.
    """
    context = click.get_current_context()
    if not as_json and context.get_parameter_source("output_format") is ParameterSource.DEFAULT:
        by_suffix = {form.suffix: name for name, form in FORMATS.items()}
        return by_suffix.get(output.suffix.lower(), chosen) if output else chosen
    if not as_json or chosen == "json":
        return chosen
    json_from = context.get_parameter_source("as_json")
    format_from = context.get_parameter_source("output_format")
    if format_from is ParameterSource.DEFAULT or json_from is ParameterSource.COMMANDLINE:
        if json_from is format_from:
            raise UsageError(f"--json and --format {chosen} exclude each other", "give one of them")
        return "json"
    return chosen
