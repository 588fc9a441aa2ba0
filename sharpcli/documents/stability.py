"""Up to which curvature an optimizer's steps are stable on a quadratic, at full batch.

Above the threshold the iterates along that direction grow. Gradient descent with a full batch moves
to places where the largest eigenvalue is about there, the edge of stability.

Source: Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability,
2021 (SGD, momentum); Adaptive Gradient Methods at the Edge of Stability, 2022 (Adam, RMSprop).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

__all__ = [
    "PRECONDITIONED",
    "PRECONDITIONED_NAME",
    "PRECONDITIONED_OF_FILES",
    "Threshold",
    "of_adam",
    "of_momentum",
    "of_rmsprop",
    "of_settings",
]

PRECONDITIONED_NAME = "preconditioned-hessian"  # in `track`
PRECONDITIONED_OF_FILES = "preconditioned-sharpness"  # the measure of checkpoints; the same number
Matrix = Literal["hessian", "preconditioned_hessian"]
PRECONDITIONED: Matrix = "preconditioned_hessian"
_ADAM, _SGD = ("adam", "adamw"), "sgd"


@dataclass(frozen=True)
class Threshold:
    """The curvature above which the optimizer's steps are unstable, at full batch."""

    value: Annotated[float, "The largest stable eigenvalue."]
    rule: Annotated[str, "Its formula; η is the learning rate."]
    of: Annotated[Matrix, "The measure that it is a threshold of."]


def of_momentum(
    rate: float,
    momentum: float = 0.0,
    *,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Threshold:
    """That of gradient descent, with heavy-ball or Nesterov momentum.

    L2 decay adds itself to every eigenvalue, so it is taken off.

    >>> of_momentum(0.1).value, of_momentum(0.1, 0.9).rule
    (20.0, '(2+2β)/η')
    """
    value, rule = 2 / rate, "2/η"
    if momentum:
        value, rule = (2 + 2 * momentum) / rate, "(2+2β)/η"
        if nesterov:
            value, rule = value / (1 + 2 * momentum), "(2+2β)/((1+2β)η)"
        if dampening:  # the memory takes in 1 − d of each gradient
            value, rule = value / (1 - dampening), "(2+2β)/((1−d)η)"
    if weight_decay:
        value, rule = value - weight_decay, f"{rule} − weight decay"
    return Threshold(value, rule, "hessian")


def of_adam(rate: float, beta: float) -> Threshold:
    """That of Adam, whose first β is `beta`: 38/η for 0.9, of its preconditioned Hessian."""
    rule = "38/η" if beta == 0.9 else "(2+2β1)/((1−β1)η)"
    return Threshold((2 + 2 * beta) / ((1 - beta) * rate), rule, PRECONDITIONED)


def of_rmsprop(rate: float, momentum: float) -> Threshold:
    """That of RMSprop, of its preconditioned Hessian."""
    return replace(of_momentum(rate, momentum), of=PRECONDITIONED)


def of_settings(metadata: Mapping[str, Any], rate: float | None) -> Threshold | None:
    """The threshold of a checkpoint that was trained at `rate`, by its metadata; None if unknown.

    An average of the weights is not where the optimizer took its steps, and has none.
    """
    name = str(metadata.get("optimizer", "")).lower()
    if not rate or rate <= 0 or metadata.get("ema") is not None:
        return None
    if name == _SGD:
        given = {key: float(metadata.get(key) or 0.0) for key in ("dampening", "weight_decay")}
        momentum, nesterov = float(metadata.get("momentum") or 0.0), bool(metadata.get("nesterov"))
        return of_momentum(rate, momentum, nesterov=nesterov, **given)
    if name in _ADAM and isinstance(metadata.get("beta1"), float):
        return of_adam(rate, metadata["beta1"])
    return None
