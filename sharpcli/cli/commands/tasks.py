"""`sharp tasks`: the built-in tasks and their options."""

from __future__ import annotations

import click

from sharpcli.cli.option_names import as_option
from sharpcli.render.console import console
from sharpcli.runtime.text import folded
from sharpcli.tasks import builtin_tasks

__all__ = ["tasks"]


@click.command(
    epilog="""\b
Examples:
  sharp tasks
  sharp train digits -O model=cnn -O batch_norm=true"""
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def tasks(as_json: bool) -> None:
    """List the built-in tasks and their options.

    Each is followed by a command that trains it well, or that measures your own checkpoints.
    """
    if as_json:
        _print_json()
        return
    out = console()
    for task in builtin_tasks().values():
        said = f"{task.name}: {task.summary}"
        click.echo(folded(said, out.width) if out.is_terminal else said)
        what = "data from" if task.example is None else "needs"
        source = f"{what} {task.package}; pip install 'sharpcli[{task.extra}]'"
        click.echo(f"  ({source if task.package else 'data are part of Python'})")
        for option in task.options():
            click.echo(f"  -O {option}")
        if task.example is not None:
            click.echo(f"  {task.example}")
            continue
        settings = [as_option(name, value) for name, value in task.training.items()]
        click.echo(f"  {' '.join(['sharp train', task.name, *settings])}")


def _print_json() -> None:
    from sharpcli.documents.results import SCHEMA, dumps

    found = [
        {
            "name": task.name,
            "summary": task.summary,
            "package": task.package,
            "training": dict(task.training),
            "options": [
                {
                    "name": option.name,
                    "type": option.type_name,
                    "default": None if option.required else option.default,
                    **({"required": True} if option.required else {}),
                }
                for option in task.options()
            ],
        }
        for task in builtin_tasks().values()
    ]
    click.echo(dumps({"schema": SCHEMA, "kind": "tasks", "tasks": found}))
