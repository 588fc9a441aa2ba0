"""Check that the measured gradient is the derivative of the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sharpcli.checkpoint.contents import listed
from sharpcli.errors import SharpError, setting
from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.network import Network
from sharpcli.objective.reach import Substitution
from sharpcli.objective.rows import Rows
from sharpcli.objective.seen import NUDGE, Seen, nudge, of_network
from sharpcli.runtime.memory import is_out_of_memory

__all__ = ["check_slope"]

# Tolerance between a difference along a direction and the gradient's slope. A right float64
# gradient is off by 1e-8; a part of the model excluded from differentiation costs more than this.
_SLOPE = {torch.float64: 1e-3, torch.float32: 5e-2}
_STEPS = {torch.float64: (1e-5, 1e-6, 1e-7), torch.float32: (3e-3, 1e-3, 3e-4)}


def check_slope(network: Network, tensors: Mapping[str, Tensor], rows: Rows, seed: int) -> None:
    """Raise `SharpError` if the gradient is not the slope of the loss along a direction."""
    for kind in (torch.float64, torch.float32):
        if kind == torch.float64 and network.device.type == "mps":
            continue
        like = network if network.compute == kind else network.in_precision(kind)
        theta = nudge(like, like.flatten(tensors), seed)
        rows = rows.to(network.device, kind)
        try:
            seen = of_network(like, theta, tensors, rows)
            gradients = seen.gradients
        except (RuntimeError, TypeError, SharpError) as error:  # such as a float32-only kernel
            if is_out_of_memory(error):
                raise
            continue
        if gradients and seen.finite:  # otherwise another check explains it
            _hold_against_slope(like, theta, seen, tensors, rows, seed)
        return


def _hold_against_slope(
    network: Network,
    theta: Tensor,
    seen: Seen,
    tensors: Mapping[str, Tensor],
    rows: Rows,
    seed: int,
) -> None:
    kind, gradients = network.dtype, seen.gradients
    # A loss near zero is a difference of larger outputs, and rounds as they do.
    largest = rows.count * seen.largest
    slope = torch.cat(
        [
            gradients[name].reshape(-1) if name in gradients else theta.new_zeros(size)
            for name, size in zip(network.names, network.sizes, strict=True)
        ]
    )
    direction = network.trained(nudge(network, theta, seed + 1) - theta, slope)
    parts = dict(zip(network.names, network.unflatten(direction), strict=True))
    slopes = {
        name: float((gradients[name].double() * part.double()).sum()) if name in gradients else 0.0
        for name, part in parts.items()
    }

    def off(vector: Tensor, slope: float, scale: float) -> bool:
        """Whether no difference along a vector is near the slope."""
        for step in _STEPS[kind]:
            step /= NUDGE
            up, down = (
                _loss(network, theta.add(vector, alpha=sign * step), tensors, rows)
                for sign in (1, -1)
            )
            difference = (up - down) / (2 * step)
            rounding = 10 * torch.finfo(kind).eps * (abs(up) + abs(down) + largest) / step
            allowed = _SLOPE[kind] * max(scale, abs(difference)) + rounding
            if not abs(difference - slope) > allowed:  # also true for NaN
                return False
        return True

    scale = sum(slope**2 for slope in slopes.values()) ** 0.5
    if not off(direction, sum(slopes.values()), scale):
        return
    # Logits converted to float32, or autocast, only resolve larger differences, or none.
    kind = _coarsest(network, theta, tensors, rows)
    if kind not in _STEPS or not off(direction, sum(slopes.values()), scale):
        return
    names = []
    for index, name in enumerate(network.names):
        alone = torch.zeros_like(direction)
        network.unflatten(alone)[index].copy_(parts[name])
        if off(alone, slopes[name], abs(slopes[name])):
            names.append(name)
    among = f" in {listed(names, 3)}" if names else ""
    padding = [(name, row) for name, row in network.seen_padding(slope) if name in names]
    if padding:
        name, row = padding[0]
        raise SharpError(
            f"task '{network.task.name}': the gradient is not the slope of the loss{among}: row "
            f"{row} of '{name}' is padding (padding_idx), for which PyTorch leaves the embedding's "
            "derivative out, and the model uses that row elsewhere too",
            "mask the padded positions so that the loss does not depend on them, or build the "
            "embedding without padding_idx, or measure the loss alone: "
            f"{setting('measures', ['loss'])}",
        )
    raise SharpError(
        f"task '{network.task.name}': the gradient is not the slope of the loss{among}: a small "
        "step does not change the loss by the amount that the gradient predicts",
        "something between the parameters and the loss is left out of differentiation or has "
        "another derivative (detach(), .data, no_grad(), rounding with a straight-through "
        "gradient, a hook or backward of its own); take it out, or measure the loss alone: "
        f"{setting('measures', ['loss'])}",
    )


def _coarsest(
    network: Network, theta: Tensor, tensors: Mapping[str, Tensor], rows: Rows
) -> torch.dtype:
    """The dtype with the fewest digits that a forward pass computes in."""
    leaves = [part.detach().requires_grad_() for part in network.unflatten(theta)]
    values = network.values(leaves, network.fixed(tensors))
    watch = Substitution(network.reach, values)
    with torch.no_grad(), exact_arithmetic():
        outputs = network.outputs([], {}, rows.batch, watch=watch)
        with watch:
            network.losses(outputs, rows.batch, rows.count)
    # float16 and bfloat16 have the same tolerance here
    return next((k for k in _STEPS if watch.coarsest <= torch.finfo(k).eps), torch.bfloat16)


def _loss(network: Network, theta: Tensor, tensors: Mapping[str, Tensor], rows: Rows) -> float:
    with torch.no_grad():
        return of_network(network, theta, tensors, rows).loss
