"""Random settings of a sweep file's [random] table: the same file gives the same on any machine.

    [random]
    runs = 20
    seed = 0                                            # of the draws; 0 if left out
    lr = { low = 1e-4, high = 1.0, scale = "log" }
    batch_size = { low = 8, high = 256, scale = "log" } # whole numbers, as the setting is one
    optimizer = ["sgd", "adam"]                         # or { choices = [...] }

Each number has a generator of its own, from the seed, the key and the number of the draw. So more
runs keep the first ones, and a further key leaves the others as they are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, get_args

from sharpcli.errors import UsageError
from sharpcli.training.ranges import Choice, Range, read_range

__all__ = ["draws"]

_RUNS = "runs"
_SEED = "seed"
_FINENESS = 300  # steps of a range at least: few digits, and hardly two equal draws
_LARGEST = 1e150  # of a range's numbers: their quotient, too, is a float64
_ATTEMPTS = 100  # draws for each run that is wanted, where many are equal

Draw = Callable[[float], Any]  # of a random number in [0, 1)


def draws(
    table: Mapping[str, Any], kinds: Mapping[str, Any], written: Callable[[str, Any], str]
) -> list[dict[str, Any]]:
    """As many different draws as the table asks for, each with a value for every key.

    Args:
        table: [random], with flat keys.
        kinds: annotations of the settings that have one, by key.
        written: a key with a value as the file has it.

    Raises:
        UsageError: says which key is wrong. The caller names the file.
    """
    runs, seed = table.get(_RUNS), table.get(_SEED, 0)
    if not _is_whole(runs) or runs < 1:
        said = "is missing" if runs is None else f"= {runs}: is no number of runs"
        raise UsageError(f"runs {said}", "say how many: runs = 20")
    if not _is_whole(seed):
        raise UsageError(
            f"{written(_SEED, seed)}: is not a whole number",
            "this is the seed of the draws; seeds of trainings go into [grid]",
        )
    ways = {
        key: _way(key, asked, kinds.get(key), written)
        for key, asked in table.items()
        if key not in (_RUNS, _SEED)
    }
    if not ways:
        raise UsageError("draws nothing", "add a setting: lr = { low = 0.01, high = 1.0 }")
    found: dict[str, dict[str, Any]] = {}
    for index in range(runs * _ATTEMPTS):
        # A text as seed is hashed by SHA-512, on every machine alike.
        drawn = {
            key: way(random.Random(f"{seed}/{key}/{index}").random()) for key, way in ways.items()
        }
        found.setdefault(repr(drawn), drawn)
        if len(found) == runs:
            return [*found.values()]
    raise UsageError(
        f"{written(_RUNS, runs)}: only {len(found)} different runs come of these values",
        "ask for fewer, or let more values be drawn",
    )


def _way(key: str, asked: Any, kind: Any, written: Callable[[str, Any], str]) -> Draw:
    """How one setting is drawn."""
    said = written(key, asked)
    try:
        found = read_range(asked)
    except UsageError as error:
        hint = f"{error.hint}; one value for all runs goes into [fixed]"
        raise UsageError(f"{said}: {error.message}", hint) from error
    if isinstance(found, Choice):
        values = found.values
        return lambda share: values[int(share * len(values))]
    return _in_range(key, found, kind, said)


def _in_range(key: str, found: Range, kind: Any, said: str) -> Draw:
    low, high, scale = found.low, found.high, found.scale
    narrowest = min(low, high - low) if scale == "log" else high - low
    if max(abs(low), abs(high)) > _LARGEST or narrowest < 1 / _LARGEST:
        raise UsageError(
            f"{said}: is too wide or too narrow to draw from",
            f"numbers are at most {_LARGEST:g} and {1 / _LARGEST:g} apart",
        )
    kinds = (kind, *get_args(kind))
    if kind is not None and float not in kinds and int not in kinds:
        raise UsageError(f"{said}: {key} is no number", f"give a list of values: {key} = [ … ]")
    if found.whole and float not in kinds:
        top = int(high)
        return lambda share: min(top, int(_at(low, top + 1, scale, share)))
    if int in kinds and float not in kinds:
        raise UsageError(f"{said}: {key} is a whole number, so low and high are, too")
    return lambda share: _real(low, high, scale, share)


def _real(low: float, high: float, scale: str, share: float) -> float:
    value = _at(low, high, scale, share)
    width = value * math.log(high / low) if scale == "log" else high - low
    digits = -math.floor(math.log10(width / _FINENESS))
    return float(min(max(round(value, digits), low), high))


def _at(low: float, high: float, scale: str, share: float) -> float:
    if scale == "log":
        return float(low * (high / low) ** share)
    return low + share * (high - low)


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
