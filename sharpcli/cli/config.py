"""sharp.toml, and [tool.sharp] in pyproject.toml, as the defaults of a command's options.

    task = "task.py"           # an option of any command that has it
    device = "cuda"

    [options]                  # the task's own options, as -O name=value
    width = 128

    [measure]                  # an option of one command
    epsilon = [1e-3, 5e-4]

Keys are the long options' names, with `-` or `_`. What counts is, from strong to weak: the command
line, the environment, sharp.toml, pyproject.toml, the option's own default. Within a file a
command's table counts for more than the top. A path to a task file is relative to the file that
holds it.

Each file is looked for in the working directory and its parents up to the root of the repository
or the home directory, whichever comes first; outside both only in the working directory, since a
task file is code and a shared folder such as /tmp is anybody's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sharpcli.errors import UsageError, counted, did_you_mean

__all__ = ["command_defaults", "find_files"]

TASK_OPTIONS = "options"  # the table of -O options
PAIRS = "option_pairs"  # the parameter that -O fills


@dataclass(frozen=True)
class ConfigFile:
    """One file's settings: `where` is what errors call it, `folder` what paths are relative to."""

    where: str
    folder: Path
    settings: Mapping[str, Any]


def command_defaults(name: str, group: click.Group, context: click.Context) -> dict[str, Any]:
    """The defaults of the command `name` (parameter → value) that the configuration files give.

    Raises `UsageError` that names file and key, for a key that is no option and for a value that
    the option does not take.
    """
    defaults: dict[str, Any] = {}
    pairs: dict[str, str] = {}
    for file in find_files(Path.cwd(), Path.home()):
        tables = {key for key, value in file.settings.items() if isinstance(value, Mapping)}
        for table in tables - {TASK_OPTIONS, *group.list_commands(context)}:
            known = [*group.list_commands(context), TASK_OPTIONS]
            raise UsageError(
                f"{file.where}: [{table}] is no command: {did_you_mean(table, known)}",
                "a table holds the options of one command, [options] those of the task",
            )
        own = file.settings.get(name, {})
        if not isinstance(own, Mapping):
            raise UsageError(
                f"{file.where}: {name} is a command, so a table", f"write it as [{name}]"
            )
        shared = {key: value for key, value in file.settings.items() if key not in tables}
        command = _command(group, context, name)
        pairs |= _pairs(file, file.settings) | _pairs(file, own)
        for key, value in shared.items():
            parameter = _options(command).get(_spelt(key))
            if parameter is not None:
                defaults[str(parameter.name)] = _checked(file, key, value, parameter)
            else:
                _refuse_unknown(file, key, group, context)
        for key, value in own.items():
            parameter = _options(command).get(_spelt(key))
            if key == TASK_OPTIONS:
                continue
            if parameter is None:
                raise UsageError(
                    f"{file.where}: [{name}] {key}: `sharp {name}` has no such option: "
                    f"{did_you_mean(_spelt(key), _options(command))}",
                    f"`sharp {name} --help` lists them",
                )
            defaults[str(parameter.name)] = _checked(file, f"[{name}] {key}", value, parameter)
    if pairs and any(
        parameter.name == PAIRS for parameter in _command(group, context, name).params
    ):
        defaults[PAIRS] = [f"{option}={value}" for option, value in pairs.items()]
    return defaults


def find_files(start: Path, home: Path) -> list[ConfigFile]:
    """The files that hold for the folder `start`, the weaker first: pyproject.toml, sharp.toml."""
    folders = _searched(start, home)
    found = []
    for folder in folders:
        project = folder / "pyproject.toml"
        settings = _read(project).get("tool", {}).get("sharp") if project.is_file() else None
        if settings is not None:
            found.append(ConfigFile(f"{project} [tool.sharp]", folder, settings))
            break
    for folder in folders:
        own = folder / "sharp.toml"
        if own.is_file():
            found.append(ConfigFile(str(own), folder, _read(own)))
            break
    return found


def _searched(start: Path, home: Path) -> list[Path]:
    folders = [start, *start.parents]
    for count, folder in enumerate(folders, start=1):
        if (folder / ".git").exists() or folder == home:
            return folders[:count]
    return [start]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not TOML: {error}", "correct the line") from error
    except RecursionError as error:
        raise UsageError(
            f"{path}: its lists or tables are nested too deeply to be read",
            "its values are names, numbers, and lists of them",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: cannot be read: {error}", "check its permissions and its encoding (UTF-8)"
        ) from error


def _command(group: click.Group, context: click.Context, name: str) -> click.Command:
    command = group.get_command(context, name)
    assert command is not None, f"{name} is in the list of commands"
    return command


def _options(command: click.Command) -> dict[str, click.Option]:
    """A command's options by long name (`batch-size`), without -O, which has a table."""
    return {
        name.removeprefix("--"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name != PAIRS
        for name in parameter.opts
        if name.startswith("--")
    }


def _spelt(key: str) -> str:
    return key.replace("_", "-")


def _refuse_unknown(file: ConfigFile, key: str, group: click.Group, context: click.Context) -> None:
    """Raise, unless the key is an option of another command."""
    known: set[str] = set()
    for name in group.list_commands(context):
        known |= set(_options(_command(group, context, name)))
    if _spelt(key) not in known:
        raise UsageError(
            f"{file.where}: {key}: is no option: {did_you_mean(_spelt(key), sorted(known))}",
            "keys are the names of long options, as in batch-size = 64",
        )


def _checked(file: ConfigFile, key: str, value: Any, parameter: click.Option) -> Any:
    """The value as Click takes it; raises `UsageError` where the option does not take it."""
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
    """Why the option does not take this one value, None where it does."""
    if isinstance(value, bool | Mapping | list):
        return "is not a single value"
    try:
        parameter.type.convert(str(value), parameter, None)
    except click.BadParameter as error:
        return error.message
    return None


def _pairs(file: ConfigFile, settings: Mapping[str, Any]) -> dict[str, str]:
    """The task's options in a table, as -O gives them."""
    table = settings.get(TASK_OPTIONS, {})
    if not isinstance(table, Mapping):
        raise UsageError(
            f"{file.where}: {TASK_OPTIONS} is a table", f"write it as [{TASK_OPTIONS}]"
        )
    for key, value in table.items():
        if isinstance(value, Mapping | list):
            raise UsageError(
                f"{file.where}: [{TASK_OPTIONS}] {key} = {_shown(value)}: is not a single value",
                "an option of the task is a text, a number or true/false",
            )
    return {key: _shown(value, quoted=False) for key, value in table.items()}


def _relative_to(file: ConfigFile, task: str) -> str:
    """The task, a path to a file made relative to the folder of the file that names it."""
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
