"""A task's options from a checkpoint's metadata: values of the option's own type, never code.

A checkpoint is data that anybody can edit. It may say how wide the model is. It may not name a
file, a module or a task, and what it says is taken only where it describes the model of its tensors
(`runs/described.py`).
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sharpcli.errors import setting
from sharpcli.runtime.text import visible
from sharpcli.settings.training_names import FROM_ARGUMENTS, FROM_CONFIG
from sharpcli.tasks.arguments import Option, as_text, declared_options, parse_value

__all__ = ["InMetadata", "names_in_metadata", "options_in_metadata"]

_FUNCTIONS = ("model", "data")  # whose options a checkpoint may set
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,63}")  # a text that is no path and no module
# Words in the names of options that say where something is; of these a checkpoint sets none.
_PLACES = {
    *("path", "paths", "dir", "directory", "folder", "file", "filename", "files", "root", "url"),
    *("repo", "module", "task", "script", "code", "checkpoint", "weights", "tokenizer", "text"),
}
_WHOLE_PLACES = {"data"}  # a folder or a file; `data_order` is none
# Of a training, whatever the option of this name means to the task.
_OF_TRAINING = ("seed", "random_seed")
_COUNTERS = ("epoch", "epochs", "step", "steps", "global_step", "loss", "train_loss")
_LONGEST = 40  # characters of a value that a message repeats


@dataclass(frozen=True)
class InMetadata:
    """What a checkpoint's metadata say of a task's options.

    Attributes:
        values: the options that are taken, as text; none that has its default already.
        of_data: the names among them that `data` takes: they change the data.
        of_loss: the others among them that `loss` takes: they change the loss.
        passed_over: why a value of an option's name is not taken, by the option's name.
        from_config: the names among `values` that come from a JSON file beside the weights.
        noted: whether `notes` has them. Where the metadata name the task too, tables have it above
            them with its options.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    of_data: frozenset[str] = frozenset()
    of_loss: frozenset[str] = frozenset()
    passed_over: Mapping[str, str] = field(default_factory=dict)
    from_config: frozenset[str] = frozenset()
    noted: bool = True

    def without(self, names: Iterable[str], reason: str) -> InMetadata:
        """The same without some values, which are passed over for this reason."""
        dropped = {name: _said(name, self.values[name], reason) for name in names}
        return replace(
            self,
            values={name: text for name, text in self.values.items() if name not in dropped},
            of_data=self.of_data - dropped.keys(),
            of_loss=self.of_loss - dropped.keys(),
            passed_over={**self.passed_over, **dropped},
        )

    def notes(self) -> list[str]:
        """One line on the values that are taken, and one for each that is passed over."""
        said: list[str] = []
        if not self.noted:
            return said
        for where, config in (("its metadata", False), ("its config.json", True)):
            there = {k: v for k, v in self.values.items() if (k in self.from_config) == config}
            of_data = {k: v for k, v in there.items() if k in self.of_data}
            of_loss = {k: v for k, v in there.items() if k in self.of_loss}
            of_model = {k: v for k, v in there.items() if k not in of_data and k not in of_loss}
            said += [f"{_pairs(of_model)} from {where}"] if of_model else []
            said += [f"{_pairs(of_data)} from {where}: this chooses its data"] if of_data else []
            said += [f"{_pairs(of_loss)} from {where}: this changes its loss"] if of_loss else []
        return [*said, *self.passed_over.values()]


def names_in_metadata(functions: Mapping[str, Any]) -> dict[str, dict[str, Option]]:
    """The options of `model` and `data` by name, each as the functions declare it."""
    declared: dict[str, dict[str, Option]] = {}
    for function in _FUNCTIONS:
        if callable(functions.get(function)):
            for option in declared_options({function: functions[function]}):
                declared.setdefault(option.name, {})[function] = option
    return declared


