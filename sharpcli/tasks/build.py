"""Build a `Task` from a task's functions: bind options, fill in defaults, check results."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from sharpcli.errors import SharpError
from sharpcli.tasks import Task, defaults
from sharpcli.tasks.arguments import bind_options
from sharpcli.tasks.source import Source, user_code

__all__ = ["build_task"]


def build_task(source: Source, given: Mapping[str, str]) -> Task:
    """The task of `source` with the options `given`; raises `SharpError` if a part is missing."""
    functions = source.functions
    for name in ("model", "data"):
        if name not in functions:
            has = ", ".join(source.public) or "nothing"
            raise SharpError(
                f"{source.where}: defines no `{name}` (it defines {has})",
                "a task needs model() and data(split); `sharp init` writes one to start from",
            )
    for name, function in functions.items():
        if not callable(function) and not (name in _MAY_BE_NONE and function is None):
            raise SharpError(
                f"{source.where}: `{name}` is not a function but {_described(function)}",
                f"write `def {name}(…): …`" + (" returning it" if name == "model" else ""),
            )
    bound, resolved = bind_options(functions, given, source.where)
    smoothed = {} if "loss" in functions else {"smoothed_loss": defaults.smoothed_for(source.where)}
    own = {
        **smoothed,
        "predict": defaults.predict,
        "loss": defaults.loss_for(source.where),
        "metrics": defaults.metrics,
        **functions,
    }
    predict, loss, metrics, collate, smoothed_loss, augment = (
        _guarded(
            source,
            call,
            own.get(name),
            bound.get(name, {}),
            None if name in functions else _OF_DEFAULTS.get(name),
        )
        for name, call in _CALLS.items()
    )
    return Task(
        name=source.where,
        options=resolved,
        fingerprint=_fingerprint(source, resolved),
        model=functools.partial(_model, source, bound["model"]),
        data=functools.partial(_data, source, bound["data"]),
        predict=predict,
        loss=loss,
        metrics=None if metrics is None else _named(source, metrics),
        collate=collate,
        smoothed_loss=smoothed_loss,
        augment=augment,
        read_with={name: bound.get(name, {}) for name in ("data", "collate")},
    )


_CALLS = {
    "predict": "predict(model, batch)",
    "loss": "loss(outputs, batch)",
    "metrics": "metrics(outputs, batch)",
    "collate": "collate(rows)",
    "smoothed_loss": "smoothed_loss(outputs, batch, smoothing)",
    "augment": "augment(batch, generator)",
}
_MAY_BE_NONE = ("metrics", "collate", "smoothed_loss", "augment")
# Hints for failures in the defaults of functions that the task does not define.
_OF_DEFAULTS = {
    "predict": "the task defines no predict(model, batch), so the model is called as model(inputs) "
    "for (inputs, targets) and as model(**batch) for a mapping: let data() return what the model "
    "takes, or define predict",
    "loss": "the task defines no loss(outputs, batch), so the loss is the cross-entropy: check the "
    "targets of data(), or define loss",
    "metrics": "the task defines no metrics(outputs, batch), so the metric is the accuracy: check "
    "the targets of data(), or define metrics",
}


def _guarded(
    source: Source,
    call: str,
    function: Callable[..., Any] | None,
    options: Mapping[str, Any],
    otherwise: str | None,
) -> Any:
    """The function with its options; its exceptions name the task and the line. None for None.

    `otherwise` is the hint if none of the task's own code has run.
    """
    if function is None:
        return None

    @functools.wraps(function)
    def guarded(*arguments: Any) -> Any:
        with user_code(source.where, call, source.file, options, otherwise):
            return function(*arguments, **options)

    return guarded


def _named(source: Source, found: Callable[..., Any]) -> Callable[..., Mapping[str, Any]]:
    """The task's metrics, with a check that they return a mapping."""

    def metrics(outputs: Any, batch: Any) -> Mapping[str, Any]:
        values = found(outputs, batch)
        if not isinstance(values, Mapping):
            raise SharpError(
                f"{source.where}: metrics(outputs, batch) returned {_described(values)}, "
                "not a dict",
                'return {"name": one value for each example}',
            )
        return values

    return metrics


