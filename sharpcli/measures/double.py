"""An objective in float64, whatever the dtype of the run: for small differences of losses."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import SharpError
from sharpcli.objective.objective import Objective
from sharpcli.runtime.memory import is_out_of_memory

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
    network = objective.network
    if network.compute == torch.float64:
        return objective
    if network.device.type == "mps":
        return None
    made = objective.in_precision(torch.float64)
    return made if _runs(made, theta.double()) else None


def _runs(objective: Objective, theta: Tensor) -> bool:
    network = objective.network
    head = objective.rows.head(_PROBE)
    try:
        with torch.no_grad(), network.arithmetic():
            outputs = network.outputs(network.unflatten(theta), objective.fixed, head.batch)
            total, _ = network.losses(outputs, head.batch, head.count)
    except (RuntimeError, TypeError, ValueError, SharpError) as error:
        # What a user's model raises where float64 meets a float32 that it makes itself.
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return False
    return total.dtype == torch.float64
