"""Sharpness-aware minimisation: the gradient of a step is taken at worse weights nearby.

Source: Foret et al. 2021, "Sharpness-aware minimization for efficiently improving generalization";
Kwon et al. 2021, "ASAM: adaptive sharpness-aware minimization".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["ASAM", "SAM"]


class SAM(torch.optim.Optimizer):
    """Takes the steps of another optimizer with the gradient at θ + e.

    Without `adaptive` e = ρ g/‖g‖, where g is the gradient at θ. With it, e = ρ T²g/‖Tg‖, where T
    is |θ| + η for each weight, so that the neighbourhood does not depend on the weights' scale.

    Cost: two gradients a step, and a copy of the weights.

    Args:
        params: the weights.
        base_optimizer: makes the optimizer that takes the steps, from the weights and `options`.
        rho: the radius ρ.
        adaptive: whether the neighbourhood is ASAM's.
        eta: the η of ASAM.
        options: arguments of the base optimizer.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        base_optimizer: Callable[..., torch.optim.Optimizer],
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.0,
        **options: Any,
    ) -> None:
        if rho < 0 or eta < 0:
            raise ValueError(f"rho and eta are at least 0, not {rho:g} and {eta:g}")
        self.base_optimizer = base_optimizer(params, **options)
        self.rho, self.adaptive, self.eta = rho, adaptive, eta
        # The groups are the base's own, and the state is shared: both are kept as those of one.
        super().__init__(self.base_optimizer.param_groups, {})
        self.base_optimizer.state = self.state
        for switch in ("train", "eval"):  # those of schedule-free ones
            if hasattr(self.base_optimizer, switch):
                setattr(self, switch, getattr(self.base_optimizer, switch))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step from θ, where the gradient is in place; `closure` takes it again at θ + e."""
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [each.clone() for each in weights]
        torch._foreach_add_(weights, self._ascent(weights))
        try:
            with torch.enable_grad():
                closure()
        finally:
            torch._foreach_copy_(weights, before)
        self.base_optimizer.step()

    def _ascent(self, weights: list[Tensor]) -> list[Tensor]:
        """The way e from θ to the worse weights; zero where the gradient is."""
        scaled = [each.grad for each in weights if each.grad is not None]
        if self.adaptive:
            scales = [each.abs() + self.eta for each in weights]
            scaled = list(torch._foreach_mul(scaled, scales))
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(scaled)))
        if self.adaptive:
            scaled = list(torch._foreach_mul(scaled, scales))
        factor = torch.where(norm > 0, self.rho / norm, 0.0)
        return list(torch._foreach_mul(scaled, factor))


class ASAM(SAM):
    """SAM in the adaptive neighbourhood, with the ρ and η of Kwon et al.'s experiments."""

    def __init__(
        self,
        params: Sequence[Tensor],
        base_optimizer: Callable[..., torch.optim.Optimizer],
        rho: float = 0.5,
        eta: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(params, base_optimizer, rho, True, eta, **options)
