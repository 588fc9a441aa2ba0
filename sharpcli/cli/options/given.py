"""What the command line gave, and what it may not give together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import click
from click.core import ParameterSource

from sharpcli.errors import UsageError

__all__ = ["Command", "decorate", "each_once", "given", "refuse_unread"]

Command = Callable[..., Any]


def given(names: Collection[str]) -> list[str]:
    """The options of these parameters that the command line itself gives, as written there.

    Values in sharp.toml do not count, because they apply to other runs too.
    """
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.get_params(context)
        if option.name in names
        and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    ]


def refuse_unread(names: Collection[str], why: str, hint: str) -> None:
    """Raise `UsageError` if the command line gives one of these options, which have no effect here.

    `why` completes the sentence "has no effect".

    Raises:
        UsageError: One of the options is given.
    """
    for option in given(names):
        raise UsageError(f"{option}: has no effect {why}", hint)


def decorate(command: Command, *options: Callable[[Command], Command]) -> Command:
    """The command with these options, in this order in its help."""
    for option in reversed(options):  # Click lists them in the order in which they were written
        command = option(command)
    return command


def each_once(option: str, pairs: Sequence[tuple[str, str]], hint: str) -> dict[str, str]:
    """The values by name that an option like -O gives.

    Raises:
        UsageError: A name is given twice.
    """
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"{option} {twice[0]} is given twice", hint)
    return dict(pairs)
