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
    then tested. Meant for a float64 objective on a few examples. Cost: two products and seven
    gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(2, objective.size, generator=generator, dtype=torch.float64).to(theta)
    # Along the gradient the curvature stands far above what the kinks of ReLU and max-pooling add
    # to a difference; along a random direction it need not (seen: 7e-3 of it on a LeNet).
    _, gradient = objective.gradient(theta)
    pair = torch.stack([u, gradient if float(gradient.norm()) > 0 else v])
    del u, v, gradient  # copies of θ in float64
    pair /= pair.norm(dim=1, keepdim=True)
    u, v = pair
    hessian = Curvature(objective, theta, MODES["double-backward" if mode == "auto" else mode])
    hu, hv = (hessian @ pair.T).T
    hessian.release()
    scale = float(hv.norm()) or 1.0
    # cbrt(machine epsilon) balances truncation against rounding in a central difference.
    step = torch.finfo(theta.dtype).eps ** (1 / 3) * (1 + float(theta.norm()))
    differences = []
    # A step that crosses kinks (ReLU, max-pooling) differs whatever the product; a shorter one
    # crosses fewer, and in float64 rounding leaves room for four decades.
    for shrink in (1.0, 1e-2, 1e-4):
        h = step * shrink
        _, ahead = objective.gradient(theta + h * v)
        _, behind = objective.gradient(theta - h * v)
        differences.append(float(((ahead - behind) / (2 * h) - hv).norm()) / scale)
    return SelfCheck(abs(float(u @ hv) - float(v @ hu)) / scale, min(differences))
