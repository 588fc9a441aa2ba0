"""Measure a checkpoint layer by layer: each layer's block of the parameters on its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.results import LayerResult
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.measures import Measure, compute
from sharpcli.measures.context import Context
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.parameter_names import layers_of
from sharpcli.runs.failures import INTERRUPTED, own_failure
from sharpcli.runs.preflight import check_block
from sharpcli.runs.study import Loaded
from sharpcli.runtime.progress import Begin, Progress
from sharpcli.settings.measuring import MeasureSettings

__all__ = ["check_layers", "measure_layers"]


def check_layers(measures: Sequence[Measure], settings: MeasureSettings) -> None:
    """Raise `UsageError` if layers are requested but every measure is the same for all layers."""
    if settings.by and not any(measure.of_parameters for measure in measures):
        names = setting("measures", [measure.name for measure in measures])
        raise UsageError(
            f"{setting('by', 'layer')}: {names} is the same for every layer",
            f"add a measure of the parameters, such as {setting('measures', ['hessian'])}",
        )


def measure_layers(
    whole: Context, measures: Sequence[Measure], loaded: Loaded, begin: Begin
) -> list[LayerResult]:
    """Measure every layer's block of θ at the point and on the data of `whole`.

    In a block, θ is the layer's parameters, and all others are fixed. Measures that are the same
    for every block are left out. The number of eigenvalues or dimensions is at most the block's
    size. If a layer fails, the others are still measured. Ctrl-C keeps the finished layers. The
    layers' warnings are added to those of `whole`.

    Cost: that of the measures for each layer.
    """
    chosen = [measure for measure in measures if measure.of_parameters]
    network, batch_size = whole.objective.network, loaded.study.run.batch_size
    blocks = {
        layer: network.subset(names, idle=True)
        for layer, names in layers_of(network.model, network.names).items()
    }
    known, started = set(whole.warnings), time.monotonic()
    found: list[LayerResult] = []
    try:
        for layer, block in blocks.items():
            number, seconds = len(found) + 1, time.monotonic() - started
            left = _left(seconds, len(found), len(blocks))
            title = f"layer {number} of {len(blocks)}{left}, {layer}"
            context = _context(whole, block, batch_size, partial(_begin, begin, title))
            measured: Mapping[str, Any] = {}
            error = None
            try:
                if whole.self_check and any(measure.needs_curvature for measure in chosen):
                    context.self_check = check_block(
                        whole.self_check,
                        context.objective,
                        context.theta,
                        context.settings.curvature,
                        context.seed,
                        context.warnings,
                    )
                measured = compute(chosen, context)
            except (SharpError, RuntimeError) as raised:
                error = own_failure(raised)
            finally:
                context.release()
            whole.warnings += [f"{layer}: {said}" for said in context.warnings if said not in known]
            found.append(LayerResult(layer, block.size, measured, error))
    except KeyboardInterrupt:
        rest = list(blocks.items())[len(found) :]
        found += [LayerResult(layer, block.size, error=INTERRUPTED) for layer, block in rest]
    return found


def _begin(begin: Begin, title: str, measure: str) -> Progress:
    return begin(f"{title}: {measure}")


def _context(whole: Context, network: Network, batch_size: int | None, begin: Begin) -> Context:
    """The context of a block: the same data, with all other parameters fixed."""
    all_of_it = whole.objective.network
    views = dict(zip(all_of_it.names, all_of_it.unflatten(whole.theta), strict=True))
    objectives = {
        name: Objective(
            network,
            split.rows,
            dict(_fixed(network, split.fixed, views)),
            batch_size=batch_size,
            memory=whole.settings.curvature.memory,
        )
        for name, split in whole.splits.items()
    }
    assert whole.split is not None
    return Context(
        objectives[whole.split],
        objectives,
        torch.cat([views[name].reshape(-1) for name in network.names]),
        whole.settings,
        seed=whole.seed,
        checkpoint=whole.checkpoint,
        part=True,
        initial=whole.initial,
        begin=begin,
    )


def _fixed(
    network: Network, fixed: Mapping[str, Tensor], views: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The fixed tensors of a block's network: buffers and other parameters, without copies."""
    for name in network.fixed_names:
        yield name, fixed[name] if name in fixed else views[name].to(network.compute)


def _left(seconds: float, done: int, count: int) -> str:
    """The text `, about 40 s left`; empty before the first layer is finished."""
    if not done:
        return ""
    rest = seconds / done * (count - done)
    return f", about {rest / 60:.0f} min left" if rest >= 120 else f", about {rest:.0f} s left"
