"""The command line: `sharp`, and `python -m sharpcli`, which torchrun starts."""

from __future__ import annotations

import functools
import importlib
import io
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import click
from click.shell_completion import CompletionItem

from sharpcli.cli.sign_of_life import sign_of_life
from sharpcli.errors import SharpError, did_you_mean, settings_written_by
from sharpcli.runtime import interruption
from sharpcli.runtime.streams import drop_stdout, prepare
from sharpcli.runtime.version import __version__

__all__ = ["COMMANDS", "main", "sharp"]

# name → (module, attribute, one-line help). The help is repeated here so that `sharp --help`
# imports no command; a test compares each line with the command's own.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "measure": (
        "sharpcli.cli.commands.measure",
        "measure",
        "Measure how sharp the minimum of each checkpoint is.",
    ),
    "interpolate": (
        "sharpcli.cli.commands.interpolate",
        "interpolate",
        "Draw the loss between checkpoints.",
    ),
    "landscape": (
        "sharpcli.cli.commands.landscape",
        "landscape",
        "Draw the loss surface around a checkpoint.",
    ),
    "spectrum": (
        "sharpcli.cli.commands.spectrum",
        "spectrum",
        "Draw the spectral density of each checkpoint's Hessian.",
    ),
    "plot": (
        "sharpcli.cli.commands.plot",
        "plot",
        "Draw a saved line, plane, landscape or spectrum, or a training.",
    ),
    "compare": (
        "sharpcli.cli.commands.compare",
        "compare",
        "Compare saved results in one table.",
    ),
    "report": (
        "sharpcli.cli.commands.report",
        "report",
        "Make one HTML page of saved results.",
    ),
    "inspect": (
        "sharpcli.cli.commands.inspect",
        "inspect",
        "Show what is in a checkpoint.",
    ),
    "train": (
        "sharpcli.cli.commands.train",
        "train",
        "Train a task's model and save a checkpoint.",
    ),
    "schedule": (
        "sharpcli.cli.commands.schedule",
        "schedule",
        "List learning-rate policies, draw one, or rewrite it.",
    ),
    "sweep": (
        "sharpcli.cli.commands.sweep",
        "sweep",
        "Train every run of a sweep file.",
    ),
    "search": (
        "sharpcli.cli.commands.search",
        "search",
        "Look for the settings with the best result.",
    ),
    "reproduce": (
        "sharpcli.cli.commands.reproduce",
        "reproduce",
        "Check what the literature claims, with verdicts.",
    ),
    "demo": (
        "sharpcli.cli.commands.demo",
        "demo",
        "Train and measure small- and large-batch minima.",
    ),
    "init": (
        "sharpcli.cli.commands.init",
        "init",
        "Write a task file to start from.",
    ),
    "tasks": (
        "sharpcli.cli.commands.tasks",
        "tasks",
        "List the built-in tasks and their options.",
    ),
    "completion": (
        "sharpcli.cli.commands.completion",
        "completion",
        "Print what a shell needs to complete commands, options and names.",
    ),
}


def _as_option(name: str, value: Any) -> str:
    from sharpcli.cli.option_names import as_option  # which only messages need

    return as_option(name, value)


