"""The rounding error of a run's losses, gradients and products, measured on some rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sharpcli.curvature.make_operator import make_operator
from sharpcli.linalg.trace import random_signs
from sharpcli.objective.objective import Objective
from sharpcli.objective.outputs import tensors_of
from sharpcli.objective.reliability import outstanding
from sharpcli.objective.rows import Rows
from sharpcli.runtime.randomness import own_generator
from sharpcli.settings.curvature import CurvatureSettings

__all__ = ["Rounding"]

# Rows that are computed in both precisions: this share of the data, or as many as these numbers of
# parameters times rows allow, which take well below a second, but at least four. On 4,000 images
# and 784-512-512-10 the eigenvectors' products in both precisions then cost less than a gradient.
_SHARE, _SMALL, _FEWEST = 128, 2e7, 4
# Bytes of their activations at the most: they are one batch, in both precisions.
_BYTES = 2**27
# Rounding is proportional to the machine epsilon, so the error of a float64 run is that of float32
# times the ratio of the two. This factor allows for the variation between rounding samples.
_SCALED = 4.0
# Rows to add that stand out by a target or their inputs' norm.
_OUTSTANDING = 16
# Power iterations that approach the eigenvalue of largest magnitude.
_ITERATIONS = 4
# Products and gradients pass through factors that underflow long before the results do. The error
# allowed is this many times the least normal number, which matters below 1e-30 in float32.
_UNDERFLOW = 1e8
# No number is known better than to a few last places of the sums' dtype.
_LAST_PLACES = 4 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class _Other:
    """The run's objective `own` on some rows, and the objective `there` at `theta` to compare with.

    `value` is the loss there. The differences times `factor` estimate the run's errors.
    """

    own: Objective
    there: Objective
    theta: Tensor
    value: float
    factor: float


class Rounding:
    """Differences between a run's precision and a better one at θ, on a sample of the rows.

    A run in float32 or bfloat16 is compared with float64. A float64 run is compared with float32,
    and the difference is scaled by the machine epsilons. If the model has only one precision, the
    run is compared with itself at parameters changed in the last place.
    """

    def __init__(
        self, objective: Objective, theta: Tensor, settings: CurvatureSettings, seed: int = 0
    ) -> None:
        self._run, self._theta, self._settings = objective, theta, settings
        self._seed = seed

    @cached_property
    def _others(self) -> list[_Other]:
        """Comparisons on random rows, and on these plus outstanding rows if there are few of those.

        A few rows may dominate a sum, and then determine what all others lose when added to it: a
        random walk or a drift. Fewer rows are another sample of it, with as large a share or
        larger.
        """
        rows = self._run.rows
        drawn = _chosen(rows, self._run.size, self._seed, _BYTES / max(self._run.saved_bytes, 1))
        if drawn is None:
            few = rows.head(rows.fixed_batch) if rows.fixed_batch else rows
            return [self._compared(few, 1.0)]
        others = [self._compared(rows.take(drawn), 1.0)]
        if rows.sliceable:
            far = outstanding(rows.columns, rows.count, len(drawn), _OUTSTANDING)
            if len(far):
                both = torch.tensor(sorted({*drawn.tolist(), *far.tolist()}))
                others.append(self._compared(rows.take(both), _SCALED))
        return others

    def _compared(self, rows: Rows, share: float) -> _Other:
        """The objective to compare with on these rows; differences count `share` times."""
        run = self._run
        wide = run.network.compute == torch.float64
        own = Objective(run.network, rows, run.fixed, batch_size=rows.count, alone=True)
        ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        factor = share * (_SCALED * ratio if wide else 1.0)
        other = own.try_in(
            torch.float32 if wide else torch.float64,
            self._theta,
            lambda there, theta: _Other(own, there, theta, there.loss(theta), factor),
            batch_size=rows.count,
        )
        if other is not None:
            return other
        signs = random_signs(1, self._theta[None], own_generator("last places", self._seed))[0]
        last = torch.finfo(run.network.compute).eps * self._theta.abs()
        near = self._theta + signs * last
        return _Other(own, own, near, own.loss(near), share * _SCALED)

    @cached_property
    def gradient(self) -> tuple[float, Tensor]:
        """The errors of the loss and of each entry of the gradient (n,).

        Cost: two gradients of the rows.
        """
        value, off = 0.0, torch.full((self._run.size,), self._underflow, dtype=torch.float64)
        for other in self._others:
            own_value, found = other.own.gradient(self._theta)
            other_value, there = other.there.gradient(other.theta)
            value += _off_loss(own_value, other_value, other.factor)
            off += _off(found, there, other.factor).abs()
            if other is self._others[0]:
                off += _LAST_PLACES * found.abs().to(off)
                value = max(value, _LAST_PLACES * abs(own_value))
        return value, off + self._of_slopes().abs()

    def _of_slopes(self) -> Tensor:
        """The gradient's error (n,) from the last places of the loss's slopes in the outputs.

        Near a minimum these slopes are differences (softmax − target) that all precisions round
        alike, because the loss is computed in float64. Cost: a gradient of the rows.
        """
        own, generator = self._others[0].own, own_generator("slopes", self._seed)
        leaves, network = own.leaves(self._theta), own.network
        with network.arithmetic():
            outputs = network.outputs(leaves, own.fixed, own.rows.batch)
            outs = [each for each in tensors_of(outputs) if each.requires_grad]
            if not outs:
                return torch.zeros(own.size, dtype=torch.float64)
            _, weight = network.losses(outputs, own.rows.batch, own.rows.count)
            places = [_signs(out.detach(), generator) * (1 + out.detach().abs()) for out in outs]
            slopes = torch.autograd.grad(
                outs, leaves, places, allow_unused=True, materialize_grads=True
            )
        flat = torch.cat([slope.reshape(-1) for slope in slopes]).to("cpu", torch.float64)
        return _LAST_PLACES * flat / max(abs(float(weight.sum())), 1e-300)

    @cached_property
    def loss(self) -> float:
        """The error of the loss. Cost: two forward passes of the rows."""
        value = 0.0
        for other in self._others:
            own_value = other.own.loss(self._theta)
            value += _off_loss(own_value, other.value, other.factor)
            if other is self._others[0]:
                value = max(value, _LAST_PLACES * abs(own_value))
        return value

    def products(self, vectors: Tensor) -> Tensor:
        """The errors of the products with each of `vectors` (b, n), as rows in float64.

        Cost: two graphs and 2b products of the rows.
        """
        if not len(vectors):
            return torch.zeros_like(vectors, dtype=torch.float64)
        off = torch.full(vectors.shape, self._underflow, dtype=torch.float64)
        for other in self._others:
            images = []
            for objective, theta in ((other.own, self._theta), (other.there, other.theta)):
                operator = make_operator(objective, theta, self._double_backward())
                rows = vectors.to(theta.device, theta.dtype)
                images.append((operator @ rows.T).T)
                operator.release()
            off += _off(images[0], images[1], other.factor)
        return off

    def combined(self, vectors: Tensor, values: Tensor) -> Tensor:
        """The error of each Ritz `values` (b,) of unit rows, beyond their `products`.

        A solver multiplies its basis and combines the images into those of the unit rows v.
        `products` of v itself then understates the error: if v is a coordinate axis, which bfloat16
        holds exactly, it is zero, but the basis was rounded on its way in and its images on their
        way out. For each entry that is a random share of up to half a machine epsilon. Along v it
        leaves at most λ·ε·√Σvᵢ⁴, four standard deviations: small if v spreads over many entries.
        Across v the error is that of a random vector. It is zero if vectors are not rounded. Cost:
        as `products` of one.
        """
        network = self._run.network
        if network.compute == network.dtype or not len(vectors):
            return torch.zeros(len(vectors), dtype=torch.float64)
        spread = vectors.to("cpu", torch.float64).pow(4).sum(1).sqrt()
        along = torch.finfo(network.compute).eps * spread * values.to(spread)
        generator = own_generator("combined products", self._seed)
        drawn = torch.randn(1, self._run.size, generator=generator).to(self._theta)
        return torch.hypot(along, self.products(drawn / drawn.norm()).norm())

    @cached_property
    def of_norm(self) -> float:
        """The error of a product where the operator is largest, as a share of its norm.

        Measured along a random vector after a few power iterations. Cost: 6 products of the rows
        and three graphs.
        """
        operator = make_operator(self._others[0].own, self._theta, self._double_backward())
        generator = own_generator("power iteration", self._seed)
        vector = torch.randn(self._run.size, generator=generator).to(self._theta)
        for _ in range(_ITERATIONS):
            image = operator @ vector
            norm = float(image.norm())
            if not 0 < norm < math.inf:
                break
            vector = image / norm
        operator.release()
        unit = vector / vector.norm()
        off = float(self.products(unit[None]).norm())
        off = math.hypot(off, float(self.combined(unit[None], torch.tensor([norm]))))
        return off / norm if norm > off else 1.0 if off else 0.0

    @property
    def _underflow(self) -> float:
        """What underflow may remove from an entry of a gradient or a product."""
        return _UNDERFLOW * torch.finfo(self._run.network.compute).tiny

    def _double_backward(self) -> CurvatureSettings:
        """The settings with the order of differentiation that works for all models."""
        settings = self._settings
        if settings.operator == "hessian" and settings.hvp == "auto":
            return replace(settings, hvp="double-backward")
        return settings


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs in a tensor's shape."""
    return random_signs(1, like.reshape(1, -1), generator).view(like.shape)


def _off_loss(value: float, there: float, factor: float) -> float:
    """The difference of two losses times the factor; all of it if the other is not finite."""
    return factor * (abs(value - there) if math.isfinite(there) else abs(value))


def _off(found: Tensor, there: Tensor, factor: float) -> Tensor:
    """The difference times the factor, in float64 on the CPU.

    An entry that is not finite in the other precision counts as completely wrong.
    """
    found, there = found.to("cpu", torch.float64), there.to("cpu", torch.float64)
    return factor * torch.where(torch.isfinite(there), found - there, found)


def _chosen(rows: Rows, size: int, seed: int, most: float) -> Tensor | None:
    """Indices of the rows on which precisions are compared, `most` or so, drawn by the seed.

    None means all rows, if that is cheap, or the first batch, if batches are fixed.
    """
    count = rows.count
    wanted = min(count, max(min(max(count // _SHARE, int(_SMALL / size)), int(most)), _FEWEST))
    if wanted == count or rows.fixed_batch:
        return None
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + 3))
    return order[:wanted].sort().values