def options_in_metadata(
    functions: Mapping[str, Any], metadata: Mapping[str, Any], given: Mapping[str, str]
) -> InMetadata:
    """The options of `model` and `data` that a checkpoint's metadata set, and `given` does not.

    Of a file that `sharp train` wrote these are its `task_options`; of any other, what has an
    option's name, alone or after a dot (`model.width`).

    Args:
        functions: the task's functions by name.
        metadata: the checkpoint's.
        given: the user's options, which are never replaced.
    """
    declared = names_in_metadata(functions)
    values: dict[str, str] = {}
    passed_over: dict[str, str] = {}
    keys: dict[str, str] = {}
    own = "task_options" in metadata
    there = _of_sharp(metadata) if own else metadata
    for name, by_function in declared.items():
        found = {} if name in given else _named(name, there, config="data" not in by_function)
        options = [*by_function.values()]
        if not found or (not own and name in _COUNTERS):
            continue
        if len({as_text(value) for value in found.values()}) > 1:
            several = ", ".join(f"{key}={_shown(value)}" for key, value in found.items())
            passed_over[name] = _said(name, None, f"there is more than one: {several}")
            continue
        keys[name], value = next(iter(found.items()))
        if all(as_text(value) == as_text(each.default) for each in options):
            continue
        if name in _OF_TRAINING and not own:
            passed_over[name] = _said(name, None, "it is the training's, and may not be the task's")
            continue
        reason = next(filter(None, (_refused(each, value, parse=own) for each in options)), None)
        if reason is None:
            values[name] = as_text(value)
        else:
            passed_over[name] = _said(name, value, reason)
    if own:
        passed_over |= _of_other_functions(functions, declared, there, given)
    of_data = frozenset(name for name in values if "data" in declared[name])
    loss = {o.name for o in declared_options({"loss": functions.get("loss")})}
    of_loss = frozenset(name for name in values if name in loss and name not in of_data)
    from_config = frozenset(name for name in values if keys[name].startswith(FROM_CONFIG))
    return InMetadata(values, of_data, of_loss, passed_over, from_config)


def _of_other_functions(
    functions: Mapping[str, Any],
    declared: Mapping[str, Any],
    trained: Mapping[str, str],
    given: Mapping[str, str],
) -> dict[str, str]:
    """Why options of `loss` and other functions, with which `sharp train` ran, are not taken."""
    reason = "only options of model and data are taken from a checkpoint"
    return {
        option.name: _said(option.name, trained[option.name], reason)
        for option in declared_options(functions)
        if option.name in trained
        and option.name not in (*declared, *given)
        and not _has_value(option, trained[option.name])
    }


def _has_value(option: Option, text: str) -> bool:
    """Whether a text is the option's default: `0` is `0.0`."""
    try:
        return bool(parse_value(option.kind, text) == option.default)
    except ValueError:
        return False


def _of_sharp(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The options that `sharp train` wrote: `width=64,depth=2` as a mapping."""
    items = (item.partition("=") for item in str(metadata["task_options"]).split(","))
    return {name.strip(): value.strip() for name, equals, value in items if equals}


def _named(name: str, metadata: Mapping[str, Any], *, config: bool) -> dict[str, Any]:
    """The metadata of this name; if there are none, those that end in it after a dot.

    Args:
        name: the option's.
        metadata: the checkpoint's. The settings of a training (`training_args.`) are none of a
            model's.
        config: whether a config.json counts: it is of the model, not of the data.
    """
    if name in metadata:
        return {name: metadata[name]}
    if config and f"{FROM_CONFIG}{name}" in metadata:
        return {f"{FROM_CONFIG}{name}": metadata[f"{FROM_CONFIG}{name}"]}
    others = (FROM_ARGUMENTS,) if config else (FROM_ARGUMENTS, FROM_CONFIG)
    return {
        key: value
        for key, value in metadata.items()
        if key.endswith(f".{name}") and not key.startswith(others)
    }


def _refused(option: Option, value: Any, *, parse: bool) -> str | None:
    """Why a value may not be taken for an option, None if it may."""
    if parse:
        try:
            value = parse_value(option.kind, str(value))
        except ValueError:
            return f"it is not {option.type_name}"
    if not _is_of(option.kind, value):
        return f"it is not {option.type_name}"
    if isinstance(value, str) and not _in_literal(option.kind, value):
        parts = {*re.split(r"[_\W]+", option.name.lower())}
        if parts & _PLACES or option.name.lower() in _WHOLE_PLACES:
            return "a checkpoint may not say where something is"
        if not _WORD.fullmatch(value) or Path(value).exists():
            return "a checkpoint may not name a file or a module"
    return None


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value is of an option's type, with no more conversion than int to float."""
    if typing.get_origin(kind) is typing.Literal:
        return _in_literal(kind, value)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_is_of(member, value) for member in typing.get_args(kind))
    if kind is types.NoneType:
        return value is None or str(value).lower() == "none"
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _in_literal(kind: Any, value: Any) -> bool:
    """Whether a value is one of those that a `Literal` (or one in a union) lists."""
    if typing.get_origin(kind) is typing.Literal:
        return any(as_text(value) == as_text(each) for each in typing.get_args(kind))
    return any(_in_literal(member, value) for member in typing.get_args(kind))


def _said(name: str, value: Any, reason: str) -> str:
    what = name if value is None else f"{name}={_shown(value)}"
    return f"{what} in its metadata is passed over: {reason} ({setting(f'options.{name}', '…')})"


def _shown(value: Any) -> str:
    text = visible(as_text(value))
    return f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
