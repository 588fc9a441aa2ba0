"""Read defaults of a command's options from sharp.toml and [tool.sharp] in pyproject.toml.

    task = "task.py"           # for every command with this option
    device = "cuda"

    [options]                  # the task's own options, as -O name=value
    width = 128

    [measure]                  # an option of one command
    epsilon = [1e-3, 5e-4]

Keys are the long options' names, with `-` or `_`. The order of precedence is: command line,
environment, sharp.toml, pyproject.toml, the option's own default. Within a file a command's table
overrides the top level. A path to a task file is relative to the file that contains it.

Each file is searched in the working directory and its parents, up to the root of the repository or
the home directory, whichever comes first. Outside both only the working directory is searched,
because a task file is code and anybody can write to a shared folder such as /tmp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sharpcli.errors import UsageError, counted, did_you_mean
from sharpcli.runtime.toml import read_toml

__all__ = ["command_defaults", "find_files"]

TASK_OPTIONS = "options"  # the table of -O options
PAIRS = "option_pairs"  # the parameter that -O fills


@dataclass(frozen=True)
class ConfigFile:
    """One file's settings; errors call it `where`, and its paths are relative to `folder`."""

    where: str
    folder: Path
    settings: Mapping[str, Any]


def command_defaults(name: str, group: click.Group, context: click.Context) -> dict[str, Any]:
    """The defaults of the command `name` (parameter → value) from the configuration files.

    Raises:
        UsageError: A key is not an option, or its option does not accept the value; the message
            names file and key.
    """
    defaults: dict[str, Any] = {}
    pairs: dict[str, str] = {}
    for file in find_files(Path.cwd(), Path.home()):
        tables = {key for key, value in file.settings.items() if isinstance(value, Mapping)}
        for table in tables - {TASK_OPTIONS, *group.list_commands(context)}:
            known = [*group.list_commands(context), TASK_OPTIONS]
            raise UsageError(
                f"{file.where}: [{table}] is not a command: {did_you_mean(table, known)}",
                "a table holds the options of one command, and [options] those of the task",
            )
        own = file.settings.get(name, {})
        if not isinstance(own, Mapping):
            raise UsageError(
                f"{file.where}: {name} is a command and needs a table", f"write it as [{name}]"
            )
        shared = {key: value for key, value in file.settings.items() if key not in tables}
        command = _command(group, context, name)
        pairs |= _pairs(file, file.settings) | _pairs(file, own)
        for key, value in shared.items():
            parameter = _option(command, context, key)
            if parameter is not None:
                defaults[str(parameter.name)] = _checked(file, key, value, parameter)
            else:
                _refuse_unknown(file, key, group, context)
        for key, value in own.items():
            parameter = _option(command, context, key)
            if key == TASK_OPTIONS:
                continue
            if parameter is None:
                raise UsageError(
                    f"{file.where}: [{name}] {key}: `sharp {name}` has no such option: "
                    f"{did_you_mean(_spelt(key), _options(command.params))}",
                    f"`sharp {name} --help` lists them",
                )
            defaults[str(parameter.name)] = _checked(file, f"[{name}] {key}", value, parameter)
    if pairs and any(
        parameter.name == PAIRS for parameter in _command(group, context, name).params
    ):
        defaults[PAIRS] = [f"{option}={value}" for option, value in pairs.items()]
    return defaults


def find_files(start: Path, home: Path) -> list[ConfigFile]:
    """The files that apply to the folder `start`, weakest first: pyproject.toml, sharp.toml."""
    folders = _searched(start, home)
    found = []
    for folder in folders:
        project = folder / "pyproject.toml"
        settings = read_toml(project).get("tool", {}).get("sharp") if project.is_file() else None
        if settings is not None:
            found.append(ConfigFile(f"{project} [tool.sharp]", folder, settings))
            break
    for folder in folders:
        own = folder / "sharp.toml"
        if own.is_file():
            found.append(ConfigFile(str(own), folder, read_toml(own)))
            break
    return found


def _searched(start: Path, home: Path) -> list[Path]:
    folders = [start, *start.parents]
    for count, folder in enumerate(folders, start=1):
        if (folder / ".git").exists() or folder == home:
            return folders[:count]
    return [start]


