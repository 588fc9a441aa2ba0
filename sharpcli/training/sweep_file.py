"""A sweep file, read and checked: which runs it asks for. Imports no torch.

    task = "digits"
    options = { width = 32 }          # the task's own
    [fixed]                           # for every run
    steps = 200
    [grid]                            # every combination
    optimizer = ["sgd", "AdamW"]
    seed = [0, 1]
    [random]                          # so many draws, each with every combination of the grid
    runs = 20
    lr = { low = 1e-3, high = 1.0, scale = "log" }
    [[list]]                          # one more run; `name` names it
    optimizer = "sgd"
    lr = 0.5
    [measure]                         # what to measure of each at the end
    measures = ["loss", "hessian"]
    [slurm]                           # options of sbatch, for jobs on a cluster
    partition = "long"

Keys of runs are the fields of `TrainSettings`, and `options.NAME` for an option of the task. In
`init`, `{seed}` is replaced by the run's own seed, and other keys in braces by their values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from sharpcli.errors import UsageError, did_you_mean, settings_written_by
from sharpcli.runtime.toml import read_toml
from sharpcli.settings.typed import typed
from sharpcli.training.random_draws import draws
from sharpcli.training.train_settings import TrainSettings

__all__ = [
    "Asked",
    "Sweep",
    "SweepRun",
    "as_asked",
    "as_key",
    "as_toml",
    "flat_settings",
    "path_of_task",
    "read_sweep",
    "takes_a_table",
]

_TABLES = ("fixed", "grid", "random", "list", "measure", "slurm")
_TOP = ("task", "options", *_TABLES)
_LONGEST_NAME = 120  # of a run's folder; file systems take 255 bytes
_RESERVED = ("sweep.json", "measures.json")


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep: the name of its folder, its settings, the task's options as text."""

    name: str
    settings: TrainSettings
    options: Mapping[str, str]


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for; `measure` and `slurm` are its tables, None where there is none.

    `task` is as the file has it, `task_path` where a path in it leads from here.
    """

    path: Path
    task: str
    task_path: str
    runs: tuple[SweepRun, ...]
    measure: Mapping[str, Any] | None = None
    slurm: Mapping[str, Any] | None = None


def read_sweep(path: Path) -> Sweep:
    """The runs that a sweep file asks for.

    A path to a task file is relative to the sweep file's folder.

    Raises:
        UsageError: names the file and the key, for what is no TOML, for a key that does not exist,
            for a value of the wrong type or out of range, and for runs whose names collide.
    """
    content = read_toml(path)
    for key in content:
        if key not in _TOP:
            settings = [field.name for field in dataclasses.fields(TrainSettings)]
            hint = f"keys of the file: {', '.join(_TOP)}"
            if key in settings:
                hint = f"settings of all runs go into [fixed], those that vary into [grid]; {hint}"
            raise UsageError(f"{path}: {key}: {did_you_mean(key, _TOP)}", hint)
    task = content.get("task")
    if not isinstance(task, str) or not task:
        raise UsageError(
            f'{path}: task = "…" is missing', 'name the task: task = "digits", or a task file'
        )
    for table in ("options", "fixed", "grid", "random", "measure", "slurm"):
        if not isinstance(content.get(table, {}), dict):
            raise UsageError(f"{path}: {table} is a table", f"write it as [{table}]")
    fixed = flat_settings(path, "fixed", {"options": content.get("options", {})})
    fixed |= flat_settings(path, "fixed", content.get("fixed", {}))
    drawn, grid = _random(path, content, fixed), _grid(path, content, fixed)
    many = [each | own for each in drawn for own in grid]
    own = [*(many if "grid" in content or "random" in content else []), *_list(path, content)]
    named = _named(path, fixed, own or [{}])
    tables = content.get("measure"), content.get("slurm")
    return Sweep(path, task, path_of_task(path, task), named, *tables)


def as_key(name: str, value: Any = ...) -> str:
    """A setting as a sweep file writes it, for messages: `lr = 0.1`."""
    return name if value is ... else f"{name} = {as_toml(value)}"


def path_of_task(path: Path, task: str) -> str:
    """The task; a path to a file is made relative to the sweep file's folder."""
    file = path.parent / task
    return str(file) if task.endswith(".py") or file.is_file() else task


