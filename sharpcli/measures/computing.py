"""Compute the measures of one checkpoint, one after another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.errors import SharpError
from sharpcli.measures.context import Context
from sharpcli.measures.measure import Measure
from sharpcli.objective.checks import end_of_float64

__all__ = ["compute"]


def compute(measures: Sequence[Measure], context: Context) -> dict[str, Any]:
    """Every measure's numbers by JSON key, each with the seconds that it took.

    A run of all measures leaves those out, with a warning, that do not apply to the checkpoint. If
    one is asked for by name, its `SharpError` passes before anything is computed.
    """
    found: dict[str, Any] = {}
    measures = _applicable(measures, context)
    for measure in measures:
        context.progress = context.begin(measure.name)
        started = time.perf_counter()
        numbers = dict(measure.compute(context))
        context.synchronize()
        seconds = time.perf_counter() - started
        key = next(iter(numbers))
        if isinstance(numbers[key], Mapping):
            numbers[key] = {**numbers[key], "seconds": seconds}
        found |= numbers
    return _without_vanished(found, measures, context)


def _applicable(measures: Sequence[Measure], context: Context) -> list[Measure]:
    """The measures that apply to the checkpoint."""
    chosen = []
    for measure in measures:
        try:
            if measure.applies:
                measure.applies(context)
        except SharpError as error:
            if "all" not in context.settings.measures:
                raise
            context.warnings.append(f"{measure.name} is left out: {error.message}")
        else:
            chosen.append(measure)
    return chosen


def _without_vanished(
    found: dict[str, Any], measures: Sequence[Measure], context: Context
) -> dict[str, Any]:
    """Mark the numbers that are rounding because the loss is too small for float64."""
    split = context.split
    if "loss" in found and split:
        loss = found["loss"][split].value
    elif context.known("value_and_gradient"):
        loss = context.value_and_gradient[0]
    else:
        return found
    advice = end_of_float64(context.objective, loss, context.theta)
    if advice is None:
        return found
    return found | {
        measure.key: measure.vanished(found[measure.key], split, advice)
        for measure in measures
        if measure.vanished and measure.key in found
    }
