"""`sharp inspect`: show what is in a checkpoint, without a task."""

from __future__ import annotations

import click

from sharpcli.cli import completion
from sharpcli.cli.exit_codes import exit_code
from sharpcli.cli.options.output import output_options
from sharpcli.cli.options.run import weights_option
from sharpcli.documents.results import to_document
from sharpcli.settings.output import OutputSettings

__all__ = ["inspect"]


@click.command(
    epilog="""\b
Examples:
  sharp inspect model.safetensors
  sharp inspect run-*/model.pt --json | jq '.results[].checkpoint.metadata'"""
)
@click.argument(
    "checkpoints", nargs=-1, required=True, metavar="CKPT...", shell_complete=completion.files
)
@weights_option()
@output_options
def inspect(checkpoints: tuple[str, ...], weights: str | None, output: OutputSettings) -> int:
    """Show what is in a checkpoint.

    Shows its tensors with shape, dtype, norm and range, the settings stored with them, and the
    optimizer's state. CKPT is a safetensors file, a torch file (.pt, .pth, .ckpt, .bin), a sharded
    index or a folder in Hugging Face's layout. Needs no task, and runs no code from the file.
    """
    from sharpcli.render import emit
    from sharpcli.runs.inspect import inspect_checkpoints

    document = to_document(inspect_checkpoints(checkpoints, weights))
    emit(document, output)
    return exit_code(document)
