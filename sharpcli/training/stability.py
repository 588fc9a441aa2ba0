"""The stability threshold and the preconditioner of the optimizer that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpcli.curvature.preconditioned import adam_diagonal, root_diagonal
from sharpcli.documents.stability import Threshold, of_adam, of_momentum, of_rmsprop
from sharpcli.errors import SharpError

__all__ = ["preconditioner", "threshold"]

_ADAM = (torch.optim.Adam, torch.optim.AdamW)


def threshold(optimizer: torch.optim.Optimizer) -> Threshold | None:
    """The stability threshold of an optimizer at its present rate; None where none is known."""
    group, *others = optimizer.param_groups
    alike = all({**each, "params": 0} == {**group, "params": 0} for each in others)
    if not alike or group.get("maximize") or not group.get("lr", 0) > 0:
        return None
    rate = float(group["lr"])
    if type(optimizer) is torch.optim.SGD:
        return of_momentum(
            rate,
            float(group["momentum"]),
            dampening=float(group["dampening"]),
            nesterov=bool(group["nesterov"]),
            weight_decay=float(group["weight_decay"]),
        )
    if type(optimizer) in _ADAM:
        return of_adam(rate, float(group["betas"][0]))
    if type(optimizer) is torch.optim.RMSprop and not group["centered"]:
        return of_rmsprop(rate, float(group["momentum"]))
    return None


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
        return root_diagonal(group, state)
    if type(optimizer) not in _ADAM:
        raise SharpError(
            f"the preconditioner of {type(optimizer).__name__} is not known", "take Adam or RMSprop"
        )
    return adam_diagonal(group, state, float(state["step"]))
