"""Adam with ε inside the root, and the iterations without memory that follow its path.

Source: Cattaneo, Klusowski & Shigida 2024, "On the implicit bias of Adam"; Cattaneo & Shigida 2025,
"How memory in optimization algorithms implicitly modifies the loss".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

__all__ = ["SmoothAdam"]

Memory = Literal["full", "none", "corrected"]


class SmoothAdam(torch.optim.Optimizer):
    """Adam whose step is h·m/√(v + ε), where m and v are averages over past gradients g and g².

    `memory` chooses what the step uses:

    full: m and v, with Adam's correction of their bias.
    none: the present g and g². The step is h·F with F = g/√(g² + ε).
    corrected: the step is h·(F + h·M). M is what memory adds to first order in h:
    M = H·F·(c1 − c2·g²/(g² + ε))/√(g² + ε), with the Hessian H and the mean ages c1 and c2, in
    steps, of the gradients in m and v. H·F is the gradient of the perturbed 1-norm Σ√(g² + ε), so
    that M changes the loss by a multiple of that norm.

    The two follow the path of `full` for a small h: `none` to an error of the order of h,
    `corrected` of the order of h², on the same batch in every step and at a constant rate.

    Cost: one gradient a step; `corrected` takes three, for H·F by central differences.

    Args:
        params: the weights.
        lr: the step size h.
        betas: β1 and β2 of m and v.
        eps: ε, which is compared with the square of a gradient.
        memory: full, none or corrected.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        memory: str = "full",
    ) -> None:
        if memory not in get_args(Memory):
            raise ValueError(f"memory is full, none or corrected, not {memory}")
        if eps <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError("eps is above 0, and each beta is at least 0 and below 1")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "memory": memory})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step from θ, where the gradient is in place; `closure` takes it again nearby."""
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for each in weights:
            self.state[each]["step"] = self.state[each].get("step", 0) + 1
        gradients = {each: each.grad.clone() for each in weights if each.grad is not None}
        products: dict[Tensor, Tensor] = {}
        if any(group["memory"] == "corrected" for group in self.param_groups):
            directions = [
                gradients[each] / (gradients[each].square() + group["eps"]).sqrt()
                for group in self.param_groups
                for each in group["params"]
                if each in gradients
            ]
            products = dict(zip(weights, _products(weights, directions, closure), strict=True))
        for group in self.param_groups:
            for each in group["params"]:
                if each in gradients:
                    self._move(each, gradients[each], products.get(each), group)

    def _move(
        self, weight: Tensor, gradient: Tensor, product: Tensor | None, group: dict[str, Any]
    ) -> None:
        state, (first, second) = self.state[weight], group["betas"]
        taken, lr = state["step"], group["lr"]
        if group["memory"] == "full":
            mean = state.setdefault("exp_avg", torch.zeros_like(weight))
            square = state.setdefault("exp_avg_sq", torch.zeros_like(weight))
            mean.lerp_(gradient, 1 - first)
            square.lerp_(gradient.square(), 1 - second)
            root = (square / (1 - second**taken) + group["eps"]).sqrt()
            weight.sub_(mean / (1 - first**taken) / root, alpha=lr)
            return
        below = gradient.square() + group["eps"]
        weight.sub_(gradient / below.sqrt(), alpha=lr)
        if group["memory"] == "corrected":
            assert product is not None, "it is computed for all weights"
            shares = _age(first, taken) - _age(second, taken) * gradient.square() / below
            weight.sub_(product * shares / below.sqrt(), alpha=lr**2)


def _age(beta: float, taken: int) -> float:
    """The mean age of what an average over so many steps holds; β/(1 − β) after very many."""
    return float(beta / (1 - beta) - taken * beta**taken / (1 - beta**taken))


def _products(weights: list[Tensor], directions: list[Tensor], closure: Any) -> list[Tensor]:
    """The Hessian times a direction, by a central difference of gradients."""
    scale = max(1.0, float(_norm(weights)))
    length = torch.finfo(weights[0].dtype).eps ** (1 / 3) * scale / float(_norm(directions))
    before = [each.clone() for each in weights]
    ends = []
    try:
        for sign in (1.0, -1.0):
            torch._foreach_copy_(weights, before)
            torch._foreach_add_(weights, directions, alpha=sign * length)
            with torch.enable_grad():
                closure()
            ends.append([each.grad.clone() for each in weights if each.grad is not None])
    finally:
        torch._foreach_copy_(weights, before)
    return [(above - below) / (2 * length) for above, below in zip(*ends, strict=True)]


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm
