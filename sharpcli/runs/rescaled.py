"""Measure a checkpoint again with rescaled hidden units: which numbers move, though L does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from sharpcli.documents.results import RescaledNumber, RescalingFacts
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.statuses import Status
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.landscape.alignment.permutations import TRACED_EXAMPLES
from sharpcli.landscape.alignment.rescalings import (
    Rescalings,
    apply_rescaling,
    trace_rescalings,
)
from sharpcli.landscape.alignment.same_function import function_difference
from sharpcli.measures import Measure, compute
from sharpcli.measures.columns import column_titles
from sharpcli.measures.context import Context
from sharpcli.runs.study import Study
from sharpcli.runtime.progress import Begin
from sharpcli.settings.measuring import MeasureSettings, RunSettings

__all__ = ["Rescaled", "check_rescaling", "measure_rescaled", "verdict"]

# Examples on which outputs are compared.
_COMPARED = 256
# Tolerated difference of outputs, relative to the largest: float64 rounding is far below, and that
# of float32 with factors up to 4 stays below in networks of some dozen layers.
_TOLERANCE, _TOLERANCE_IN_RUN = 1e-10, 1e-5
# Numbers that move by less are unchanged. The search for a bound ends elsewhere each time, so a
# bound's own error counts as the share by which two maximisers may differ without a warning.
_SAME, _BOUNDS_ERROR = 0.02, 0.1
_BOUNDS = (Status.LOWER_BOUND, Status.UPPER_BOUND)


@dataclass(frozen=True)
class Rescaled:
    """The numbers before and after a rescaling, and how it was done; empty if it was not."""

    numbers: Sequence[RescaledNumber] = ()
    facts: RescalingFacts | None = None


def check_rescaling(run: RunSettings, settings: MeasureSettings) -> None:
    """Raise `UsageError` for a rescaling in training mode, where batch norms have no statistics."""
    if settings.rescale_check and run.mode != "eval":
        raise UsageError(
            f"{setting('rescale_check')} goes with {setting('mode', 'eval')}: in training mode a "
            "batch norm's own ε keeps the function from staying the same",
            f"leave {setting('mode', run.mode)} or {setting('rescale_check')} out",
        )


def measure_rescaled(
    context: Context,
    measures: Sequence[Measure],
    found: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    study: Study,
    begin: Begin,
) -> Rescaled:
    """Rescale hidden units by random factors, check the outputs, and measure again.

    Measures that need what a rescaled θ lacks, such as an optimizer's state, are left out. Warnings
    go to `context`.

    Args:
        context: What the numbers were measured in.
        measures: The measures.
        found: Their numbers at the checkpoint.
        tensors: The checkpoint's tensors, by the model's names.
        study: The task.
        begin: Opens a measure's progress.

    A `SharpError` says that the model cannot be traced, or that the rescaled network computes
    something else.

    Cost: that of the measures, and a few forward passes on 256 examples.

    Source: Dinh, Pascanu, Bengio & Bengio 2017.
    """
    settings, rows = context.settings, context.objective.rows
    structure = trace_rescalings(study.network, rows.head(TRACED_EXAMPLES).batch, tensors)
    if not structure.symmetries:
        context.warnings.append(f"{setting('rescale_check')}: {_nothing(structure)}")
        return Rescaled()
    moved = apply_rescaling(
        structure,
        tensors,
        strength=settings.rescale_factor,
        by=settings.rescale_by,
        seed=context.seed,
    )
    facts = _checked(context, structure, tensors, moved, study)
    again = _measured(context, measures, moved, study, begin)
    after = flat_scalars(again)
    shown = column_titles(flat_scalars(found))
    numbers = [
        verdict(key, before, after[key])
        for key, before in flat_scalars(found).items()
        if key in shown and key in after
    ]
    return Rescaled(numbers, facts)


def verdict(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> RescaledNumber:
    """Whether a number moved by more than 2 % and than its errors (10 % for a bound).

    Both are measured on the same data, so sampling errors do not count.
    """
    old, new = before["value"], after["value"]
    if old is None or new is None:
        same = old is None and new is None
        return RescaledNumber(key, _number(old), _number(new), math.nan, _word(same))
    bound = before["status"] in _BOUNDS or after["status"] in _BOUNDS
    errors = 2 * math.hypot(_own_error(before), _own_error(after))
    errors = max(errors, _BOUNDS_ERROR * abs(old)) if bound else errors
    change = (new - old) / abs(old) if old else (0.0 if new == old else math.nan)
    if abs(new - old) <= _SAME * abs(old):
        return RescaledNumber(key, old, new, change, "unchanged")
    said: Literal["undecided", "moved"] = "undecided" if abs(new - old) <= errors else "moved"
    return RescaledNumber(key, old, new, change, said)


def _word(same: bool) -> Literal["unchanged", "moved"]:
    return "unchanged" if same else "moved"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _own_error(scalar: Mapping[str, Any]) -> float:
    """The error of the computation; one that is the sampling error too is not known."""
    error = scalar["error"] or 0.0
    return 0.0 if error == scalar.get("sampling_error") else error


def _nothing(structure: Rescalings) -> str:
    unknown = ", ".join(structure.without_rule)
    why = f"; around these operations nothing is known: {unknown}" if unknown else ""
    return (
        "the model has no hidden units that could be rescaled: nothing between its layers passes a "
        "positive factor on, as a ReLU or the scale of a norm does (a GELU, tanh or softmax does "
        f"not){why}"
    )


def _checked(
    context: Context,
    structure: Rescalings,
    tensors: Mapping[str, Tensor],
    moved: Mapping[str, Tensor],
    study: Study,
) -> RescalingFacts:
    """Check that the outputs are the same."""
    network, settings = study.network, context.settings
    batch = context.objective.rows.head(_COMPARED).batch
    apart = function_difference(network, batch, tensors, moved)
    in_run = apart
    if network.dtype != torch.float64:
        in_run = function_difference(network, batch, tensors, moved, network.dtype)
    if not apart <= _TOLERANCE:
        raise SharpError(
            f"{network.task.name}: the rescaled network does not compute what the checkpoint "
            f"computes: outputs differ by {apart:.1e} of the largest",
            f"leave {setting('rescale_check')} out; the forward pass depends on more than its "
            "tensor operations show",
        )
    if in_run > _TOLERANCE_IN_RUN:
        context.warnings.append(
            f"the rescaled network's outputs differ by {in_run:.1e} of the largest, which is "
            f"rounding: use {setting('dtype', 'float64')}, or a smaller "
            f"{setting('rescale_factor', settings.rescale_factor)}"
        )
    return RescalingFacts(
        settings.rescale_by,
        settings.rescale_factor,
        structure.units,
        len(structure.tensors),
        apart,
        in_run,
    )


def _measured(
    context: Context,
    measures: Sequence[Measure],
    tensors: Mapping[str, Tensor],
    study: Study,
    begin: Begin,
) -> dict[str, Any]:
    """The measures at the rescaled tensors, with the same settings and data."""
    objectives = study.objectives(tensors)
    for objective in objectives.values():
        objective.memory = context.settings.curvature.memory
    own = replace(
        context,
        objective=objectives[study.run.split],
        splits=objectives,
        theta=study.network.flatten(tensors),
        checkpoint=None,
        warnings=[],
        begin=lambda name: begin(f"rescaled: {name}"),
        quotients=None,
        off_quotients=None,
    )
    chosen = []
    for measure in measures:
        try:
            if measure.applies:
                measure.applies(own)
        except SharpError as error:
            context.warnings.append(f"{measure.name} is not measured rescaled: {error.message}")
        else:
            chosen.append(measure)
    try:
        return compute(chosen, own)
    finally:
        own.release()
