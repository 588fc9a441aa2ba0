"""Check an operator's products against differences of gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sharpcli.curvature.differences import DIFFERENCES, Difference
from sharpcli.curvature.finite_difference import FiniteDifference
from sharpcli.curvature.gauss_newton import LossCurvature, empirical_fisher, gauss_newton
from sharpcli.curvature.modes import MODES
from sharpcli.curvature.operator import Curvature
from sharpcli.linalg.eigsh import eigsh
from sharpcli.linalg.operator import CurvatureOperator
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.settings.curvature import Operator, ProductMode

__all__ = ["SelfCheck", "self_check"]


@dataclass(frozen=True)
class _Limits:
    """What a dtype resolves. `steps` are shares of 1 + ‖θ‖, each with the index of a neighbour."""

    steps: Sequence[tuple[float, int | None]]
    clear: float  # relative to a tensor's own part of the product: no further step is needed
    floor: float  # relative to the full product: smaller differences are rounding
    asymmetry: float


# With a float64 step of 1e-8 differences are accurate to about 1e-8 if the loss is smooth. A
# shorter step avoids kinks (ReLU, max-pooling) that the first one crosses; longer steps rise above
# the rounding of losses near zero. In float32 rounding leaves 1e-4 and steps cross kinks, so only
# gross errors show.
_LIMITS = {
    torch.float64: _Limits(((1e-8, None), (3e-10, 0), (1e-6, 0), (1e-4, 2)), 1e-5, 1e-7, 1e-8),
    torch.float32: _Limits(((3e-3, None), (8e-4, 0), (1e-2, 0)), 1e-2, 1e-3, 1e-3),
}
# A deviation is the product's error if it exceeds this many times the change between differences of
# neighbouring steps. Rounding changes with the step by its ratio, truncation by its square, and a
# kink by either, so their changes are about as large as their deviations.
_ABOVE_CHANGE = 4.0
# If this share of the product stays unresolved, it is the error; with the second, nothing is known.
_RESOLVED, _UNRESOLVED = 1e-4, 1e-2
# How far from θ, as shares of each tensor's norm, to check if θ itself shows nothing.
_BESIDE = (0.05, 0.5)
# One-sided differences, whose rounding is larger, disagree if they differ by this many times the
# tolerance between a product and a central difference.
_JUMP = 10.0
# Asymmetry allowed for finite differences, above their change with the step.
_ASYMMETRIC = 1e-4
# The loss's curvature in the outputs is checked on few enough examples to have no more outputs than
# this, with at most this many products.
_OUTPUTS, _OUTPUT_PRODUCTS = 300_000, 40
# Rounding may leave about 1e-16 of the largest curvature below zero.
_CONVEX = 1e-10


@dataclass(frozen=True)
class SelfCheck:
    """Relative deviations of products from symmetry and from differences of gradients.

    `difference` is the largest share by which a product, or one parameter tensor's part of it, is
    wrong beyond what the differences leave open; it is largest in `tensor`. `unresolved` is the
    share of the product that they leave open. `product_error` is the error of a product with a unit
    vector, `trace_error` that of the trace. `convex` means that the loss is convex in the model's
    outputs. `unvouched` lists operations that may be the cause. `of` is what was checked. `nearby`
    means that differences show nothing at θ itself and were taken at a point near it.
    """

    asymmetry: float
    difference: float
    unresolved: float = 0.0
    tensor: str | None = None
    product_error: float = 0.0
    trace_error: float = 0.0
    convex: bool = False
    unvouched: tuple[str, ...] = ()
    of: Operator | Literal["finite-difference"] = "hessian"
    nearby: bool = False

    @property
    def passed(self) -> bool:
        """Whether the products are right as far as the check can see."""
        limit = _ASYMMETRIC if self.of == "finite-difference" else _LIMITS[torch.float64].asymmetry
        return self.asymmetry <= limit and self.difference <= _LIMITS[torch.float64].clear

    @property
    def compares(self) -> bool:
        """Whether products and differences agree, and to enough digits."""
        return self.passed and self.difference == 0.0 and self.unresolved <= _RESOLVED

    @property
    def resolved(self) -> bool:
        """Whether the check resolves anything; it does not if the gradient jumps at θ itself."""
        return self.unresolved <= _UNRESOLVED

    def worse(self, other: SelfCheck) -> SelfCheck:
        """The worse of both checks."""
        worst = self if self.difference >= other.difference else other
        return replace(
            worst,
            of=self.of,
            asymmetry=max(self.asymmetry, other.asymmetry),
            unresolved=max(self.unresolved, other.unresolved),
            product_error=max(self.product_error, other.product_error),
            trace_error=max(self.trace_error, other.trace_error),
            convex=self.convex or other.convex,
            nearby=self.nearby or other.nearby,
        )


def self_check(
    objective: Objective,
    theta: Tensor,
    *,
    operator: Operator = "hessian",
    mode: ProductMode = "auto",
    seed: int = 0,
    directions: int = 2,
    beside: bool = True,
) -> SelfCheck:
    """Compare products with central differences of first derivatives, and uᵀHv with vᵀHu.

    One direction is random, with an equal share of every parameter tensor, so that parts with a
    small gradient count; the second is the gradient, along which the curvature is large. Products
    are compared tensor by tensor. Finite differences have no reference, so only their symmetry is
    tested. It is meant for a float64 objective on a few examples.

    Args:
        objective: the mean loss.
        theta: θ (n,), where products are checked.
        operator: which matrix.
        mode: the Hessian's order of differentiation; "auto" tests double backward, with which every
            automatic choice agrees.
        seed: of the random direction.
        directions: 1 (the random one) or 2.
        beside: check near θ if differences at θ change with every step or with the side; a ReLU at
            exactly 0 then does not matter.

    Cost: a product and two gradients a direction, up to eight gradients if kinks or rounding need
    more steps; memory for ten copies of θ.
    """
    found = _checked(objective, theta, operator, mode, seed, directions)
    if found.of == "finite-difference":
        return found
    unclear = not found.difference or found.unresolved > _RESOLVED
    if beside and not found.compares and (unclear or _jumps(objective, theta, operator, seed)):
        for share in _BESIDE:
            point = _beside(objective, theta, share, seed)
            there = _checked(objective, point, operator, mode, seed, directions)
            if there.compares:
                found = replace(there, nearby=True)
                break
    if operator == "ggn":
        found = replace(found, convex=_convex(objective, theta, seed))
    return found


def _checked(
    objective: Objective,
    theta: Tensor,
    operator: Operator,
    mode: ProductMode,
    seed: int,
    directions: int,
) -> SelfCheck:
    """The check at one point."""
    limits = _LIMITS[theta.dtype]
    made = _operator(objective, theta, operator, mode)
    first = _random(objective.network, theta, seed)
    product = made @ first
    if isinstance(made, FiniteDifference):
        return _symmetry(made, first, product)
    found = SelfCheck(0.0, 0.0, of=operator)
    if directions > 1:
        second = _second(objective, theta, seed)
        other = made @ second
        scale = max(float(product.norm()), float(other.norm())) or 1.0
        gap = abs(float(second @ product) - float(first @ other)) / scale
        # The difference check covers the symmetry of JᵀBJ.
        found = replace(found, asymmetry=gap if operator == "hessian" else 0.0)
    made.release()
    difference = DIFFERENCES[operator]
    found = found.worse(_compare(objective, theta, difference, first, product, limits))
    if directions > 1:
        del product
        found = found.worse(_compare(objective, theta, difference, second, other, limits))
    if found.asymmetry <= limits.asymmetry:
        found = replace(found, asymmetry=0.0)  # rounding
    return found


def _jumps(objective: Objective, theta: Tensor, operator: Operator, seed: int) -> bool:
    """Whether derivatives jump at θ itself: one-sided differences disagree between the sides.

    Central differences do not show such a jump: they are the same for every step.
    """
    limits = _LIMITS[theta.dtype]
    step = limits.steps[0][0] * (1 + float(theta.norm()))
    difference, network = DIFFERENCES[operator], objective.network
    for vector in (_random(network, theta, seed), _second(objective, theta, seed)):
        # A central difference about a point half a step away is one-sided at θ.
        ahead, behind = (
            difference(objective, theta.add(vector, alpha=sign * step / 2), vector, step / 2)
            for sign in (1, -1)
        )
        scales = torch.maximum(_norms(network, ahead), _norms(network, behind))
        apart = _norms(network, ahead - behind)
        allowed = _JUMP * (limits.clear * scales + limits.floor * scales[-1])
        if bool((apart > allowed).any()):
            return True
    return False


def _operator(
    objective: Objective, theta: Tensor, operator: Operator, mode: ProductMode
) -> CurvatureOperator:
    if operator == "empirical-fisher":
        return Curvature(objective, theta, empirical_fisher)
    if operator != "hessian":
        return Curvature(objective, theta, gauss_newton)
    if mode == "finite-difference":
        return FiniteDifference(objective, theta)
    return Curvature(objective, theta, MODES["double-backward" if mode == "auto" else mode])


def _random(network: Network, theta: Tensor, seed: int) -> Tensor:
    """A random unit vector in which every parameter tensor has the same norm."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(network.size, generator=generator, dtype=torch.float64).to(theta)
    for part in network.unflatten(network.trained(vector)):
        part /= part.norm().clamp_min(1e-300) * math.sqrt(len(network.sizes))
    return vector


