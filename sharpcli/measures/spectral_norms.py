"""The layers' spectral norms: their product, and the stable ranks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.documents.scalars import Scalar
from sharpcli.measures.context import Context
from sharpcli.measures.layer_matrices import layer_matrices

__all__ = ["log_product", "spectral_norms"]

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)


def spectral_norms(context: Context) -> dict[str, Any]:
    """Π ‖Wₗ‖₂, its logarithm, Σ ‖Wₗ‖_F²/‖Wₗ‖₂², Σ ‖Wₗ‖_F², and both norms of every layer.

    Singular values are those of a float64 decomposition, so the numbers are exact up to rounding. A
    kernel counts as the matrix (out, in · pixels).

    Cost: min(a, b)² · max(a, b) for a matrix (a, b), and a forward pass on two examples.
    Source: Bartlett et al. 2017; Neyshabur et al. 2018; Jiang et al. 2020.
    """
    between = [
        f"'{name}' ({type(module).__name__})"
        for name, module in context.objective.network.model.named_modules()
        if isinstance(module, _NORMS)
    ]
    if between:
        more = f" and {len(between) - 1} more" if len(between) > 1 else ""
        context.warnings.append(
            f"spectral-norms leaves out {between[0]}{more}, whose scale depends on its input: the "
            "product bounds no Lipschitz constant"
        )
    layers = []
    for layer in layer_matrices(context):
        largest, frobenius = _largest(layer.matrix), float(layer.matrix.norm())
        layers.append((layer.name, largest, frobenius))
    logarithm = _log([largest for _, largest, _ in layers])
    return {
        "spectral_norms": {
            "product": Scalar(math.exp(logarithm) if logarithm < 700 else math.inf),
            "log_product": Scalar(logarithm),
            "stable_rank": Scalar(math.fsum((f / s) ** 2 if s else 0.0 for _, s, f in layers)),
            "sum_of_squared_frobenius_norms": Scalar(math.fsum(f**2 for _, _, f in layers)),
            "layers": {
                name: {"spectral": largest, "frobenius": frobenius}
                for name, largest, frobenius in layers
            },
        }
    }


def log_product(context: Context) -> float:
    """The logarithm of Π ‖Wₗ‖₂."""
    return _log([_largest(layer.matrix) for layer in layer_matrices(context)])


def _log(norms: list[float]) -> float:
    return math.fsum(math.log(norm) for norm in norms) if all(norms) else -math.inf


def _largest(matrix: Tensor) -> float:
    """The largest singular value, from all of them."""
    return float(torch.linalg.matrix_norm(matrix, 2))
