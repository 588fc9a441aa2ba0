"""Whether a loss has kinks, at which differences over a step are not its second derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharpcli.objective.objective import Objective

__all__ = ["has_kinks"]

# Operations whose slope jumps, by the beginning of their name in PyTorch.
_KINKED = (
    *("relu", "leaky_relu", "rrelu", "_prelu", "threshold", "hard", "softshrink", "abs", "clamp"),
    *("max", "min", "amax", "amin", "aminmax", "fmax", "fmin", "adaptive_max_pool", "mkldnn_max"),
    *("fractional_max_pool", "topk", "sort", "kthvalue", "median", "cdist", "where", "sign"),
)


def has_kinks(objective: Objective, theta: Tensor) -> bool:
    """Whether the loss has an operation whose slope jumps, such as a ReLU or a maximum.

    Cost: a forward pass of two examples.
    """
    rows, watch = objective.rows.head(2), _Operations()
    with torch.no_grad(), objective.network.arithmetic(), watch:
        objective.sum_and_weight(objective.network.unflatten(theta), rows.batch, rows.count)
    return any(name.startswith(_KINKED) for name in watch.names)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Records the names of operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note the operation's name, and run it."""
        self.names.add(function._schema.name.partition("::")[2])
        return function(*args, **(kwargs or {}))
