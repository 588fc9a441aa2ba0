"""The largest eigenvalue of the Hessian as an adaptive optimizer sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import quoted
from sharpcli.checkpoint.optimizer_state import OptimizerState
from sharpcli.curvature.preconditioned import adam_diagonal, root_diagonal
from sharpcli.documents.scalars import Scalar, scalar_fields
from sharpcli.documents.stability import Threshold, of_adam, of_rmsprop
from sharpcli.errors import SharpError, setting
from sharpcli.measures.context import Context
from sharpcli.measures.example_curvature import with_sampling_error
from sharpcli.measures.leading import leading, rounding_share

__all__ = ["ADAM", "ROOTS", "applies", "diagonal", "diagonal_of", "preconditioned_sharpness"]

ADAM, ROOTS = ("adam", "adamw"), ("rmsprop", "adagrad")
_NEEDED = {"adam": "exp_avg_sq", "adamw": "exp_avg_sq", "rmsprop": "square_avg", "adagrad": "sum"}


def applies(context: Context) -> None:
    """Raise `SharpError` unless there is the state of an adaptive optimizer for all of θ."""
    state = context.optimizer
    if state.name not in _NEEDED:
        raise SharpError(
            f"{state.path}: is the state of {_named(state)}, which has no known preconditioner",
            "it is known for Adam, AdamW, RMSprop and Adagrad",
        )
    check_slot(context, _NEEDED[state.name])


def check_slot(context: Context, slot: str) -> None:
    """Raise `SharpError` unless the optimizer has this tensor for all measured parameters."""
    state, network = context.optimizer, context.objective.network
    for name in network.names:
        if not isinstance(state.slots.get(name, {}).get(slot), Tensor):
            raise SharpError(
                f"{state.path}: has no '{slot}' of {quoted(name)}: no step has moved it",
                f"measure the other parameters alone: {setting('parameters')}",
            )
        if name in network.complex_names:
            raise SharpError(f"{quoted(name)} is complex, which no preconditioner is known for")


def diagonal(context: Context) -> Tensor:
    """P (n,) of the measured parameters, above zero.

    Raises:
        SharpError: the state lacks a setting, or P has a zero or is not finite.
    """
    state, network = context.optimizer, context.objective.network
    found = network.flatten({name: diagonal_of(state, name) for name in network.names})
    if not bool((found.isfinite() & (found > 0)).all()):
        index = int((~(found.isfinite() & (found > 0))).nonzero()[0])
        raise SharpError(
            f"{state.path}: the preconditioner of {quoted(network.locate(index))} is zero or not "
            "finite",
            "take the state of a training that did not diverge, with an eps above zero",
        )
    return found


def diagonal_of(state: OptimizerState, name: str) -> Tensor:
    """P of one parameter, in its shape; raises `SharpError` if the state lacks a setting."""
    group, slots = state.groups[name], _wide(state.slots[name])
    try:
        if state.name in ADAM:
            return adam_diagonal(group, slots, state.steps(name))
        return root_diagonal(group, slots)
    except KeyError as error:
        raise SharpError(
            f"{state.path}: has no {error} of {quoted(name)}",
            "save the optimizer's whole state dict, with its parameter groups",
        ) from error


def _wide(slots: Any) -> dict[str, Any]:
    """The slots with narrow floats, such as bfloat16, as float32."""
    return {
        key: each.float() if isinstance(each, Tensor) and each.element_size() < 4 else each
        for key, each in slots.items()
    }


def preconditioned_sharpness(context: Context) -> dict[str, Any]:
    """λ1 of P^(-1/2) H P^(-1/2), with P the diagonal that the optimizer's state makes.

    A step of the optimizer is θ −= η P⁻¹m. Adam's P is (1 − β1ᵗ)(√(v/(1 − β2ᵗ)) + ε), RMSprop's
    √v + ε, Adagrad's √(Σg²) + ε. At full batch steps are stable up to a threshold, which is beside
    it if the learning rate is known, with λ1 as a share of it. With a part of the parameters, H and
    P are those of this part.

    Cost: 7 gradients and a product, up to 14 products, as `leading`; on a subset three forward
    passes.
    Source: Cohen et al. 2022, Adaptive Gradient Methods at the Edge of Stability.
    """
    found = leading(
        context.objective,
        context.theta,
        context.self_check,
        tolerance=context.settings.tol,
        diagonal=(preconditioner := diagonal(context)),
        rounding=lambda value, vector: rounding_share(
            context.objective, context.theta, value, vector, context.seed
        ),
        seed=context.seed,
    )
    along = preconditioner.rsqrt() * found.vector.to(preconditioner)
    scalar = with_sampling_error(found.scalar, context.objective, context.theta, along)
    numbers: dict[str, Any] = {"optimizer": context.optimizer.name}
    limit = threshold(context)
    if limit is not None:
        numbers |= {"threshold": limit, "ratio": _share(scalar, limit.value)}
    return {"preconditioned_sharpness": scalar_fields(scalar, **numbers)}


def threshold(context: Context) -> Threshold | None:
    """Up to which λ1 the optimizer's steps are stable; None if its rate is not known.

    An average of the weights is not where the optimizer took its steps.
    """
    state, about = context.optimizer, context.checkpoint.metadata if context.checkpoint else {}
    rate = state.common("lr")
    if rate is None or float(rate) <= 0 or about.get("ema") is not None:
        return None
    if state.name in ADAM:
        betas = state.common("betas")
        return None if betas is None else of_adam(float(rate), float(betas[0]))
    if state.name == "rmsprop":
        return of_rmsprop(float(rate), float(state.common("momentum") or 0.0))
    return None  # Adagrad's rate falls with its steps


def _share(scalar: Scalar, limit: float) -> Scalar:
    """A number as a share of a limit, with its errors."""
    if scalar.value is None:
        return scalar

    def divided(error: float | None) -> float | None:
        return None if error is None else error / limit

    return replace(
        scalar,
        value=scalar.value / limit,
        error=divided(scalar.error),
        sampling_error=divided(scalar.sampling_error),
    )


def _named(state: OptimizerState) -> str:
    return state.name or "an optimizer that is not known"
