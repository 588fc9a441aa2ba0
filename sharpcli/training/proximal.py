"""The proximal point method on each batch: several steps on it, which are held near their start.

Source: Li, Zhang, Chen & Smola 2014, "Efficient mini-batch training for stochastic optimization";
Keskar et al. 2017, on "conservative training".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Proximal"]


class Proximal(torch.optim.Optimizer):
    """Takes `iterations` steps of another optimizer on one batch, for L(θ) + λ/2 ‖θ − θ₀‖².

    θ₀ are the weights before the first of them. With one iteration it is the other optimizer.

    Cost: `iterations` gradients a step, and a copy of the weights.

    Args:
        params: the weights.
        base_optimizer: makes the optimizer that takes the steps, from the weights and `options`.
        penalty: λ.
        iterations: steps on a batch.
        options: arguments of the base optimizer.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        base_optimizer: Callable[..., torch.optim.Optimizer],
        penalty: float = 1e-3,
        iterations: int = 3,
        **options: Any,
    ) -> None:
        if penalty < 0 or iterations < 1:
            raise ValueError(
                f"penalty is at least 0 and iterations at least 1, not {penalty:g} and {iterations}"
            )
        self.base_optimizer = base_optimizer(params, **options)
        self.penalty, self.iterations = penalty, iterations
        # The groups are the base's own, and the state is shared: both are kept as those of one.
        super().__init__(self.base_optimizer.param_groups, {})
        self.base_optimizer.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """The steps on a batch whose gradient is in place; `closure` takes it again."""
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        start = [each.clone() for each in weights]
        self.base_optimizer.step()
        for _ in range(1, self.iterations):
            with torch.enable_grad():
                closure()
            gradients = [each.grad for each in weights if each.grad is not None]
            moved = torch._foreach_sub(weights, start)
            torch._foreach_add_(gradients, list(moved), alpha=self.penalty)
            self.base_optimizer.step()