def flat_settings(
    path: Path, where: str, table: Mapping[str, Any], *, ranges: bool = False
) -> dict[str, Any]:
    """A table's settings by flat key: `options.width`; values may be tables with `ranges`."""
    hints = get_type_hints(TrainSettings)
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if key != "options" and key not in hints:
            raise UsageError(
                f"{path}: [{where}] {key}: is no setting of a training: "
                f"{did_you_mean(key, [*hints, 'options'])}",
                f"settings: {', '.join(hints)}; options.NAME is an option of the task",
            )
        if not isinstance(value, dict):
            if key == "options":
                raise UsageError(
                    f"{path}: [{where}] options is a table", "write options.width = 32"
                )
            flat[key] = value
        elif key == "options" or takes_a_table(hints[key]):
            flat |= {f"{key}.{name}": each for name, each in value.items()}
        elif ranges:
            flat[key] = value
        else:
            raise UsageError(f"{path}: [{where}] {key}: is a table", f"write {key} = VALUE")
    return flat


def takes_a_table(kind: Any) -> bool:
    """Whether a setting of this annotation is a table of its own."""
    kinds = [kind, *getattr(kind, "__args__", ())]
    return any(
        isinstance(get_origin(k), type) and issubclass(get_origin(k), Mapping) for k in kinds
    )


