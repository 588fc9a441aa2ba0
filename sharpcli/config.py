"""sharp.toml and [tool.sharp] in pyproject.toml, as the defaults of a command's options."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["command_defaults"]


def command_defaults(name: str, group: click.Group, context: click.Context) -> dict[str, Any]:
    """The defaults of the command `name` that the configuration files give."""
    return {}
