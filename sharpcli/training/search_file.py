"""A search file, read and checked: what varies, what is best, and how to look. Imports no torch.

    task = "digits"
    objective = "accuracy"            # of a held-out part of the training data
    trials = 50
    [fixed]                           # for every trial, as in a sweep file
    steps = 500
    [search]
    optimizer = ["sgd", "adamw"]      # one of these
    options.width = { low = 16, high = 128, scale = "log" }
    schedule = "TRI(k0={k0}, k1={k1}, l=100)"
    k0 = { low = 1e-5, high = 1e-2, scale = "log" }
    k1 = { low = 1e-3, high = 1, scale = "log" }

Other keys at the top are the fields of `SearchSettings`. A text with {names} is a template: what is
chosen for each name is put in.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from sharpcli.errors import UsageError, did_you_mean, settings_written_by
from sharpcli.runtime.toml import read_toml
from sharpcli.settings.search import SearchSettings
from sharpcli.settings.typed import typed
from sharpcli.training.ranges import Choice, Range, read_range
from sharpcli.training.sweep_file import (
    Sweep,
    SweepRun,
    as_asked,
    as_key,
    as_toml,
    flat_settings,
    path_of_task,
    takes_a_table,
)
from sharpcli.training.train_settings import TrainSettings

__all__ = ["Search", "read_search"]

_TOP = ("task", "options", "fixed", "search", *(f.name for f in dataclasses.fields(SearchSettings)))
_NAME = re.compile(r"\{(\w+)\}")
_DIGITS = 4  # of a number that is chosen: what a person would write, and no worse


@dataclass(frozen=True)
class Search:
    """What a search file asks for.

    Attributes:
        sweep: the file and its task; it has no runs.
        fixed: the settings of every trial, by flat key (`options.width`).
        space: what is chosen, by flat key or by the name that a template has.
        templates: texts with names in them, by flat key.
        settings: what is best, and how to look for it.
    """

    sweep: Sweep
    fixed: Mapping[str, Any]
    space: Mapping[str, Range | Choice]
    templates: Mapping[str, str]
    settings: SearchSettings

    def trial(self, name: str, chosen: Mapping[str, Any]) -> SweepRun:
        """The training with these values, by the names in `space`.

        Values that do not go together are a `UsageError`.
        """
        values = {**self.fixed, **{k: v for k, v in chosen.items() if not self._is_inner(k)}}
        for key, template in self.templates.items():
            values[key] = _NAME.sub(lambda found: _text(chosen[found[1]]), template)
        asked = as_asked(self.sweep.path, values)
        return SweepRun(name, asked.settings, asked.options)

    @property
    def options(self) -> Mapping[str, str]:
        """The task's options in every trial."""
        given = {k: v for k, v in self.fixed.items() if k.startswith("options.")}
        return as_asked(self.sweep.path, given).options

    def value(self, name: str, drawn: Any) -> Any:
        """What `drawn` from the range of this name means: few digits, as a person would write."""
        kind = self.space[name]
        if isinstance(kind, Choice) or kind.whole:
            return drawn
        return min(max(float(f"{drawn:.{_DIGITS}g}"), kind.low), kind.high)

    def _is_inner(self, name: str) -> bool:
        """Whether it is a name of templates, and no setting by itself."""
        return name in {n for text in self.templates.values() for n in _NAME.findall(text)}


def read_search(path: Path, task: str | None = None) -> Search:
    """What a search file asks for; `task` is that of the command line.

    Raises:
        UsageError: names the file and the key, for what is no TOML, for a key that does not exist,
            for a value of the wrong type or out of range, and for a template without its ranges.
    """
    content = read_toml(path)
    for key in content:
        if key not in _TOP:
            known = key in get_type_hints(TrainSettings)
            hint = "settings of all trials go into [fixed], those that vary into [search]"
            raise UsageError(
                f"{path}: {key}: {did_you_mean(key, _TOP)}",
                hint if known else f"keys of the file: {', '.join(_TOP)}",
            )
    for table in ("options", "fixed", "search"):
        if not isinstance(content.get(table, {}), dict):
            raise UsageError(f"{path}: {table} is a table", f"write it as [{table}]")
    sweep = _sweep(path, content.get("task"), task)
    fixed = flat_settings(path, "fixed", {"options": content.get("options", {})})
    fixed |= flat_settings(path, "fixed", content.get("fixed", {}))
    space, templates = _space(path, content.get("search", {}), fixed)
    search = Search(sweep, fixed, space, templates, _settings(path, content))
    if search.settings.sampler == "grid":
        _check_grid(search)
    for first in (0, -1):  # the ends of all ranges
        chosen = {name: _end(kind, first) for name, kind in space.items()}
        _check_types(search, {**fixed, **chosen})
    return search


