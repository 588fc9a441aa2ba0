"""Norms of the parameters, and their distance from those before the training."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.checkpoint import load_checkpoint, match_tensors
from sharpcli.documents.scalars import Scalar
from sharpcli.errors import SharpError, setting
from sharpcli.measures.context import Context

__all__ = ["check_initial", "distance_from_initialisation", "parameter_norms"]


def parameter_norms(context: Context) -> dict[str, Any]:
    """‖θ‖₂, ‖θ‖₂², max |θᵢ|, and the sum of the tensors' 2-norms; θ are the measured parameters.

    Cost: no pass over the data.
    Source: Jiang et al. 2020; Dziugaite et al. 2020.
    """
    theta = context.theta.detach()
    squares = [_square(part) for part in context.objective.network.unflatten(theta)]
    square = math.fsum(squares)
    return {
        "parameter_norms": {
            "norm": Scalar(math.sqrt(square)),
            "squared": Scalar(square),
            "max": Scalar(float(theta.abs().max())),
            "sum_of_frobenius_norms": Scalar(math.fsum(math.sqrt(each) for each in squares)),
        }
    }


def distance_from_initialisation(context: Context) -> dict[str, Any]:
    """‖θ − θ₀‖₂, its ratio to ‖θ₀‖₂, and sums over matrices of ‖W − W₀‖_F and ‖W − W₀‖₂.

    θ₀ is the initial checkpoint's. A kernel counts as the matrix (out, in · pixels).

    Cost: reading a checkpoint, and a decomposition of each matrix.
    Source: Nagarajan & Kolter 2019; Neyshabur et al. 2019; Jiang et al. 2020.
    """
    network = context.objective.network
    initial = network.in_precision(torch.float64).flatten(_initial(context))
    apart = context.theta.detach().to(initial) - initial
    square, beginning = _square(apart), math.sqrt(_square(initial))
    if not square and not context.part:
        path = setting("initial", context.settings.initial)
        context.warnings.append(f"{path} holds the parameters of this checkpoint: no distance")
    matrices = [part.flatten(1) for part in network.unflatten(apart) if part.ndim > 1]
    spectral = [float(torch.linalg.matrix_norm(each.cpu(), 2)) for each in matrices if each.numel()]
    return {
        "distance_from_initialisation": {
            "norm": Scalar(math.sqrt(square)),
            "relative": Scalar(math.sqrt(square) / beginning if beginning else math.inf),
            "sum_of_frobenius_norms": Scalar(math.fsum(float(each.norm()) for each in matrices)),
            "sum_of_spectral_norms": Scalar(math.fsum(spectral)),
        }
    }


def check_initial(context: Context) -> None:
    """Raise `SharpError` without an initial checkpoint, or if it does not fit the task's model."""
    if context.settings.initial is None:
        raise SharpError(
            "the distance from initialisation needs the checkpoint from before the training",
            f"name it with {setting('initial')}",
        )
    _initial(context)


def _initial(context: Context) -> dict[str, Tensor]:
    """The initial checkpoint's tensors under the model's names."""
    expected = context.objective.network.model.state_dict()
    return match_tensors(_loaded(Path(str(context.settings.initial))), expected).tensors


@functools.lru_cache(maxsize=1)
def _loaded(path: Path) -> Any:
    return load_checkpoint(path)


def _square(tensor: Tensor) -> float:
    """The sum of squares in float64; MPS, which has none, adds up on the CPU."""
    flat = tensor.detach().flatten()
    wide = (flat.cpu() if flat.device.type == "mps" else flat).double()
    return float(wide @ wide)
