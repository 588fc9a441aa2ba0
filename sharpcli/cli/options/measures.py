"""The options that measures define."""

from __future__ import annotations

import functools
from typing import Any

import click

from sharpcli.cli.parameter_types import NumberType, WholeType
from sharpcli.measures import Option, known_measures

__all__ = ["MeasureCommand", "own_options"]


class MeasureCommand(click.Command):
    """A command that also has the options that measures define, and gets them as `options`.

    Packages with measures are imported when the options are needed, not when this module is.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters, and those of measures."""
        *own, help_option = super().get_params(ctx)
        return [*own, *own_options().values(), help_option]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with the values of the measures' options in one mapping."""
        ctx.params["options"] = {name: ctx.params.pop(name) for name in own_options()}
        return super().invoke(ctx)


@functools.cache
def own_options() -> dict[str, click.Option]:
    """The options that measures define, by the name of their parameter."""
    every = [(o, m.name) for m in known_measures(strict=False).values() for o in m.options]
    readers = {option.name: [m for o, m in every if o.name == option.name] for option, _ in every}
    return {
        option.name: click.Option(
            [f"--{option.name.replace('_', '-')}", option.name],
            type=_type_of(option),
            is_flag=isinstance(option.default, bool),
            default=option.default,
            show_default=True,
            help=f"{', '.join(readers[option.name])}: {option.help}",
        )
        for option, _ in every
    }


def _type_of(option: Option) -> Any:
    """The Click type of an option that a measure defines."""
    if option.choices:
        return click.Choice(option.choices)
    ranged = {float: NumberType, int: WholeType}.get(type(option.default))
    return ranged(option.low, option.high, open_=option.open_) if ranged else type(option.default)
