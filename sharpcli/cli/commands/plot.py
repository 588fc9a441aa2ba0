"""`sharp plot`: draw a saved result."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from sharpcli.cli import completion
from sharpcli.cli.commands.compare import read_result
from sharpcli.cli.options.output import output_options, plot_option
from sharpcli.cli.parameter_types import NumberType
from sharpcli.documents.results import Document
from sharpcli.errors import SharpError, UsageError
from sharpcli.settings.output import FigureSettings, OutputSettings

__all__ = ["plot"]


@click.command(
    "plot",
    epilog="""\b
Examples:
  sharp plot line.json
  sharp plot line.json --plot line.pdf --plot line.html
  sharp plot model.safetensors.curves.json --plot training.svg
  sharp plot plane.json --split test --metric accuracy --plot plane.png
  sharp interpolate a.pt b.pt --json | sharp plot - --plot line.svg""",
)
@click.argument("result", metavar="RESULT.json", shell_complete=completion.files)
@click.option(
    "--split", type=click.Choice(["train", "test"]), help="Draw only this split. Default: all."
)
@click.option(
    "--metric",
    metavar="NAME",
    help="Draw this metric: on a plane instead of the loss, on a line next to it.",
)
@click.option(
    "--scale",
    type=click.Choice(["auto", "linear", "log"]),
    default=FigureSettings().scale,
    show_default=True,
    help="The scale of the loss or the density in a file; auto is log if it spans decades.",
)
@click.option(
    "--width",
    type=NumberType(1.5, 40),
    metavar="INCHES",
    help="The width of a figure. Default: 4.6, for two panels 7.",
)
@output_options
@plot_option()
def plot(
    result: str,
    split: str | None,
    metric: str | None,
    scale: Any,
    width: float | None,
    output: OutputSettings,
) -> int:
    """Draw a saved line, plane, landscape or spectrum, or a training.

    RESULT.json is a file written by `sharp interpolate`, `landscape` or `spectrum` with --json, or
    FILE.curves.json of `sharp train`; `-` reads it from a pipe. Draws in the terminal, or to the
    files of --plot. Needs no torch, no task and no checkpoint.
    """
    from sharpcli.render import emit, say_written
    from sharpcli.render.files.plotting import draw, narrowed
    from sharpcli.render.kinds import KINDS

    name, document = read_result(result)
    _check(document, name)
    if KINDS[document["kind"]].curves:
        document = narrowed(document, split, metric)
    elif split or metric:
        raise UsageError(
            f"{name}: a {document['kind']} has no --split and no --metric", "leave them out"
        )
    if not output.plot or output.output is not None or output.format != "table":
        emit(document, dataclasses.replace(output, plot=()), metric=metric)
    for path in output.plot:
        draw(document, path, FigureSettings(scale, width, metric))
        say_written(path, quiet=output.quiet)
    return 0


def _check(document: Document, name: str) -> None:
    """Raise `SharpError` with the file's name if a document cannot be drawn."""
    from sharpcli.render.kinds import read_drawing

    try:
        read_drawing(document)
    except SharpError as error:
        raise SharpError(f"{name}: {error.message}", error.hint) from error