def _model(source: Source, options: Mapping[str, Any]) -> nn.Module:
    """Build the model; raises `SharpError` if the task returns something else."""
    model = _call(source, "model()", source.functions["model"], (), options)
    if isinstance(model, nn.Module):
        return model
    hint = "return the model, built without weights"
    if isinstance(model, type) and issubclass(model, nn.Module):
        hint = f"return {model.__name__}(…), not the class"
    raise SharpError(
        f"{source.where}: model() returned {_described(model)}, not a torch.nn.Module", hint
    )


def _data(source: Source, options: Mapping[str, Any], split: str) -> Any:
    """One split of the data, None for a task that has no test data.

    Raises:
        SharpError: it is not a finite, non-empty data set, or its size or a row raises.
    """
    call = f"data('{split}')"
    try:
        data = _call(source, call, source.functions["data"], (split,), options)
    except SharpError as error:
        if split == "train":
            raise
        hint = f"{error.hint}; if there are no test data, return None"
        raise SharpError(error.message, hint) from error
    if data is None and split == "test":
        return None
    with user_code(source.where, call, source.file):
        said, hint = _what_is_wrong(data)
    if said:
        raise SharpError(f"{source.where}: {call} {said}", hint)
    return data if isinstance(data, tuple) else _Rows(source, call, data)


class _Rows:
    """A map-style data set whose exceptions name the task and the line."""

    def __init__(self, source: Source, call: str, data: Any) -> None:
        self._source, self._call, self.wrapped = source, call, data

    def __len__(self) -> int:
        return len(self.wrapped)

    def __getitem__(self, index: int) -> Any:
        with user_code(self._source.where, f"row {index} of {self._call}", self._source.file):
            return self.wrapped[index]


def _call(
    source: Source,
    call: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
) -> Any:
    with user_code(source.where, call, source.file, options), source.imports:
        return function(*arguments, **options)


_WANTED = "return a map-style Dataset (it has __len__ and __getitem__) or a tuple of tensors"


def _what_is_wrong(data: Any) -> tuple[str, str]:
    """What is wrong with the result of `data`, and a hint; two empty strings if nothing is."""
    if isinstance(data, DataLoader):
        return "returned a DataLoader", (
            "return its dataset: sharp makes the batches, and the results do not depend on them"
        )
    if isinstance(data, IterableDataset):
        return "returned an IterableDataset, which has no size and no n-th row", _WANTED
    if isinstance(data, Tensor):
        return "returned one tensor", "return a tuple: (inputs, targets), or (inputs,)"
    tensors = isinstance(data, list) and all(isinstance(each, Tensor) for each in data)
    if tensors and len({each.shape for each in data}) > 1:
        return "returned a list of tensors that differ in shape", (
            "return a tuple, as in (inputs, targets): each item of a list counts as a row"
        )
    if isinstance(data, str | bytes):
        return f"returned {_described(data)}", _WANTED
    if isinstance(data, tuple):
        return _what_is_wrong_with_tensors(data)
    if isinstance(data, Mapping) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        forgot = " (is `return` missing?)" if data is None else ""
        return f"returned {_described(data)}{forgot}", _WANTED
    if len(data) == 0:
        return "is empty", "check the path and the filter of the data"
    return "", ""


def _what_is_wrong_with_tensors(data: tuple[Any, ...]) -> tuple[str, str]:
    if not data:
        return "returned an empty tuple", _WANTED
    for index, item in enumerate(data):
        if not isinstance(item, Tensor):
            return f"returned a tuple whose item {index} is {_described(item)}, not a tensor", (
                "make it one with torch.as_tensor(…), or return a Dataset"
            )
        if item.ndim == 0:
            return f"returned a tuple whose item {index} is a single number", (
                "each tensor has one row for each example"
            )
    lengths = [len(item) for item in data]
    if len(set(lengths)) > 1:
        return f"returned tensors of unequal length: {', '.join(map(str, lengths))}", (
            "each tensor has one row for each example"
        )
    if lengths[0] == 0:
        return "is empty", "check the path and the filter of the data"
    return "", ""


def _described(it: Any) -> str:
    """A short description of `it`."""
    if it is None:
        return "None"
    if isinstance(it, type):
        return f"the class {it.__name__}"
    if isinstance(it, torch.Tensor):
        return f"a tensor of shape {tuple(it.shape)}"
    name = type(it).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _fingerprint(source: Source, options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(source.text)
    content = {
        name: source.identities[name](value) if name in source.identities and value else value
        for name, value in options.items()
    }
    digest.update(b"\0" + json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()
