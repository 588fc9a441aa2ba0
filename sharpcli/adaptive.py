"""Samples of the data that grow until what they leave unknown is small enough."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .progress import Notes
from .results import CheckpointResult, flat_scalars

__all__ = ["FIRST_SAMPLES", "Widest", "grown", "widest"]

# Examples that growing samples begin with.
FIRST_SAMPLES = 512


@dataclass(frozen=True)
class Widest:
    """The number that sampling leaves least known, and by what share of it."""

    key: str
    share: float

    def __str__(self) -> str:
        """`λ1 to 12 %`."""
        known = f"to {100 * self.share:.3g} %" if math.isfinite(self.share) else "not at all"
        name = re.sub(r"^epsilon_sharpness\[(.*)\]$", r"φ(\1)", self.key)
        name = re.sub(r"^loss\..*", "the loss", name)
        return f"{name.replace('hessian.eigenvalues[0]', 'λ1')} {known}"


def widest(measures: Mapping[str, Any], split: str) -> Widest | None:
    """The leading number of `measures` whose sampling error, with its bias, is the largest share.

    Leading are the loss of the split, each φ, λ1 and the trace; without any of them all numbers.
    One whose error cannot be told is not known at all. None where there is no number.
    """
    scalars = flat_scalars(measures)
    leading = re.compile(
        rf"loss\.{split}|epsilon_sharpness\[[^\]]*\]|hessian\.eigenvalues\[0\]|trace"
    )
    chosen = {key: each for key, each in scalars.items() if leading.fullmatch(key)} or scalars
    found = [Widest(key, _share(each)) for key, each in chosen.items()]
    return max(found, key=lambda each: each.share, default=None)


def grown(
    target: float,
    measure: Callable[[int], CheckpointResult],
    *,
    first: int,
    split: str,
    notes: Notes,
) -> CheckpointResult:
    """What `measure` gives with `first` examples, or twice as many until `target` is met.

    It is met where no leading number's sampling error is a larger share than that. With all of the
    data there is none, so it ends there. Samples are nested where they are drawn by one seed. Cost:
    at most twice that of the last measurement, beside the last one.
    """
    count = first
    while True:
        result = measure(count)
        used, total = result.checkpoint.get("examples"), result.checkpoint.get("examples_in_all")
        if result.status != "ok" or total is None:
            if result.status == "ok":
                notes.note(f"measured on all {used} examples: no sample of them was enough")
            return result
        found = widest(result.measures, split)
        if found is None or found.share <= target:
            notes.note(f"measured on {used} of {total} examples: {found}")
            return result
        count *= 2
        more = "all" if count >= total else str(count)
        notes.note(f"{used} of {total} examples are too few ({found}): takes {more}")


def _share(scalar: Mapping[str, Any]) -> float:
    """The sampling error, with the bias, as a share of the value."""
    error, value = scalar.get("sampling_error"), scalar["value"]
    if error is None or value is None:
        return math.inf
    off = math.hypot(error, scalar.get("sampling_bias") or 0.0)
    return off / abs(value) if value else (math.inf if off else 0.0)
