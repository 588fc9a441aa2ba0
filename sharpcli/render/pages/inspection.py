"""The page of an `inspect` document: each checkpoint's tensors, settings and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted
from sharpcli.render.numbers import NOT_FINITE, format_number
from sharpcli.render.terminal.table import Column, Page, Row, Sheet
from sharpcli.settings.training_names import is_choice, is_common

__all__ = ["inspection_page"]

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def inspection_page(document: Mapping[str, Any]) -> Page:
    """Lay out an `inspect` document: up to three sheets per checkpoint, or its failure."""
    sheets = [sheet for result in document["results"] for sheet in _sheets(result)]
    return Page(context=(), sheets=sheets)


def _sheets(result: Mapping[str, Any]) -> list[Sheet]:
    checkpoint = result["checkpoint"]
    if result["status"] == Outcome.FAILED:
        path = str(checkpoint["path"])
        row = Row(path, result["error"]["message"].removeprefix(f"{path}: "))
        return [Sheet([row], [Column("", [""], numeric=False)])]
    tensors = result["tensors"]
    title = (
        f"{checkpoint['path']}: {counted(len(tensors), 'tensor')}, "
        f"{counted(checkpoint['elements'], 'element')}, {_size(checkpoint['bytes'])}"
    )
    columns = [
        Column("shape", [_shape(each["shape"]) for each in tensors], numeric=False),
        Column("dtype", [each["dtype"] for each in tensors], numeric=False),
        *(Column(key, [_number(each, key) for each in tensors]) for key in ("norm", "min", "max")),
    ]
    sheets = [Sheet([Row(each["name"]) for each in tensors], columns, title, "tensor")]
    metadata = checkpoint["metadata"]
    if metadata:
        # of a file beside the weights only what a training chooses; the JSON document has all
        shown = {k: v for k, v in metadata.items() if is_common(k) or is_choice(k, metadata)}
        sheets.append(_facts("metadata", shown))
    # most of an optimizer's settings are in the metadata and are shown there
    optimizer = result["optimizer"] or {}
    own = {name: value for name, value in optimizer.items() if metadata.get(name) != value}
    if own:
        sheets.append(_facts("optimizer state", own))
    return sheets


def _facts(caption: str, facts: Mapping[str, Any]) -> Sheet:
    rows = [Row(str(name)) for name in facts]
    return Sheet(rows, [Column("value", [_fact(v) for v in facts.values()], False)], "", caption)


def _fact(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _number(tensor: Mapping[str, Any], key: str) -> str:
    """A dash if the dtype has no such number, a word if it is NaN or infinite."""
    if key not in tensor:
        return "–"
    value = tensor[key]
    return NOT_FINITE if value is None else format_number(value)


def _shape(shape: list[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} bytes" if unit == 0 else f"{count:.3g} {_UNITS[unit]}"