def _sweep(path: Path, named: Any, task: str | None) -> Sweep:
    if named is not None and (not isinstance(named, str) or not named):
        raise UsageError(f"{path}: task = {as_toml(named)}: is no task", 'write task = "digits"')
    if named is None and task is None:
        raise UsageError(
            f'{path}: task = "…" is missing', 'name the task: task = "digits", or a task file'
        )
    if named is None or task is None:
        name = named or task or ""
        # As a file has it, a path leads from the file; from the command line, from here.
        return Sweep(path, name, path_of_task(path, name) if task is None else name, ())
    if named != task:
        raise UsageError(
            f'{path}: task = "{named}" is not {task}', "name the task in one of the two places"
        )
    return Sweep(path, named, path_of_task(path, named), ())


def _settings(path: Path, content: Mapping[str, Any]) -> SearchSettings:
    hints = get_type_hints(SearchSettings)
    values = {key: value for key, value in content.items() if key in hints}
    for key, value in values.items():
        try:
            values[key] = typed(hints[key], value)
        except ValueError as error:
            raise UsageError(
                f"{path}: {as_key(key, value)}: is not {error}", "correct it"
            ) from error
    try:
        with settings_written_by(as_key):
            return SearchSettings(**values)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error


def _space(
    path: Path, table: Mapping[str, Any], fixed: Mapping[str, Any]
) -> tuple[dict[str, Range | Choice], dict[str, str]]:
    """What is chosen, and the templates that it is put into."""
    if not table:
        raise UsageError(
            f"{path}: [search] is missing: nothing varies",
            'write what to choose: lr = { low = 1e-4, high = 1, scale = "log" }',
        )
    space: dict[str, Range | Choice] = {}
    templates: dict[str, str] = {}
    for key, value in _flat(table):
        if key in fixed:
            raise UsageError(
                f"{path}: {key} is both in [search] and fixed for every trial",
                "remove one of the two",
            )
        if isinstance(value, str):
            if not _NAME.search(value):
                raise UsageError(
                    f"{path}: [search] {as_key(key, value)}: does not vary",
                    "put it into [fixed], or write a {name} where a value is to be chosen",
                )
            templates[key] = value
            continue
        try:
            space[key] = read_range(value)
        except UsageError as error:
            raise UsageError(
                f"{path}: [search] {as_key(key, value)}: {error.message}", error.hint
            ) from error
    _check_names(path, space, templates)
    return space, templates


def _flat(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys of [search], those of an inner table as `options.width`."""
    hints = get_type_hints(TrainSettings)
    for key, value in table.items():
        if isinstance(value, dict) and (key == "options" or takes_a_table(hints.get(key))):
            yield from ((f"{key}.{name}", each) for name, each in value.items())
        else:
            yield key, value


def _check_names(path: Path, space: Mapping[str, Any], templates: Mapping[str, str]) -> None:
    """Refuse keys that are neither settings nor names of templates, and names without a range."""
    known = get_type_hints(TrainSettings)
    asked = {name: key for key, text in templates.items() for name in _NAME.findall(text)}
    for key in (*space, *templates):
        outer = key.partition(".")[0]
        if outer in known or outer == "options" or (key in asked and key in space):
            continue
        raise UsageError(
            f"{path}: [search] {key}: is no setting of a training, and no template has {{{key}}}: "
            f"{did_you_mean(key, [*known, *asked])}",
            f"settings: {', '.join(known)}; options.NAME is an option of the task",
        )
    for name, key in asked.items():
        if name in known:
            raise UsageError(
                f"{path}: [search] {key}: {{{name}}} is the name of a setting",
                f"write another one, such as {{the_{name}}}",
            )
        if name not in space:
            raise UsageError(
                f"{path}: [search] {key}: there is no range for {{{name}}}",
                f"write {name} = {{ low = 1e-4, high = 1 }}",
            )


def _check_grid(search: Search) -> None:
    for name, kind in search.space.items():
        if isinstance(kind, Range):
            raise UsageError(
                f'{search.sweep.path}: [search] {name}: sampler = "grid" needs lists',
                "list the values, or take another sampler",
            )


def _end(kind: Range | Choice, index: int) -> Any:
    return kind.values[index] if isinstance(kind, Choice) else (kind.low, kind.high)[index]


def _check_types(search: Search, chosen: Mapping[str, Any]) -> None:
    """Refuse values of a wrong type; what only goes wrong with others is left to the trials."""
    hints = get_type_hints(TrainSettings)
    for key, value in chosen.items():
        outer, _, inner = key.partition(".")
        if inner or outer not in hints:
            continue
        try:
            typed(hints[outer], value)
        except ValueError as error:
            raise UsageError(
                f"{search.sweep.path}: {as_key(key, value)}: is not {error}", "correct it"
            ) from error


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
