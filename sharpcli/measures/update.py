"""The direction in which a checkpoint's optimizer moves θ: θ −= ηΔ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.checkpoint.optimizer_files import NoOptimizerState
from sharpcli.checkpoint.optimizer_state import OptimizerState
from sharpcli.errors import SharpError
from sharpcli.measures.context import Context
from sharpcli.measures.preconditioned import ADAM, ROOTS, diagonal_of

__all__ = ["Update", "update"]


@dataclass(frozen=True)
class Update:
    """Δ (n,).

    Attributes:
        direction: Δ.
        of: the optimizer whose update it is; `gradient` if it is the gradient.
        rate: the optimizer's learning rate, if it is known.
        by_gradient: whether Δ changes with the gradient at θ, and so with the data.
    """

    direction: Tensor
    of: str
    rate: float | None
    by_gradient: bool


def update(context: Context) -> Update:
    """The optimizer's own update where its state is known, else the gradient.

    Adam's is m̂/(√v̂ + ε), that of SGD and of RMSprop with momentum the momentum's buffer, all as
    the last step left them. RMSprop's and Adagrad's without momentum are g/(√v + ε). Weight decay
    is left out. What no step has moved has an update of zero.

    Raises:
        SharpError: a file named in the settings does not fit the model.

    Cost: no pass over the data with a momentum, else one gradient.
    """
    given = context.settings.options.get("optimizer_state")
    try:
        state = context.optimizer
    except NoOptimizerState:
        return _gradient(context)
    except SharpError as error:
        if given:
            raise
        return _gradient(context, error.message)
    rate = state.common("lr")
    rate = None if rate is None else float(rate)
    if context.objective.network.complex_names or state.name is None:
        return _gradient(context, f"{state.path}: the update of this optimizer is not known", rate)
    if state.name in ADAM:
        return Update(
            _filled(context, "exp_avg", state, preconditioned=True), state.name, rate, False
        )
    if any("momentum_buffer" in slots for slots in state.slots.values()):
        return Update(_filled(context, "momentum_buffer", state), state.name, rate, False)
    if state.name in ROOTS:
        found = _filled(context, None, state, preconditioned=True)
        return Update(found, state.name, rate, True)
    return _gradient(context, rate=rate)


def _gradient(context: Context, why: str | None = None, rate: float | None = None) -> Update:
    if why is not None:
        context.warnings.append(f"the gradient is taken for the optimizer's update: {why}")
    if rate is None and context.checkpoint is not None:
        about = context.checkpoint.metadata
        stated = about.get("lr_now", about.get("lr"))
        plain = about.get("optimizer") in (None, "sgd")
        rate = float(stated) if plain and isinstance(stated, int | float) else None
    return Update(context.value_and_gradient[1], "gradient", rate, True)


def _filled(
    context: Context, slot: str | None, state: OptimizerState, *, preconditioned: bool = False
) -> Tensor:
    """One vector of a slot of each parameter (None: the gradient), divided by P if asked for."""
    network = context.objective.network
    if slot is None:
        found = context.value_and_gradient[1].clone()
    else:
        found = torch.zeros_like(context.theta)
    for name, view in zip(network.names, network.unflatten(found), strict=True):
        slots = state.slots.get(name, {})
        if slot is not None:
            if not isinstance(slots.get(slot), Tensor):
                continue
            view.copy_(slots[slot])
        if preconditioned and slots:
            view.div_(diagonal_of(state, name).to(view))
    return found