def _grid(path: Path, content: Mapping[str, Any], fixed: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the grid's values; the last key varies fastest."""
    grid = flat_settings(path, "grid", content.get("grid", {}))
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UsageError(
                f"{path}: [grid] {key} = {as_toml(values)}: is not a list of values",
                f"write {key} = [{as_toml(values)}]"
                if not isinstance(values, list)
                else "give at least one value, or remove the line",
            )
        _refuse_twice(path, key, "[grid]", fixed)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _random(path: Path, content: Mapping[str, Any], fixed: dict[str, Any]) -> list[dict[str, Any]]:
    """The random draws, a single empty one where there is no [random]."""
    if "random" not in content:
        return [{}]
    own = {key: value for key, value in content["random"].items() if key in ("runs", "seed")}
    others = {key: value for key, value in content["random"].items() if key not in own}
    table = flat_settings(path, "random", others, ranges=True)
    in_grid = flat_settings(path, "grid", content.get("grid", {}))
    for key in table:
        _refuse_twice(path, key, "[random]", fixed)
        if key in in_grid:
            raise UsageError(
                f"{path}: {key} is both in [random] and in [grid]", "remove one of the two"
            )
    try:
        return draws(own | table, get_type_hints(TrainSettings), as_key)
    except UsageError as error:
        raise UsageError(f"{path}: [random] {error.message}", error.hint) from error


def _refuse_twice(path: Path, key: str, where: str, fixed: Mapping[str, Any]) -> None:
    if key in fixed:
        raise UsageError(
            f"{path}: {key} is both in {where} and fixed for every run", "remove one of the two"
        )


def _list(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs that the file names one by one."""
    tables = content.get("list", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise UsageError(
            f"{path}: list is not a list of tables", "write a table for each run: [[list]]"
        )
    runs = []
    for table in tables:
        own = {key: value for key, value in table.items() if key != "name"}
        named = {"name": table["name"]} if "name" in table else {}
        runs.append(flat_settings(path, "[list]", own) | named)
    return runs


@dataclass(frozen=True)
class Asked:
    """A run before it has a name: what the file gives, and what comes of it."""

    given: Mapping[str, Any]
    settings: TrainSettings
    options: Mapping[str, str]


def as_asked(path: Path, values: Mapping[str, Any]) -> Asked:
    """A run's settings; raises `UsageError` for a value of the wrong type or out of range."""
    hints = get_type_hints(TrainSettings)
    settings: dict[str, Any] = {}
    options: dict[str, str] = {}
    for key, value in values.items():
        group, _, own = key.partition(".")
        if group == "options":
            if isinstance(value, list | dict):
                raise UsageError(
                    f"{path}: {key} = {as_toml(value)}: is not a single value",
                    "an option of the task is a text, a number or true/false",
                )
            options[own] = str(value).lower() if isinstance(value, bool) else str(value)
        elif own:
            settings.setdefault(group, {})[own] = value
        elif key != "name":
            settings[key] = value
    for key, value in settings.items():
        try:
            settings[key] = typed(hints[key], value)
        except ValueError as error:
            raise UsageError(
                f"{path}: {key} = {as_toml(value)}: is not {error}", "correct the line"
            ) from error
    if settings.get("fixed_batch") is not None:
        settings.setdefault("batch_size", settings["fixed_batch"])
    try:
        with settings_written_by(as_key):
            return Asked(values, TrainSettings(**settings), options)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error


def _named(
    path: Path, fixed: Mapping[str, Any], own: Sequence[Mapping[str, Any]]
) -> tuple[SweepRun, ...]:
    """The runs with names that say what is their own: `optimizer=sgd,batch_size=16,seed=0`.

    A name has nothing of the other runs in it, so that runs can be added to a sweep.

    Raises:
        UsageError: for two runs of one name.
    """
    keys = [*dict.fromkeys(key for each in own for key in each if key != "name")]
    short = [key.rpartition(".")[2] for key in keys]
    labels = {
        key: key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)
    }
    runs: dict[str, SweepRun] = {}
    for each in own:
        asked = as_asked(path, _filled(path, {**fixed, **each}))
        said = ",".join(f"{labels[key]}={_text(each[key])}" for key in keys if key in each)
        name = _own_name(path, each["name"]) if "name" in each else _safe(said or "run")
        # File systems may take upper and lower case for the same.
        if name.casefold() in runs:
            raise UsageError(
                f"{path}: two runs have the name '{name}'",
                'let them differ in a setting, or name them: [[list]] name = "…"',
            )
        runs[name.casefold()] = SweepRun(name, asked.settings, asked.options)
    return tuple(runs.values())


def _filled(path: Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values with `{KEY}` in `init` replaced by the run's own KEY, as in the runs' names."""
    init = values.get("init")
    if not isinstance(init, str):
        return values

    def own(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise UsageError(
                f"{path}: init = {as_toml(init)}: the run has no {found[1]}",
                f"settings of this run: {', '.join(values)}",
            )
        return _text(values[found[1]])

    return {**values, "init": re.sub(r"\{([\w.]+)\}", own, init)}


def _own_name(path: Path, name: Any) -> str:
    if (
        not isinstance(name, str)
        or not name
        or name != _safe(name)
        or name.startswith(".")
        or name.casefold() in _RESERVED
    ):
        raise UsageError(
            f"{path}: [[list]] name = {as_toml(name)}: is no name of a folder",
            f"use up to {_LONGEST_NAME} letters, digits and . _ = + , ( ) -",
        )
    return name


def _safe(name: str) -> str:
    """A name that any file system takes; a long one is cut, and ends in a digest of all of it."""
    safe = re.sub(r"[^\w.=+,()-]+", "-", name, flags=re.ASCII)
    if len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _text(value: Any) -> str:
    """A value in a run's name: `0.9-0.99` for a pair."""
    if isinstance(value, list):
        return "-".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_toml(value: Any) -> str:
    """A value as a TOML file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{_joined(map(as_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {_joined(f'{key} = {as_toml(each)}' for key, each in value.items())} }}"
    return str(value)


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(texts)
