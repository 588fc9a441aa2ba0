"""The options that name the task and set its own options."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from sharpcli.cli import completion
from sharpcli.cli.options.given import Command, decorate, each_once, given
from sharpcli.cli.parameter_types import NAME_VALUE
from sharpcli.errors import UsageError

__all__ = ["task_argument", "task_options"]


def task_options(command: Command) -> Command:
    """Add --task and -O; the command gets `task: str | None, task_options: dict[str, str]`."""

    @functools.wraps(command)
    def with_task(*args: Any, **kwargs: Any) -> Any:
        context = click.get_current_context()
        named = kwargs.pop("task_argument", None)
        task = kwargs.pop("task")
        if named is not None:
            if given(["task"]):
                raise UsageError(
                    f"the task is named twice: '{named}' and --task {task}", "name it once"
                )
            task = named
        bound = _as_dict(kwargs.pop("option_pairs"), context, task)
        with _naming_the_source(context):
            return command(*args, task=task, task_options=bound, **kwargs)

    return decorate(
        with_task,
        click.option(
            "--task",
            "-t",
            metavar="TASK",
            shell_complete=completion.tasks,
            envvar="SHARP_TASK",
            show_envvar=True,
            help="The model and data: a file (task.py), an object (package.module:name) or a "
            "built-in task's name (see `sharp tasks`).",
        ),
        click.option(
            "--option",
            "-O",
            "option_pairs",
            multiple=True,
            type=NAME_VALUE,
            metavar="NAME=VALUE",
            shell_complete=completion.task_options,
            help="An option of the task, such as -O width=128. Repeatable.",
        ),
    )


def task_argument(command: Command) -> Command:
    """`task_options` for commands whose first argument may name the task."""
    return decorate(
        task_options(command),
        click.argument(
            "task_argument", metavar="[TASK]", required=False, shell_complete=completion.tasks
        ),
    )


@contextlib.contextmanager
def _naming_the_source(context: click.Context) -> Iterator[None]:
    """Add to a missing task file's error where its name comes from, if not the command line."""
    by = {
        ParameterSource.ENVIRONMENT: "SHARP_TASK",
        ParameterSource.DEFAULT_MAP: "the configuration file",
    }
    try:
        yield
    except UsageError as error:
        from sharpcli.tasks.source import NoTaskFileError

        source = context.get_parameter_source("task")
        if source not in by or not isinstance(error, NoTaskFileError):
            raise
        raise UsageError(
            f"{by[source]} names the task {error.message}",
            "correct it there, or name another task with --task",
        ) from error


def _as_dict(
    pairs: tuple[tuple[str, str], ...], context: click.Context, task: str | None
) -> dict[str, str]:
    """The task's options from the configuration file, overridden by those given with -O.

    The file's options belong to the file's task; they are dropped if another task is named.

    An option that is given twice is a `UsageError`.
    """
    defaults = context.default_map or {}
    in_file = [NAME_VALUE.convert(text, None, None) for text in defaults.get("option_pairs", ())]
    if not given(["option_pairs"]):
        pairs = ()
    own = each_once("-O", pairs, "give each option of the task once")
    if "task" in defaults and task != defaults["task"]:
        in_file = []
    return {**dict(in_file), **own}
