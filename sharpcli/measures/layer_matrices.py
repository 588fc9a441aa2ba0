"""A network's tensors by name, and its layers as matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.measures.context import Context
from sharpcli.objective.network import Network

__all__ = ["LayerMatrix", "batch_norms", "check_layers", "layer_matrices", "name_of", "tensors_of"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Suffixes of tensors from which torch.nn.utils computes a layer's weight.
_COMPUTED = ("_orig", "weight_g", "weight_v")


@dataclass(frozen=True)
class LayerMatrix:
    """A layer's weight as a float64 matrix (outputs, rest), with a batch norm's scale folded in."""

    name: str
    matrix: Tensor


def tensors_of(context: Context) -> dict[str, Tensor]:
    """Every parameter and buffer by name, measured or not, in float64 on the CPU."""
    network = context.objective.network
    own = dict(zip(network.names, network.unflatten(context.theta), strict=True))
    everything = {**own, **context.objective.fixed}
    return {
        name: tensor.detach().cpu().double()
        if tensor.is_floating_point()
        else tensor.detach().cpu()
        for name, tensor in everything.items()
    }


def name_of(network: Network) -> dict[int, str]:
    """The name of each parameter and buffer of the skeleton, by its identity."""
    named = (*network.model.named_parameters(), *network.model.named_buffers())
    return {id(tensor): name for name, tensor in named}


def batch_norms(network: Network) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms that normalise by running statistics."""
    return [
        module
        for module in network.model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.running_mean is not None
        and not module.training
    ]


def check_layers(context: Context) -> None:
    """Raise `SharpError` if the model has no layer whose weight is a parameter of its own."""
    network = context.objective.network
    if not _layers(network):
        raise SharpError(
            f"{network.task.name}: the model has no linear layer and no convolution, so there is "
            "no spectral norm",
            "leave this measure out",
        )
    computed = [
        name
        for name, _ in network.model.named_parameters()
        if "parametrizations." in name or name.endswith(_COMPUTED)
    ]
    if computed:
        raise SharpError(
            f"{network.task.name}: a layer's weight is computed from '{computed[0]}' (weight norm "
            "or spectral norm), so its spectral norm is not that of a parameter",
            "fold it into the weight (torch.nn.utils.parametrize.remove_parametrizations) and save "
            "the checkpoint again",
        )


def layer_matrices(context: Context) -> list[LayerMatrix]:
    """The layers' matrices: linear layers, attention's projections and kernels; tied ones once.

    A kernel is the matrix (out, in · pixels), as in Jiang et al. 2020; its norm is not that of the
    convolution as an operator, which it bounds up to the number of pixels. A batch norm right after
    a layer scales its rows by γ/√(variance + ε); another one is a diagonal matrix of its own.

    Cost: a forward pass on two examples.
    """
    network, tensors = context.objective.network, tensors_of(context)
    names, follow = name_of(network), _followed_by(context)
    scales = {module: _scale(module, names, tensors) for module in batch_norms(network)}
    found: list[LayerMatrix] = []
    seen: set[str] = set()
    folded = set()
    for module, weight in _layers(network):
        name = names[id(weight)]
        norm = follow.get(module)
        if norm in scales:
            folded.add(norm)
        if name in seen:
            continue
        seen.add(name)
        matrix = tensors[name]
        if isinstance(module, _TRANSPOSED):
            matrix = matrix.transpose(0, 1)
        matrix = matrix.flatten(1)
        if norm in scales:
            scale = scales[norm]
            matrix = matrix * (scale[:, None] if len(scale) == len(matrix) else scale.abs().max())
        found.append(LayerMatrix(name, matrix))
    places = {module: name for name, module in network.model.named_modules()}
    return found + [
        LayerMatrix(places[module], torch.diag(scale))
        for module, scale in scales.items()
        if module not in folded
    ]


def _layers(network: Network) -> list[tuple[nn.Module, Tensor]]:
    """Each module with a matrix, and its weight; a module of attention has several."""
    found: list[tuple[nn.Module, Tensor]] = []
    for module in network.model.modules():
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)):
            found.append((module, module.weight))
        elif isinstance(module, nn.MultiheadAttention):
            weights = (
                module.in_proj_weight,
                module.q_proj_weight,
                module.k_proj_weight,
                module.v_proj_weight,
            )
            found += [(module, weight) for weight in weights if weight is not None]
    known = name_of(network)
    return [(module, weight) for module, weight in found if id(weight) in known]


def _scale(module: Any, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> Tensor:
    """γ/√(variance + ε) of a batch norm."""
    variance = tensors[names[id(module.running_var)]]
    scale: Tensor = (variance + module.eps).rsqrt()
    return scale if module.weight is None else scale * tensors[names[id(module.weight)]]


def _followed_by(context: Context) -> dict[nn.Module, nn.Module]:
    """The batch norm that reads a layer's output, for each layer that has one."""
    network, rows = context.objective.network, context.objective.rows.head(2)
    makers: dict[int, tuple[nn.Module, Tensor]] = {}
    found: dict[nn.Module, nn.Module] = {}

    def made(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            makers[id(output)] = (module, output)  # held, so that the identity stays its own

    def read(module: nn.Module, inputs: Any) -> None:
        maker = makers.get(id(inputs[0])) if inputs else None
        if maker is not None:
            found[maker[0]] = module

    hooks = [module.register_forward_hook(made) for module, _ in _layers(network)]
    hooks += [module.register_forward_pre_hook(read) for module in batch_norms(network)]
    try:
        with torch.no_grad(), network.arithmetic():
            parameters = network.unflatten(context.theta)
            network.outputs(parameters, context.objective.fixed, rows.batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found
