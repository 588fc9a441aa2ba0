"""Curved paths of low loss between two minima, with one trained bend (Garipov et al. 2018).

φ(t), t ∈ [0, 1], leads from A to B through the bend C: the quadratic Bézier curve
(1−t)²A + 2t(1−t)C + t²B, or the chain of the two segments AC and CB. C minimises the mean of the
training loss L(φ(t)) over uniform t, by stochastic gradients dφ/dC · ∇L(φ(t)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import SharpError, setting
from sharpcli.landscape.frame import weighted_sum
from sharpcli.landscape.points.normalisations import OfBatches, look
from sharpcli.objective.objective import Objective
from sharpcli.runtime.progress import Progress, silent
from sharpcli.settings.exploring import PathKind, PathSettings

__all__ = ["Path", "path_weights", "train_path"]

# Adam's own defaults (Kingma & Ba 2015).
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
# The fractional parts of u, u + g, u + 2g, … cover [0, 1] most evenly for the golden ratio's g.
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Path:
    """A curve from A to B with the bend C (n,), trained for `steps` steps (one gradient each)."""

    kind: PathKind
    bend: Tensor
    steps: int

    def point(self, t: float, theta_a: Tensor, theta_b: Tensor) -> Tensor:
        """φ(t) (n,) between A and B (n,); φ(0) = A and φ(1) = B bit for bit."""
        return _point(self.kind, t, torch.stack([theta_a, self.bend, theta_b]))


def path_weights(kind: PathKind, t: float) -> tuple[float, float, float]:
    """The weights of A, the bend and B in φ(t); they add up to 1, and the bend's is dφ/dC."""
    if kind == "bezier":
        return (1 - t) ** 2, 2 * t * (1 - t), t**2
    if t <= 0.5:
        return 1 - 2 * t, 2 * t, 0.0
    return 0.0, 2 * (1 - t), 2 * t - 1


def train_path(
    objective: Objective,
    theta_a: Tensor,
    theta_b: Tensor,
    settings: PathSettings,
    progress: Progress = silent,
) -> Path:
    """Train the bend of a path between A and B (n,) on the objective's rows, the training data.

    The bend starts half-way between A and B; if these are equal, it stays there. Every step takes
    one t and one batch for an Adam step. The rate starts at `lr` times the root mean square
    distance ‖B−A‖/√n, so that one default suits networks of every width and scale, and falls to
    zero along a cosine. Each t is uniform. Successive t are evenly spread (an additive recurrence
    with the golden ratio from a random start), which lowers the variance.

    Batch-normalisation layers use the batch's statistics; the rest runs in the objective's mode.
    The objective's buffers do not change, so the caller computes the running statistics at a point.
    All draws come from `seed`, none from the global state.

    Raises:
        SharpError: the loss is not finite, or batch statistics would come from a single example.

    Cost: `steps` gradients of `batch_size` examples, and memory for seven vectors (n,).
    """
    anchors = torch.stack([theta_a, (theta_a + theta_b) / 2, theta_b])
    bend = anchors[1]  # a view: steps move it in place
    if torch.equal(theta_a, theta_b):
        return Path(settings.kind, theta_a.clone(), 0)
    count, step = objective.rows.count, 0
    size = min(settings.batch_size, count)
    norms = look(objective, theta_a)
    normalised = bool(norms.moving)
    if normalised and size < 2:
        raise SharpError(
            "the path cannot be trained: batch normalisation needs batches of two examples or more",
            f"use a larger {setting('path.batch_size')}, or {setting('samples')}",
        )
    at_once = objective.batch_size  # a batch may be processed in parts, see `fixed_batch`
    fixed = {name: tensor.clone() for name, tensor in objective.fixed.items()}
    scale = float((theta_b - theta_a).norm()) / math.sqrt(theta_a.numel())
    first, second = torch.zeros_like(bend), torch.zeros_like(bend)
    generator = torch.Generator().manual_seed(settings.seed)
    start = float(torch.rand((), generator=generator, dtype=torch.float64))
    batches = _batches(count, size, generator)
    with OfBatches(fixed, norms.frozen):
        for step in range(settings.steps):
            t = (start + step * _GOLDEN) % 1.0
            rows = objective.rows.take(next(batches))
            if normalised:  # so that the statistics are those of the full batch
                rows = rows.with_fixed_batch(size)
            sample = Objective(objective.network, rows, fixed, batch_size=at_once)
            loss, gradient = sample.gradient(_point(settings.kind, t, anchors))
            if not math.isfinite(loss):
                diverged = _not_finite(f"the loss is {loss}", step + 1, settings)
                raise diverged
            gradient *= path_weights(settings.kind, t)[1]
            rate = settings.lr * scale * (1 + math.cos(math.pi * step / settings.steps)) / 2
            _adam_step(bend, gradient, first, second, rate, step + 1)
            progress(step + 1, settings.steps)
    if not bool(torch.isfinite(bend).all()):
        diverged = _not_finite("the bend is not finite", settings.steps, settings)
        raise diverged
    return Path(settings.kind, bend.clone(), settings.steps)


def _point(kind: PathKind, t: float, anchors: Tensor) -> Tensor:
    """φ(t) (n,) of the anchors A, C, B (3, n)."""
    return weighted_sum(anchors, torch.tensor(path_weights(kind, t), dtype=torch.float64))


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of exactly `size` indices of `count` rows, shuffled in every epoch."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].reshape(-1, size)


def _adam_step(
    bend: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: float, step: int
) -> None:
    """Move the bend in place. Written out, since importing torch.optim takes a second."""
    first.lerp_(gradient, 1 - _BETAS[0])
    second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
    root = (second / (1 - _BETAS[1] ** step)).sqrt_().add_(_EPSILON)
    bend.addcdiv_(first, root, value=-rate / (1 - _BETAS[0] ** step))


def _not_finite(what: str, step: int, settings: PathSettings) -> SharpError:
    if step == 1:
        return SharpError(
            f"the path cannot be trained: {what} on the straight line where it starts",
            f"leave {setting('path')} out to see where the line is not finite, or try "
            f"{setting('dtype', 'float64')}",
        )
    return SharpError(
        f"the training of the path diverged: {what} at step {step} of {settings.steps}",
        f"use a smaller {setting('path.lr')} (it is {settings.lr:g})",
    )
