"""What a run's arithmetic leaves in losses, gradients and products, measured on some rows."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ..data import Rows
from ..objective import Objective
from ..randomness import own_generator
from ..settings import CurvatureSettings
from .build import make_operator
from .precision import in_precision

__all__ = ["Rounding"]

# Rows that are computed in both precisions: this share of the data, or as many as these numbers of
# parameters times rows allow, which take well below a second, or four. On 4,000 images and
# 784-512-512-10 six products in both precisions then cost half a gradient.
_SHARE, _SMALL, _FEWEST = 64, 5e7, 4
# Rounding is proportional to the machine epsilon: a float64 run's is that of float32 by the ratio
# of the two, and this many times as much is allowed for its being another sample of it.
_SCALED = 4.0
# Power iterations that come near the largest eigenvalue, whichever its sign.
_ITERATIONS = 4
# No number is better known than to a few of the last places in which sums are taken.
_LAST_PLACES = 4 * torch.finfo(torch.float64).eps


class Rounding:
    """Differences between a run's precision and a better one at θ, on a sample of the rows.

    A run in float32 or bfloat16 is compared with float64. A float64 run is compared with float32,
    and the difference scaled by the machine epsilons. `known` is false where the model runs in one
    precision only; nothing is then measured.
    """

    def __init__(
        self, objective: Objective, theta: Tensor, settings: CurvatureSettings, seed: int = 0
    ) -> None:
        self._run, self._theta, self._settings = objective, theta, settings
        self._seed = seed

    @cached_property
    def _pair(self) -> tuple[Objective, Objective, float] | None:
        """The run's objective on the rows, the other precision's, and the factor of differences."""
        run = self._run
        wide = run.network.compute == torch.float64
        rows = _chosen(run.rows, run.size, self._seed)
        own = Objective(run.network, rows, run.fixed, batch_size=rows.count, alone=True)
        other = in_precision(own, torch.float32 if wide else torch.float64, batch_size=rows.count)
        if other is None:
            return None
        ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        return own, other, _SCALED * ratio if wide else 1.0

    @property
    def known(self) -> bool:
        """Whether the model runs in another precision too."""
        return self._pair is not None

    @cached_property
    def gradient(self) -> tuple[float, Tensor]:
        """How far off the loss and each entry of the gradient (n,) are; 0 where not known.

        Cost: two gradients of the rows.
        """
        if self._pair is None:
            return 0.0, torch.zeros_like(self._theta)
        own, there, factor = self._pair
        value, found = own.gradient(self._theta)
        other_value, other = there.gradient(self._theta.to(there.network.dtype))
        wide = torch.float64 if found.device.type != "mps" else found.dtype
        off = factor * (found.to(wide) - other.to(wide)).abs()
        return _at_least(factor * abs(value - other_value), value), off + _LAST_PLACES * found.abs()

    @cached_property
    def loss(self) -> float:
        """How far off the loss is; 0 where not known. Cost: two forward passes of the rows."""
        if self._pair is None:
            return 0.0
        own, there, factor = self._pair
        other = there.loss(self._theta.to(there.network.dtype))
        value = own.loss(self._theta)
        return _at_least(factor * abs(value - other), value)

    def products(self, vectors: Tensor) -> Tensor:
        """What is off in the product with each of `vectors` (b, n), as rows; 0 where not known.

        Cost: two graphs and 2b products of the rows.
        """
        if self._pair is None or not len(vectors):
            return torch.zeros_like(vectors)
        own, there, factor = self._pair
        settings, images = self._double_backward(), []
        for objective in (own, there):
            kind = objective.network.dtype
            operator = make_operator(objective, self._theta.to(kind), settings)
            rows = vectors.to(self._theta.device, kind)
            images.append((operator @ rows.T).T.to("cpu", torch.float64))
            operator.release()
        difference: Tensor = factor * (images[0] - images[1])
        return difference

    @cached_property
    def of_norm(self) -> float:
        """How far off a product is where the operator is largest, as a share of its norm.

        Seen along what a few power iterations leave of a random vector. Cost: 6 products of the
        rows and three graphs.
        """
        if self._pair is None:
            return 0.0
        own, _, _ = self._pair
        operator = make_operator(own, self._theta, self._double_backward())
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
        return off / norm if norm > off else 1.0 if off else 0.0

    def _double_backward(self) -> CurvatureSettings:
        """The settings with the order of differentiation that all models have."""
        settings = self._settings
        if settings.operator == "hessian" and settings.hvp == "auto":
            return replace(settings, hvp="double-backward")
        return settings


def _at_least(off: float, value: float) -> float:
    return max(off, _LAST_PLACES * abs(value))


def _chosen(rows: Rows, size: int, seed: int) -> Rows:
    """The rows on which precisions are compared, drawn by the seed; all where that is cheap."""
    if rows.fixed_batch:  # an example's loss is defined in its batch only
        return rows.head(rows.fixed_batch)
    count = rows.count
    wanted = min(count, max(count // _SHARE, int(_SMALL / size), _FEWEST))
    if wanted == count:
        return rows
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + 3))
    return rows.take(order[:wanted].sort().values)
