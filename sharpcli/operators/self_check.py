"""Whether a model's second derivatives can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..objective import Objective
from ..settings import ProductMode
from .curvature import Curvature
from .modes import MODES

__all__ = ["SelfCheck", "self_check"]

# A relative difference that needs no further look: a tenth of what passes.
_CLEAR = 1e-3


@dataclass(frozen=True)
class SelfCheck:
    """How far a product is from symmetry and from a central difference, both relative."""

    asymmetry: float
    difference: float

    # Rounding leaves about 1e-13 of either; a kink (ReLU) crossed by the difference leaves up to
    # a few times 1e-3, a wrong derivative 1e-2 and more (2.5e-2 for the known LayerNorm fault).
    @property
    def passed(self) -> bool:
        """Whether the product can be trusted."""
        return self.asymmetry <= 1e-8 and self.difference <= 1e-2


def self_check(
    objective: Objective, theta: Tensor, *, mode: ProductMode = "auto", seed: int = 0
) -> SelfCheck:
    """Test the Hessian product of an objective: uᵀHv = vᵀHu, and Hv against a central difference.

    `mode` is the order of differentiation; what "auto" takes agrees with double backward, which is
    then tested. Meant for a float64 objective on a few examples. Cost: two products and three to
    seven gradients, and memory for six of θ.
    """
    generator = torch.Generator().manual_seed(seed)
    u, v = (
        torch.randn(objective.size, generator=generator, dtype=torch.float64).to(theta)
        for _ in range(2)
    )
    # Along the gradient the curvature stands far above what the kinks of ReLU and max-pooling add
    # to a difference; along a random direction it need not (seen: 7e-3 of it on a LeNet).
    _, gradient = objective.gradient(theta)
    if float(gradient.norm()) > 0:
        v.copy_(gradient)
    del gradient
    u /= u.norm()
    v /= v.norm()
    hessian = Curvature(objective, theta, MODES["double-backward" if mode == "auto" else mode])
    there = float(v @ (hessian @ u))  # one product at a time: of a large model they are many bytes
    hv = hessian @ v
    back = float(u @ hv)
    hessian.release()
    del u, hessian
    scale = float(hv.norm()) or 1.0
    # cbrt(machine epsilon) balances truncation against rounding in a central difference.
    step = torch.finfo(theta.dtype).eps ** (1 / 3) * (1 + float(theta.norm()))
    differences = []
    # A step that crosses kinks (ReLU, max-pooling) differs whatever the product; a shorter one
    # crosses fewer, and in float64 rounding leaves room for four decades. Without kinks the first
    # one settles it.
    for shrink in (1.0, 1e-2, 1e-4):
        h = step * shrink
        _, difference = objective.gradient(theta.add(v, alpha=h))
        difference -= objective.gradient(theta.sub(v, alpha=h))[1]
        difference.div_(2 * h).sub_(hv)
        differences.append(float(difference.norm()) / scale)
        del difference
        if differences[-1] <= _CLEAR:
            break
    return SelfCheck(abs(back - there) / scale, min(differences))
