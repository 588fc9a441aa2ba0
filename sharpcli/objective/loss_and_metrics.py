"""The loss and the metrics of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sharpcli.errors import SharpError
from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.losses import sums_and_weights
from sharpcli.objective.means import moments
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Batch

__all__ = ["batch_moments", "loss_and_metrics"]


def loss_and_metrics(
    network: Network,
    parameters: list[Tensor],
    fixed: Mapping[str, Tensor],
    batch: Batch,
    count: int,
) -> list[tuple[str, tuple[Tensor, Tensor]]]:
    """Names, and sums and weights (N,) or one pair for the batch: the loss first, then the metrics.

    They are float64 if the device has it. Call it without gradients, in exact arithmetic.

    Raises:
        SharpError: if a metric has the name of the loss, which it would replace.
    """
    task, kind = network.task, accumulator(network.device)
    outputs = network.outputs(parameters, fixed, batch)
    pairs = [("loss", network.losses(outputs, batch, count))]
    for name, value in (task.metrics(outputs, batch) if task.metrics else {}).items():
        if name == "loss":
            raise SharpError(
                f"{task.name}: metrics gave one with the name 'loss', which is the loss's own",
                "give it another name",
            )
        pairs.append((name, sums_and_weights(value, count, f"{task.name}: metric '{name}'")))
    return [(name, (total.to(kind), weight.to(kind))) for name, (total, weight) in pairs]


def batch_moments(
    network: Network,
    parameters: list[Tensor],
    fixed: Mapping[str, Tensor],
    batch: Batch,
    count: int,
    *,
    squares: bool,
    parts: Sequence[int] | None = None,
) -> tuple[list[str], Tensor]:
    """Names of the loss and the metrics, and their `moments` (names, …), with `squares` or without.

    Call it without gradients, in exact arithmetic. With `parts`, numbers of consecutive rows, the
    result is (parts, names, …).

    Raises:
        SharpError: if parts are needed of a number that is returned for the batch only.
    """
    pairs = dict(loss_and_metrics(network, parameters, fixed, batch, count))
    if parts is None:
        found = [moments(total, weight, squares=squares) for total, weight in pairs.values()]
        return list(pairs), torch.stack(found)
    if any(total.ndim == 0 for total, _ in pairs.values()):
        raise SharpError(
            f"{network.task.name}: gives one sum for a batch", "give one for each example"
        )
    by_part = [[torch.split(each, list(parts)) for each in pair] for pair in pairs.values()]
    return list(pairs), torch.stack(
        [
            torch.stack([moments(s[i], w[i], squares=squares) for s, w in by_part])
            for i in range(len(parts))
        ]
    )