def _beside(objective: Objective, theta: Tensor, share: float, seed: int) -> Tensor:
    """A random point near θ, where no unit is exactly at its kink and the loss is not tiny."""
    found = _random(objective.network, theta, seed + 2)
    own = objective.network.unflatten(theta)
    for part, tensor in zip(objective.network.unflatten(found), own, strict=True):
        part *= share * (float(tensor.norm()) or part.numel() ** 0.5) / part.norm()
    return found.add_(theta)


def _second(objective: Objective, theta: Tensor, seed: int) -> Tensor:
    """The gradient's direction, or a random one if the gradient is zero."""
    _, vector = objective.gradient(theta)
    length = float(vector.norm())
    return vector.div_(length) if length > 0 else _random(objective.network, theta, seed + 1)


def _symmetry(made: FiniteDifference, vector: Tensor, product: Tensor) -> SelfCheck:
    """Compare ‖Hv‖ = uᵀHv with vᵀHu, where u is the direction of Hv.

    A gradient field that is not the gradient of a function has no symmetric derivative.
    """
    scale = float(product.norm())
    if scale == 0.0:
        return SelfCheck(0.0, 0.0, of="finite-difference")
    gap = abs(scale - float(vector @ (made @ (product / scale))))
    seen = gap if gap > _ABOVE_CHANGE * made.step_change else 0.0
    return SelfCheck(
        seen / scale,
        0.0,
        product_error=seen,
        trace_error=seen * made.size,
        of="finite-difference",
    )


