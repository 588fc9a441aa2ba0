"""`sharp init`: write a task file to start from."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import click

from sharpcli.errors import UsageError
from sharpcli.runtime.files import reserved, write_whole
from sharpcli.runtime.text import visible

__all__ = ["TEMPLATES", "init", "template_text"]

TEMPLATES = ("plain", "image", "causal-lm", "lightning")


@click.command(
    epilog="""\b
Examples:
  sharp init
  sharp init tasks/resnet.py --template image"""
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="task.py")
@click.option(
    "--template",
    type=click.Choice(TEMPLATES),
    default="plain",
    show_default=True,
    help="The template of the file.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
def init(file: Path, template: str, force: bool) -> None:
    """Write a task file to start from.

    FILE (task.py by default) is a commented task that works as it is, on synthetic data. Replace
    its model, data and loss with your own.
    """
    if not file.name:
        raise UsageError("FILE is empty", "name a file such as task.py")
    if file.suffix != ".py":
        raise UsageError(
            f"{file}: a task file must end in .py", f"write to {file.with_suffix('.py')}"
        )
    text = template_text(template, file)
    with reserved(file):
        if os.path.lexists(file) and not force:
            raise UsageError(
                f"{file}: is there already", "choose another name, or overwrite it with --force"
            )
        write_whole(file, text)
    click.echo(f"wrote {visible(str(file))}; put your model and data in, then:")
    click.echo(f"  sharp measure CHECKPOINT --task {visible(str(file))}")


def template_text(template: str, file: Path) -> str:
    """The text of a template, with `file` in its examples."""
    source = resources.files("sharpcli.tasks") / "templates" / f"{template}.py.txt"
    return source.read_text("utf-8").format(file=file)
