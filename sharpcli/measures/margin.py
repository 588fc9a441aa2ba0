"""Margins of a classifier's outputs, and their shares of the network's norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import SamplingStatus
from sharpcli.errors import SharpError
from sharpcli.measures.context import Context
from sharpcli.measures.layer_matrices import check_layers
from sharpcli.measures.path_norm import value as squared_path_norm
from sharpcli.measures.spectral_norms import log_product
from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.objective import Objective
from sharpcli.objective.reliability import sampling_status
from sharpcli.objective.shards import share_left
from sharpcli.runtime import processes
from sharpcli.tasks.defaults import IGNORED

__all__ = ["check_margin", "margin", "percentile_with_error"]

# A 95 % interval is this many standard errors to either side.
_NORMAL = 1.959963984540054
# Fewer examples expected on one side of a percentile do not bound its sampling error.
_FEWEST = 10


def margin(context: Context) -> dict[str, Any]:
    """A percentile of f_y − max_{j≠y} f_j over the examples, and its share of the norms.

    `over_spectral_norms` is its share of Π ‖Wₗ‖₂, `over_path_norm` of the path norm; one that the
    network does not have is left out. Targets to be ignored are left out. On a subset the sampling
    error is that of the order statistics.

    Cost: a forward pass, and that of the norms.
    Source: Bartlett et al. 2017; Jiang et al. 2020 (10th percentile).
    """
    share = context.settings.options["margin_percentile"] / 100
    margins = _margins(context.objective, context.theta)
    value, error = percentile_with_error(margins, share, share_left(context.objective))
    sampled = context.objective.rows.sampled
    status = None
    if sampled:
        few = len(margins) * min(share, 1 - share) < _FEWEST
        status = (
            SamplingStatus.UNRELIABLE
            if few
            else sampling_status(context.objective.rows.doubt, math.inf)
        )
    numbers = {"output": 1.0}
    for name, size in (("over_path_norm", _path_norm), ("over_spectral_norms", _spectral)):
        try:
            norm = size(context)
        except SharpError:  # this network has no such norm
            continue
        numbers[name] = 1 / norm if norm else math.inf
    return {
        "margin": {
            name: _scaled(value, error if sampled else None, status, factor)
            for name, factor in numbers.items()
        }
        | {"percentile": 100 * share, "evaluations": 1}
    }


def check_margin(context: Context) -> None:
    """Check that the task's outputs and targets are those of a classifier.

    Raises:
        SharpError: if they are not.

    Cost: a forward pass on two examples.
    """
    objective, rows = context.objective, context.objective.rows.head(2)
    with torch.no_grad(), objective.network.arithmetic():
        parameters = objective.network.unflatten(context.theta)
        outputs = objective.network.outputs(parameters, objective.fixed, rows.batch)
    if _classes(outputs, rows.batch) is None:
        raise SharpError(
            f"{objective.network.task.name}: a margin needs a score for each class, (N, C) or (N, "
            "T, C), and whole-number targets, (N,) or (N, T), second in the batch or as its "
            "'labels'",
            "leave this measure out",
        )


def percentile_with_error(values: Tensor, share: float, left: float) -> tuple[float, float]:
    """The `share` quantile of values (N,), and its standard error from sampling.

    Half the distance of the order statistics that bound the quantile at 95 %, over 1.96. `left` is
    the share of the data that was not drawn.

    Source: Conover 1999, section 3.2.
    """
    ordered = values.double().sort().values
    count = len(ordered)
    spread = _NORMAL * math.sqrt(count * share * (1 - share) * left)
    low = max(math.floor(count * share - spread), 0)
    high = min(math.ceil(count * share + spread), count - 1)
    width = float(ordered[high] - ordered[low])
    return float(torch.quantile(ordered, share)), width / (2 * _NORMAL)


def _scaled(
    value: float, error: float | None, status: SamplingStatus | None, factor: float
) -> Scalar:
    if error is None:
        return Scalar(value * factor)
    own = error * abs(factor)
    return Scalar(value * factor, own, "standard_error", sampling_error=own, sampling_status=status)


def _path_norm(context: Context) -> float:
    return math.sqrt(squared_path_norm(context))


def _spectral(context: Context) -> float:
    check_layers(context)
    return math.exp(min(log_product(context), 700.0))


def _margins(objective: Objective, theta: Tensor) -> Tensor:
    """The margin of each example (or token) that counts, float64, of all processes."""
    network, kind = objective.network, accumulator(objective.network.device)

    def passed() -> Tensor:
        found = []
        with torch.no_grad():
            for batch, _ in objective.batches():
                outputs = network.outputs(network.unflatten(theta), objective.fixed, batch)
                classes = _classes(outputs, batch)
                assert classes is not None  # checked before
                margins, counts = _of_batch(*classes, kind)
                found.append(margins[counts > 0])  # batches may differ in length
        return torch.cat(found)

    margins = objective.within_memory(passed)
    if objective.divided:
        sizes = torch.zeros(processes.size(), dtype=kind, device=margins.device)
        sizes[processes.rank()] = len(margins)
        ends = objective.add_up(sizes).long().cumsum(0).tolist()
        whole = torch.zeros(ends[-1], dtype=kind, device=margins.device)
        whole[ends[processes.rank()] - len(margins) : ends[processes.rank()]] = margins
        margins = objective.add_up(whole)
    return margins.cpu()


def _of_batch(scores: Tensor, targets: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Margins, and 1 for those that count, both in the targets' shape."""
    counts = targets != IGNORED
    places = targets.clamp_min(0).unsqueeze(-1)
    wide = scores.to(kind)
    own = wide.gather(-1, places).squeeze(-1)
    others = wide.scatter(-1, places, -math.inf).amax(-1)
    return torch.where(counts, own - others, 0.0), counts.to(kind)


def _classes(outputs: Any, batch: Any) -> tuple[Tensor, Tensor] | None:
    """Scores and integer targets; None if they are not those of a classifier."""
    scores = getattr(outputs, "logits", outputs)
    targets = None
    if isinstance(batch, Mapping):
        targets = batch.get("labels")
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        targets = batch[1]
    if not isinstance(scores, Tensor) or not isinstance(targets, Tensor):
        return None
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    fits = scores.is_floating_point() and scores.shape[:-1] == targets.shape and scores.ndim > 1
    return (scores, targets.long()) if whole and fits and scores.shape[-1] > 1 else None