def _compare(
    objective: Objective,
    theta: Tensor,
    difference: Difference,
    vector: Tensor,
    product: Tensor,
    limits: _Limits,
) -> SelfCheck:
    """Compare a product with differences of several steps; stops at the first that is close."""
    network, length = objective.network, 1 + float(theta.norm())
    own = _norms(network, product)
    offs, scales, traces = list[Tensor](), list[Tensor](), list[float]()
    changes: dict[tuple[int, int], Tensor] = {}
    kept: dict[int, Tensor] = {}
    for number, (share, neighbour) in enumerate(limits.steps):
        found = difference(objective, theta, vector, share * length)
        scales.append(torch.maximum(own, _norms(network, found)))
        found -= product
        offs.append(_norms(network, found).nan_to_num(nan=math.inf))
        traces.append(_trace_of(network, vector, found))
        near = limits.clear * scales[-1] + limits.floor * scales[-1][-1]
        if bool((offs[-1] <= near).all()):
            return SelfCheck(0.0, 0.0)
        if neighbour is not None:
            changes[neighbour, number] = _norms(network, found - kept[neighbour])
        kept[number] = found
        wanted = {other for _, other in limits.steps[number + 1 :]}
        kept = {place: each for place, each in kept.items() if place in wanted}
    return _verdict(network, torch.stack(offs), torch.stack(scales), traces, changes, limits)


def _verdict(
    network: Network,
    offs: Tensor,
    scales: Tensor,
    traces: Sequence[float],
    changes: Mapping[tuple[int, int], Tensor],
    limits: _Limits,
) -> SelfCheck:
    """The result for deviations (steps, tensors + 1) none of which is small.

    For each tensor, and for all together at the end, the step with the smallest deviation counts.
    """
    best = offs.min(0)
    places = range(offs.shape[1])
    steps = best.indices.tolist()
    change = torch.tensor(
        [min(float(each[i]) for pair, each in changes.items() if steps[i] in pair) for i in places],
        dtype=torch.float64,
    )
    scale = torch.stack([scales[steps[i], i] for i in places])
    off, whole = best.values, scale[-1]
    large = (off > limits.clear * scale) & (off > limits.floor * whole)
    real = large & (off > _ABOVE_CHANGE * change)
    shares = torch.where(real, off / scale.clamp_min(1e-300), 0.0)
    tensor = None
    if bool(real.any()):
        tensor = network.names[int(shares[:-1].argmax())] if bool(real[:-1].any()) else None
    return SelfCheck(
        0.0,
        float(shares.max()),
        float(off[-1] / whole) if bool(large[-1] & ~real[-1]) else 0.0,
        tensor,
        float(off[-1]),
        traces[steps[-1]],
    )


def _trace_of(network: Network, vector: Tensor, product: Tensor) -> float:
    """Σ |nⱼ·vⱼᵀ(Ev)ⱼ|/‖vⱼ‖² over the tensors: on average over random v at least |tr E|."""
    total = 0.0
    for part, image in zip(network.unflatten(vector), network.unflatten(product), strict=True):
        square = float(part.square().sum())
        if square > 0:
            total += abs(part.numel() * float((part * image).sum()) / square)
    return total


def _convex(objective: Objective, theta: Tensor, seed: int) -> bool:
    """Whether the loss's Hessian in the model's outputs has no negative eigenvalue."""
    loss = LossCurvature(objective, theta, _OUTPUTS)
    if loss.size < 2:
        return loss.size == 0 or float((loss @ torch.ones(1).to(theta))[0]) >= 0
    products = min(_OUTPUT_PRODUCTS, loss.size)
    found = eigsh(loss, 1, smallest=1, tolerance=1e-6, max_products=products, seed=seed)
    largest = max(float(found.largest[0].abs()), float(found.smallest[0].abs()))
    return float(found.smallest[0]) >= -_CONVEX * largest


def _norms(network: Network, vector: Tensor) -> Tensor:
    """The norm of each parameter tensor's part, and of the full vector at the end."""
    parts = torch.stack([part.norm() for part in network.unflatten(vector)])
    return torch.cat([parts, vector.norm()[None]]).double().cpu()
