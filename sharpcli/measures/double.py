"""An objective in float64, whatever the dtype of the run: for small differences of losses."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.objective.objective import Objective

__all__ = ["in_double"]

# Rows on which it is tried whether the model runs in float64.
_PROBE = 8


def in_double(objective: Objective, theta: Tensor) -> Objective | None:
    """The same objective in float64, None where the device or the model has no float64.

    The model's skeleton is shared, and rows are converted batch by batch, so that it holds no more
    than its buffers. An objective in float64 is given back as it is. A model that has float32
    written into it raises in float64 or gives float32 losses; both are found on 8 rows at θ (n,).
    Cost: a forward pass over these.
    """
    if objective.network.compute == torch.float64:
        return objective
    return objective.try_in(torch.float64, theta, _with_wide_losses)


def _with_wide_losses(objective: Objective, theta: Tensor) -> Objective | None:
    network, head = objective.network, objective.rows.head(_PROBE)
    with torch.no_grad(), network.arithmetic():
        outputs = network.outputs(network.unflatten(theta), objective.fixed, head.batch)
        total, _ = network.losses(outputs, head.batch, head.count)
    return objective if total.dtype == torch.float64 else None