def _command(group: click.Group, context: click.Context, name: str) -> click.Command:
    command = group.get_command(context, name)
    assert command is not None, f"{name} is in the list of commands"
    return command


def _option(command: click.Command, context: click.Context, key: str) -> click.Option | None:
    """A command's option of this name; those of packages, which take an import, come last."""
    found = _options(command.params).get(_spelt(key))
    return found or _options(command.get_params(context)).get(_spelt(key))


def _options(parameters: Iterable[click.Parameter]) -> dict[str, click.Option]:
    """Options by long name (`batch-size`), except -O, which has its own table."""
    return {
        name.removeprefix("--"): parameter
        for parameter in parameters
        if isinstance(parameter, click.Option) and parameter.name != PAIRS
        for name in parameter.opts
        if name.startswith("--")
    }


def _spelt(key: str) -> str:
    return key.replace("_", "-")


def _refuse_unknown(file: ConfigFile, key: str, group: click.Group, context: click.Context) -> None:
    """Raise `UsageError` unless the key is an option of another command."""
    commands = [_command(group, context, name) for name in group.list_commands(context)]
    if any(_spelt(key) in _options(command.params) for command in commands):
        return
    known = {name for command in commands for name in _options(command.get_params(context))}
    if _spelt(key) not in known:
        raise UsageError(
            f"{file.where}: {key}: is not an option: {did_you_mean(_spelt(key), sorted(known))}",
            "keys are the names of long options, as in batch-size = 64",
        )


def _checked(file: ConfigFile, key: str, value: Any, parameter: click.Option) -> Any:
    """The value as Click takes it; raises `UsageError` if the option does not accept it."""
    several = parameter.multiple or parameter.nargs != 1
    values = value if isinstance(value, list) else [value]
    problem = None
    if parameter.is_flag:
        problem = None if isinstance(value, bool) else "is true or false"
    elif isinstance(value, list) and not several:
        problem = "takes one value, not a list"
    elif parameter.nargs > 1 and len(values) != parameter.nargs:
        problem = f"takes a list of {counted(parameter.nargs, 'value')}"
    else:
        for item in values:
            problem = problem or _problem(item, parameter)
    if problem:
        raise UsageError(f"{file.where}: {key} = {_shown(value)}: {problem}", _correct(parameter))
    if parameter.is_flag:
        return value
    texts = [
        _relative_to(file, str(item)) if parameter.name == "task" else str(item) for item in values
    ]
    return texts if several else texts[0]


def _problem(value: Any, parameter: click.Option) -> str | None:
    """Why the option does not accept this value; None if it does."""
    if isinstance(value, bool | Mapping | list):
        return "is not a single value"
    try:
        parameter.type.convert(str(value), parameter, None)
    except click.BadParameter as error:
        return error.message
    return None


def _pairs(file: ConfigFile, settings: Mapping[str, Any]) -> dict[str, str]:
    """The task's options in the table [options], in the form that -O gives."""
    table = settings.get(TASK_OPTIONS, {})
    if not isinstance(table, Mapping):
        raise UsageError(
            f"{file.where}: {TASK_OPTIONS} must be a table", f"write it as [{TASK_OPTIONS}]"
        )
    for key, value in table.items():
        if isinstance(value, Mapping | list):
            raise UsageError(
                f"{file.where}: [{TASK_OPTIONS}] {key} = {_shown(value)}: is not a single value",
                "an option of the task is a text, a number or true/false",
            )
    return {key: _shown(value, quoted=False) for key, value in table.items()}


def _relative_to(file: ConfigFile, task: str) -> str:
    """The task; a path to a file is resolved from the folder of the file that names it."""
    path = file.folder / task
    return str(path) if task.endswith(".py") or path.is_file() else task


def _shown(value: Any, quoted: bool = True) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if quoted else str(value)


def _correct(parameter: click.Option) -> str:
    return f"it is the default of {_first(parameter.opts)}; correct or remove the line"


def _first(names: Iterable[str]) -> str:
    return next(name for name in names if name.startswith("--"))
