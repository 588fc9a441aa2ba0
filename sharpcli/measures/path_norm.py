"""The path norm: the 2-norm over all paths through a network of the product of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharpcli.documents.scalars import Scalar
from sharpcli.errors import SharpError, setting
from sharpcli.measures.context import Context
from sharpcli.measures.layer_matrices import batch_norms, name_of
from sharpcli.objective.network import Network
from sharpcli.objective.outputs import tensors_of
from sharpcli.objective.trees import leaves, map_leaves

__all__ = ["check_path_norm", "path_norm", "value"]

# Operations that pass sums over paths on: linear in what they read, a ReLU, or a mean. Squared
# weights and inputs of ones are not negative, so a maximum is taken over sums of the same kind.
_NAMES = """
relu leaky_relu _prelu_kernel threshold clamp_min abs add mul div maximum mean sum amax
mm bmm addmm baddbmm linear convolution native_batch_norm cudnn_batch_norm _batch_norm_no_update
_native_batch_norm_legit_no_training
clone detach alias contiguous _to_copy copy lift_fresh lift_fresh_copy t transpose permute view
_unsafe_view reshape _reshape_alias expand repeat squeeze unsqueeze cat stack split split_with_sizes
slice select unbind flip constant_pad_nd zeros zeros_like ones_like new_zeros fill empty empty_like
avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d
_adaptive_avg_pool3d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices
upsample_nearest1d upsample_nearest2d upsample_bilinear2d
"""
_SUMS_OVER_PATHS = frozenset(_NAMES.split())
# Those of them that a constant below zero makes negative, which is no sum over squared paths.
_SIGNED = frozenset(["add", "mul", "div", "mm", "bmm", "addmm", "baddbmm", "linear", "convolution"])


def path_norm(context: Context) -> dict[str, Any]:
    """√Σ_outputs f(1; θ²), and the sum's logarithm.

    A path's weight is the product of the weights along it. A bias begins paths of its own; a batch
    norm is the layer γ(x − mean)/√(variance + ε) + β that it is in evaluation. Rescaling a unit, or
    a layer, changes no path's weight. The pass is in float64.

    Cost: a forward pass of one example.
    Source: Neyshabur, Tomioka & Srebro 2015; Jiang et al. 2020 (path-norm).
    """
    squared = value(context)
    logarithm = math.log(squared) if squared > 0 else -math.inf
    return {"path_norm": {"norm": Scalar(math.sqrt(squared)), "log_norm": Scalar(logarithm / 2)}}


def check_path_norm(context: Context) -> None:
    """Raise `SharpError` if the network has no path norm, or a batch no place for ones.

    Cost: a forward pass of one example.
    """
    value(context)


def value(context: Context) -> float:
    """Σ_outputs f(1; θ²), in float64."""
    network = context.objective.network
    if network.complex_names:
        raise _none(network, "the parameters are complex")
    wide, theta, fixed, batch = _as_squares(context)
    watch = _Operations()
    with torch.no_grad(), network.arithmetic(), watch:
        outputs = wide.outputs(wide.unflatten(theta), fixed, batch)
    if watch.others:
        raise _none(
            network, f"'{watch.others[0]}' is no sum over paths: only ReLU-like operations are"
        )
    return float(sum(leaf.double().sum() for leaf in tensors_of(outputs)))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Records operations that are not sums over paths."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.others: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Look at the operation's name, and run it."""
        name = function._schema.name.partition("::")[2].removesuffix("_")
        if name not in _SUMS_OVER_PATHS:
            self.others.append(name)
        found = function(*args, **(kwargs or {}))
        if name in _SIGNED and found.is_floating_point() and bool((found < 0).any()):
            self.others.append(f"{name} with a constant below zero")
        return found


def _as_squares(
    context: Context,
) -> tuple[Network, Tensor, dict[str, Tensor], Any]:
    """The network in float64, its squared parameters, its fixed tensors, and one row of ones."""
    objective = context.objective
    network, device = objective.network, objective.network.device
    if device.type == "mps":
        raise _none(network, f"{device} has no float64", f"use {setting('device', 'cpu')}")
    rows = objective.rows.head(1).to(device, torch.float64)
    inputs = [leaf for leaf in leaves(rows.batch) if _is_real(leaf)]
    if not inputs:
        raise _none(network, "the inputs are no real numbers (tokens have no paths from them)")
    wide = network.in_precision(torch.float64)
    fixed = {
        name: tensor.double().square() if name in network.fixed_parameters else tensor
        for name, tensor in wide.converted(objective.fixed).items()
    }
    own = dict(zip(network.names, network.unflatten(context.theta.double()), strict=True))
    plain = {**wide.converted(objective.fixed), **own}
    squares = {name: tensor.square() for name, tensor in own.items()}
    for name, tensor in _squared_batch_norms(network, plain).items():
        (squares if name in squares else fixed)[name] = tensor
    theta = torch.cat([squares[name].reshape(-1) for name in network.names])
    ones = map_leaves(rows.batch, lambda leaf: torch.ones_like(leaf) if _is_real(leaf) else leaf)
    return wide, theta, fixed, ones


def _squared_batch_norms(network: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms' tensors such that they compute γ²/(variance + ε) · x + (β − γ·mean/√…)²."""
    names, found = name_of(network), {}
    for module in batch_norms(network):
        mean, variance = (
            tensors[names[id(each)]] for each in (module.running_mean, module.running_var)
        )
        wide = variance + module.eps
        gamma = None if module.weight is None else tensors[names[id(module.weight)]]
        found[names[id(module.running_var)]] = wide.square() - module.eps
        # Without β, the mean is what brings the constant in.
        shift = -mean.square()
        if module.bias is not None:
            scale = (1.0 if gamma is None else gamma) * wide.rsqrt()
            constant = (tensors[names[id(module.bias)]] - mean * scale).square()
            found[names[id(module.bias)]] = constant
            shift = torch.zeros_like(mean)
        found[names[id(module.running_mean)]] = shift
        if gamma is not None:
            found[names[id(module.weight)]] = gamma.square()
    return found


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _none(network: Network, why: str, hint: str = "leave this measure out") -> SharpError:
    return SharpError(f"{network.task.name}: the network has no path norm: {why}", hint)
