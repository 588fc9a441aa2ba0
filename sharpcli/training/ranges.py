"""Ranges of settings in TOML, for what chooses values from them. Imports no torch.

lr = { low = 1e-4, high = 1, scale = "log" }     # numbers from low to high
batch_size = { low = 16, high = 256 }            # both whole: whole numbers
optimizer = ["sgd", "adamw"]                     # one of these, or { choices = [...] }
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sharpcli.errors import UsageError, did_you_mean

__all__ = ["Choice", "Range", "read_range"]

Scale = Literal["linear", "log"]
_KEYS = ("low", "high", "scale")
_SHAPE = 'write { low = 1e-4, high = 1, scale = "log" }, or a list of values to choose from'


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, evenly or in their logarithm; `whole` ones only."""

    low: float
    high: float
    scale: Scale = "linear"
    whole: bool = False


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: Sequence[Any]


def read_range(value: Any) -> Range | Choice:
    """A range from its TOML value: a table with low and high, or with choices, or a list.

    Raises:
        UsageError: says what is wrong with it; who reads the file names the key.
    """
    if isinstance(value, dict) and "choices" in value:
        if len(value) > 1:
            raise UsageError("has choices and a range", "leave one of them out")
        value = value["choices"]
    if isinstance(value, list):
        if not value:
            raise UsageError("is an empty list", "give at least one value")
        return Choice(tuple(value))
    if not isinstance(value, dict):
        raise UsageError("is no range", _SHAPE)
    for key in value:
        if key not in _KEYS:
            raise UsageError(f"a range has no '{key}': {did_you_mean(key, _KEYS)}", _SHAPE)
    for name in ("low", "high"):
        each = value.get(name)
        if isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
            raise UsageError(f"{name} is {'missing' if each is None else 'no number'}", _SHAPE)
    low, high, scale = value["low"], value["high"], value.get("scale", "linear")
    if scale not in get_args(Scale):
        raise UsageError(f"scale is no '{scale}'", 'a scale is "linear" or "log"')
    if not low < high:
        raise UsageError(f"low is {low:g} and high {high:g}", "low is below high")
    if scale == "log" and low <= 0:
        raise UsageError(f"low is {low:g} on a log scale", "there, low is above 0")
    return Range(low, high, scale, isinstance(low, int) and isinstance(high, int))
