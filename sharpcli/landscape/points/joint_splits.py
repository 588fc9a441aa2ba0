"""Evaluate the rows of all splits in one pass, if they are few.

The fixed cost of a pass, about thirty calls of Python and PyTorch, is then paid once per point. On
large data this cost hardly matters, and each split keeps its own pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sharpcli.errors import SharpError
from sharpcli.objective.loss_and_metrics import batch_moments
from sharpcli.objective.objective import Objective
from sharpcli.objective.reading import join_rows
from sharpcli.runtime.processes import size

__all__ = ["joint_objective"]

_ROWS = 2


def joint_objective(objectives: Mapping[str, Objective], like: Tensor) -> Objective | None:
    """Join all splits' rows into one objective; None if that is not possible.

    The rows have to fit in one batch, and the task's loss and metrics have to return one number per
    example, so that these can be summed by split. `like` is a θ to check this at.

    Cost: a pass over two rows, and a copy of the data.
    """
    first = next(iter(objectives.values()))
    every = [objective.rows for objective in objectives.values()]
    count = sum(rows.count for rows in every)
    alike = len({rows.sampled for rows in every}) == 1
    if len(every) < 2 or size() > 1 or not alike or first.fixed_batch is not None:
        return None
    rows = join_rows(every) if count <= first.most_at_once else None
    if rows is None:
        return None
    joint = Objective(first.network, rows, first.fixed, batch_size=count, memory=first.memory)
    return joint if _by_example(joint, like) else None


def _by_example(joint: Objective, theta: Tensor) -> bool:
    few = joint.rows.head(_ROWS)
    parameters = joint.network.unflatten(theta)
    with torch.no_grad(), joint.network.arithmetic():
        try:
            batch_moments(
                *(joint.network, parameters, joint.fixed, few.batch, few.count),
                squares=joint.rows.sampled,
                parts=[1] * few.count,
            )
        except SharpError:
            return False
    return True
