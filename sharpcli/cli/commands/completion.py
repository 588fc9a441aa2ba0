"""`sharp completion`: the line that teaches a shell to complete `sharp`."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from sharpcli.errors import UsageError

__all__ = ["SHELLS", "completion"]

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  echo 'eval "$(sharp completion bash)"' >> ~/.bashrc
  echo 'eval "$(sharp completion zsh)"' >> ~/.zshrc
  sharp completion fish > ~/.config/fish/completions/sharp.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print what a shell needs to complete commands, options and names.

    SHELL is bash, zsh or fish; by default the one of $SHELL. With it TAB completes files where a
    checkpoint is expected, measures after -m, and tasks after -t.
    """
    shell = shell or Path(os.environ.get("SHELL", "")).name
    made = get_completion_class(shell) if shell in SHELLS else None
    if made is None:
        raise UsageError(
            f"the shell {shell!r} is not known" if shell else "no shell is named",
            f"sharp completion {'|'.join(SHELLS)}",
        )
    group = click.get_current_context().find_root().command
    script = made(group, {}, "sharp", "_SHARP_COMPLETE")
    click.echo(script.source_template % script.source_vars())  # source() would run bash first
