"""Up to which curvature an optimizer's steps are stable on a quadratic, at full batch.

Above the threshold the iterates along that direction grow. Gradient descent with a full batch moves
to places where the largest eigenvalue is about there, the edge of stability.

Source: Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability,
2021 (SGD, momentum); Adaptive Gradient Methods at the Edge of Stability, 2022 (Adam, RMSprop).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpcli.documents.checkpoints import Threshold
from sharpcli.errors import SharpError

__all__ = ["preconditioner", "threshold"]

_ADAM = (torch.optim.Adam, torch.optim.AdamW)


def threshold(optimizer: torch.optim.Optimizer) -> Threshold | None:
    """The stability threshold of an optimizer at its present rate; None where none is known.

    SGD's is one of the Hessian. L2 decay adds itself to every eigenvalue, so it is taken off. That
    of Adam, AdamW and RMSprop is one of the preconditioned Hessian.
    """
    groups = optimizer.param_groups
    alike = all({**group, "params": 0} == {**groups[0], "params": 0} for group in groups)
    if not alike or groups[0].get("maximize") or not groups[0]["lr"] > 0:
        return None
    group = groups[0]
    rate = float(group["lr"])
    if type(optimizer) is torch.optim.SGD:
        value, rule = _momentum(rate, group["momentum"], group["dampening"], group["nesterov"])
        decay = float(group["weight_decay"])
        return Threshold(value - decay, f"{rule} − weight decay" if decay else rule, "hessian")
    if type(optimizer) in _ADAM:
        beta = float(group["betas"][0])
        value = (2 + 2 * beta) / ((1 - beta) * rate)
        return Threshold(value, "(2+2β1)/((1−β1)η)", "preconditioned_hessian")
    if type(optimizer) is torch.optim.RMSprop and not group["centered"]:
        value, rule = _momentum(rate, group["momentum"], 0.0, nesterov=False)
        return Threshold(value, rule, "preconditioned_hessian")
    return None


def _momentum(rate: float, momentum: float, dampening: float, nesterov: bool) -> tuple[float, str]:
    if not momentum:
        return 2 / rate, "2/η"
    value, rule = (2 + 2 * momentum) / rate, "(2+2β)/η"
    if nesterov:
        value, rule = value / (1 + 2 * momentum), "(2+2β)/((1+2β)η)"
    if dampening:  # the memory takes in 1 − d of each gradient
        value, rule = value / (1 - dampening), "(2+2β)/((1−d)η)"
    return value, rule


def preconditioner(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """The diagonal of P by parameter, where a step is θ −= η P⁻¹m; None where there is none yet.

    Adam's is (1 − β1ᵗ)(√(v/(1 − β2ᵗ)) + ε) with m the running mean of gradients, RMSprop's √v + ε.
    What no step has moved yet has no entry in the optimizer's state, and there is no P then.

    Args:
        optimizer: with its state after some steps.
        parameters: the model's, by name.
    """
    groups = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    found = {}
    for name, parameter in parameters.items():
        group, state = groups.get(id(parameter)), optimizer.state.get(parameter)
        if not group or not state or parameter.is_complex():
            return None
        found[name] = _diagonal(optimizer, group, state)
    return found


def _diagonal(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], state: Mapping[str, Any]
) -> Tensor:
    if type(optimizer) is torch.optim.RMSprop:
        root: Tensor = state["square_avg"].sqrt() + group["eps"]
        return root
    if type(optimizer) not in _ADAM:
        raise SharpError(
            f"the preconditioner of {type(optimizer).__name__} is not known", "take Adam or RMSprop"
        )
    steps, (first, second) = float(state["step"]), group["betas"]
    squares: Tensor = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    unbiased = squares / (1 - second**steps)
    return (1 - first**steps) * (unbiased.sqrt() + group["eps"])