class LazyGroup(click.Group):
    """A group that imports a command on use, reads sharp.toml for it, and prints errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (Click's signature)
        """The commands' names, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 (Click's signature)
        cmd_name: str,
    ) -> click.Command | None:
        """Import and return one command; None if it does not exist."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 (Click's signature)
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the list of commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands from the table, without importing them, and the options."""
        found = [
            CompletionItem(name, help=line)
            for name, (_, _, line) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and set its defaults from the configuration files."""
        if ctx.resilient_parsing:  # a shell completes: no message and no configuration
            return super().resolve_command(ctx, args)
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(
                f"there is no command '{args[0]}': {did_you_mean(args[0], COMMANDS)}", ctx
            )
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and command is not None and not {"-h", "--help"} & set(rest):
            from sharpcli.cli.config import command_defaults

            ctx.default_map = {name: command_defaults(name, self, ctx)}
        return name, command, rest

    @settings_written_by(_as_option)
    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and end the process with the documented exit code."""
        run = functools.partial(
            super().main, args, prog_name, complete_var, standalone_mode=False, **extra
        )
        if not standalone_mode:
            return run()
        try:
            interruption.begin()
            value: Any = run()
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            interruption.finish()
            code = _say_why(error)
            if code is None:
                raise
            sys.exit(code)
        waited = interruption.finish()
        sys.exit(waited or (value if isinstance(value, int) else 0))


def _say_why(error: BaseException) -> int | None:
    """Print on stderr what ended the run, and return the exit code; None for a bug."""
    from sharpcli.cli.exit_codes import ExitCode, of_error
    from sharpcli.runtime.processes import is_first
    from sharpcli.runtime.text import visible_lines

    if isinstance(error, click.Abort) or interruption.caused(error):
        if is_first():
            click.echo("Interrupted.", err=True)
        return interruption.exit_code()
    if isinstance(error, SharpError):
        _say(visible_lines(f"{_process()}Error: {error}"))
        return of_error(error)
    if isinstance(error, click.ClickException):
        _process()
        _say(_shown(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        drop_stdout()  # the reader (`| head`) has left
        return ExitCode.FAILED
    if isinstance(error, OSError) and _stdout_fails():
        drop_stdout()
        click.echo(f"Error: standard output: cannot be written: {error.strerror}", err=True)
        return ExitCode.FAILED
    if _is_out_of_memory(error):
        # An error from the task's code has notes that say where it happened.
        where = getattr(error, "__notes__", ["out of memory"])[0]
        reason = str(error).splitlines()[0]
        _say(visible_lines(f"{_process()}Error: {where}: {reason}\n  {_LESS_MEMORY}"))
        return ExitCode.FAILED
    return None


_LESS_MEMORY = "hint: give a smaller --batch-size, or load fewer data in data()"


def _is_out_of_memory(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError) or "torch" not in sys.modules:
        return False
    from sharpcli.runtime.memory import is_out_of_memory

    return is_out_of_memory(error)


def _stdout_fails() -> bool:
    """Whether the remaining output cannot be printed."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return getattr(sys.stdout, "failed", False)


@click.group(
    name="sharp",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  sharp demo
  sharp measure small-batch.safetensors large-batch.safetensors --task task.py
  sharp measure run-*/model.safetensors --json > result.json

\b
Exit codes: 0 done, 1 something failed, 2 misuse,
3 some number did not converge (with --strict).""",
)
@click.version_option(__version__, prog_name="sharp", message="%(prog)s %(version)s")
def sharp() -> None:
    """Measure how sharp a trained network's minimum is, with error bars."""


# Seconds for which a process other than the first delays its error. The first one prints an error
# that all share, and torchrun then ends the others.
_GRACE = 3.0


def _process() -> str:
    """The prefix that names the process in a message; "" for the first."""
    from sharpcli.runtime.processes import is_first, rank, size

    if is_first():
        return ""
    time.sleep(_GRACE)
    return f"process {rank()} of {size()}: "


def _shown(error: click.ClickException) -> str:
    """Click's message of an error, with the quoted command line made safe."""
    from sharpcli.runtime.text import visible_lines

    shown, message = io.StringIO(), error.format_message()
    error.show(shown)
    return shown.getvalue().rstrip("\n").replace(message, visible_lines(message))


def _say(text: str) -> None:
    """Print safe text on stderr, wrapped at blanks if that is a terminal."""
    import shutil

    from sharpcli.runtime.text import folded

    width = shutil.get_terminal_size().columns
    click.echo(folded(text, width) if sys.stderr.isatty() else text, err=True)


def main() -> None:
    """Run `sharp` on the process's arguments."""
    prepare(sign_of_life(sys.argv[1:]))
    sys.excepthook = _say_how_to_report
    sharp.main(prog_name="sharp")


def _say_how_to_report(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    import traceback

    from sharpcli.runtime.text import visible

    lines = "".join(traceback.format_exception(kind, error, trace)).split("\n")
    click.echo("\n".join(map(visible, lines)), err=True, nl=False)
    python = ".".join(map(str, sys.version_info[:3]))
    click.echo(
        f"\nThis is a bug in sharp {__version__} (Python {python}, {sys.platform}). Please report "
        "it to the project with the lines above and the command that you ran.",
        err=True,
    )


if __name__ == "__main__":
    main()
