"""The effect of measuring a subset of the data: errors from shards and halves of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpcli.curvature import CurvatureOperator, make_operator
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import SamplingStatus
from sharpcli.errors import counted
from sharpcli.linalg.eigsh import Krylov
from sharpcli.linalg.orthogonal import applied, dots, project_out
from sharpcli.linalg.trace import random_signs
from sharpcli.measures.context import Context
from sharpcli.objective.reliability import carriers, sampling_status, widened
from sharpcli.objective.shards import SHARDS, shards, share_left
from sharpcli.runtime.randomness import own_generator

__all__ = [
    "EigenvalueErrors",
    "Sampled",
    "degrees_of_freedom",
    "eigenvalue_errors",
    "error_of_mean",
    "gradient_errors",
    "means_by_shard",
    "sampled_of",
    "too_few",
    "trace_error",
    "with_sampling",
]

# Eigenvectors whose part of the trace is computed exactly, and random probes for the rest.
_FOLLOWED, _PROBES = 5, 4
# Shards of the losses, which cost little: few examples carry a small loss, and more shards show it.
_LOSS_SHARDS = 64
# Vectors to which an operator is applied at once.
_BLOCK = 2


# The least that a difference of variances keeps: below it the total is the better estimate.
_LEAST_KEPT = 1 / 8


@dataclass(frozen=True)
class Sampled:
    """A number's sampling error and its status; both None if all data were measured.

    `shards` are its first-order values on the shards, so that the errors of two checkpoints on one
    sample can be paired; `shift` is how far sampling moves the number on average, to second order,
    as far as `error` includes it.
    """

    error: float | None = None
    status: SamplingStatus | None = None
    shards: Sequence[float] | None = None
    shift: float | None = None


def with_sampling(scalar: Scalar, sampled: Sampled) -> Scalar:
    """The number with its sampling error, status and values by shard."""
    return replace(
        scalar,
        sampling_error=sampled.error,
        sampling_status=sampled.status,
        shards=sampled.shards,
        sampling_shift=sampled.shift,
    )


def sampled_of(context: Context, values: Sequence[float] | Tensor, shift: float = 0.0) -> Sampled:
    """The sampling error of a number from its values on the shards of the sample.

    For any measure: give the number's first-order value on each shard, in the order of
    `objective.shards.shards(context.objective, context.seed)`, and how far sampling moves it on
    average to second order. The error is the standard error over the shards and the shift, widened
    for few degrees of freedom. No error if all data, or too few examples for shards, were measured.

    Cost: a forward pass, if the losses are not known yet.
    """
    rows = context.objective.rows
    if not rows.sampled or rows.count < 2 * SHARDS:
        return _unknown(context)
    each = torch.as_tensor(values, dtype=torch.float64)
    first = float(each.var()) * share_left(context.objective) / len(each)
    return _sampled(context, math.hypot(math.sqrt(first), shift), each, each, shift)


def means_by_shard(context: Context) -> dict[str, list[float]]:
    """Loss and metrics of the measured split on each shard of a sample, linearised by weight.

    Empty if all data, or too few examples for shards, were measured. Cost: one forward pass.
    """
    rows = context.objective.rows
    if not rows.sampled or rows.count < 2 * SHARDS:
        return {}
    names: list[str] = []
    sums = []
    count = _LOSS_SHARDS if rows.count >= 2 * _LOSS_SHARDS else SHARDS
    for shard in shards(context.objective, context.seed, count):
        names, moments = shard.moments(context.theta)
        sums.append(moments[:, :2].double().cpu())
    parts = torch.stack(sums)
    total, weight = parts.sum(0).unbind(1)
    mean = total / weight
    values = mean + (parts[..., 0] - mean * parts[..., 1]) * len(parts) / weight
    return {name: values[:, index].tolist() for index, name in enumerate(names)}


@dataclass(frozen=True)
class EigenvalueErrors:
    """Sampling errors of the k largest eigenvalues, of the smallest, and of λ1/λ5 (relative)."""

    largest: Sequence[Sampled]
    smallest: Sampled = Sampled()
    ratio: Sampled = Sampled()


def eigenvalue_errors(context: Context, krylov: Krylov, k: int) -> EigenvalueErrors:
    """Sampling errors of λ1 … λk and λmin; `krylov` holds Ritz vectors, largest first.

    First order: the standard error over shards of vᵢᵀH_s vᵢ. Second order: a sampled matrix is the
    true one plus noise, which pushes λ1 up and λmin down by Σⱼ Var(vⱼᵀH_s vᵢ)/(λᵢ − λⱼ). The error
    includes this push, and is widened because few shards determine it. No errors if all data, or
    too few, were measured. Cost: k + 1 products over all shards together.
    """
    if not _enough(context, "the eigenvalues"):
        unknown = _unknown(context)
        return EigenvalueErrors([unknown] * k, unknown, unknown)
    basis, values = krylov.basis, krylov.projected.diagonal().double()
    count = len(values)
    wanted = [*range(min(k, count)), *([count - 1] if count > k and context.lowest else [])]
    coordinates, norms = [], []
    for operator in _operators(context):
        for images, _ in _applied_to(operator, [basis[index] for index in wanted]):
            coordinates.append((images @ basis.T).double().cpu())
            norms.append(images.square().sum(1).double().cpu())
    inside = torch.cat(coordinates).reshape(SHARDS, len(wanted), count)
    whole = torch.cat(norms).reshape(SHARDS, len(wanted))
    factor = share_left(context.objective) / SHARDS
    own = torch.stack([inside[:, i, index] for i, index in enumerate(wanted)], dim=1)
    context.quotients = own[:, :k]
    first = own.var(0) * factor
    mixed = inside.var(0) * factor
    # The part outside the basis's span, by Pythagoras; its mean is the residual, which is
    # negligible.
    beyond = (whole - inside.square().sum(2)).sum(0).clamp_min(0) / (SHARDS - 1) * factor
    errors = []
    for i, index in enumerate(wanted):
        gaps = values[index] - values
        mixed[i, index] = 0.0
        push = float(_repulsion(gaps, mixed[i]).sum() + _repulsion(values[index], beyond[i]))
        error = math.hypot(float(first[i]) ** 0.5, push)
        off = (inside[:, i] - inside[:, i].mean(0)).square()
        off[:, index] = 0.0
        outside = (whole[:, i] - inside[:, i].square().sum(1)).clamp_min(0)
        # Pseudo-values of the jackknife: vᵢ fits the sample, so that vᵢᵀH_s vᵢ alone scatters more
        # than λi; leaving a shard out changes λi to second order too, by the same formula.
        left_out = (SHARDS - 1) ** 2
        pushes = _repulsion(gaps, off / left_out).sum(1)
        pushes += _repulsion(values[index], outside / left_out)
        pseudo = own[:, i] - (SHARDS - 1) * pushes
        errors.append(_sampled(context, error, own[:, i], pseudo, push))
    ratio = Sampled()
    if k >= 5 and count >= 5 and float(values[0]) and float(values[4]):
        shares = own[:, 0] / values[0] - own[:, 4] / values[4]
        ratio = _sampled(context, float(shares.var() * factor) ** 0.5, shares, 1 + shares)
    return EigenvalueErrors(errors[:k], errors[-1] if len(wanted) > k else Sampled(), ratio)


def trace_error(context: Context, krylov: Krylov) -> Sampled:
    """Sampling error of tr H: the standard error over shards of tr H_s.

    A shard's trace is Σ vᵀH_s v over the first eigenvectors and gᵀPH_sPg over random signs g, the
    same for all shards, with P the projection off these eigenvectors. The probes' own scatter
    between shards is subtracted by a two-way analysis of variance, as far as the remaining variance
    is better known than the total. Cost: 4 products over all shards together, or 5 if no
    eigenvalues were measured before.
    """
    if not _enough(context, "the trace"):
        return _unknown(context)
    followed = context.quotients
    first = _first_vectors(krylov, _FOLLOWED if followed is None else followed.shape[1])
    generator = own_generator("sampling error of the trace", context.seed)
    probes = random_signs(_PROBES, krylov.basis, generator).to(torch.int8)
    along, probed_by_shard = [], []
    for operator in _operators(context):
        if followed is None:
            along.append(_quotients(operator, first))
        parts = [_quotients(operator, _off(each, first)) for each in torch.split(probes, _BLOCK)]
        probed_by_shard.append(torch.cat(parts))
    known = (torch.stack(along) if followed is None else followed).sum(1)
    probed = torch.stack(probed_by_shard)
    rest = probed.mean(1)
    noise = probed - rest[:, None] - probed.mean(0) + probed.mean()
    scatter = float(noise.square().sum() / ((SHARDS - 1) * (_PROBES - 1)) / _PROBES)
    totals = known + rest
    whole = float(totals.var())
    factor = share_left(context.objective) / SHARDS
    found = _sampled(context, math.sqrt(whole * factor), totals, totals)
    if not whole:
        return found
    # Satterthwaite's degrees of freedom of a difference of two variances.
    kept = max(whole - scatter, _LEAST_KEPT * whole)
    spread = whole**2 / degrees_of_freedom(totals, context.carriers)
    spread += scatter**2 / ((SHARDS - 1) * (_PROBES - 1))
    less = widened(math.sqrt(kept * factor), kept**2 / spread)
    return replace(found, error=min(less, found.error or 0.0))


def gradient_errors(context: Context) -> dict[str, Sampled]:
    """Sampling errors of the gradient's 2-norm, 1-norm and largest entry: `norm`, `l1`, `max`.

    Noise adds to a norm: at a minimum of all the data a subset's gradient is all noise. So the
    error combines the first-order one over shards with the decrease when each entry's variance is
    subtracted from its square (for ‖∇L‖², the total and its standard error). Cost: one gradient and
    four vectors.
    """
    if not _enough(context, "the gradient"):
        return dict.fromkeys(("norm", "l1", "max"), _unknown(context))
    _, whole = context.value_and_gradient
    norm = float(dots(whole[None], whole[None])) ** 0.5
    towards, sides = whole / norm if norm else whole, whole.sign()
    squares = torch.zeros_like(whole)
    largest = int(whole.abs().argmax())
    along: dict[str, list[float]] = {"norm": [], "l1": [], "max": [], "square": []}
    for shard in shards(context.objective, context.seed):
        off = shard.gradient(context.theta)[1] - whole
        along["norm"].append(float(dots(off[None], towards[None])))
        along["l1"].append(float(dots(off[None], sides[None])))
        along["max"].append(float(off[largest] * sides[largest]))
        along["square"].append(float(dots(off[None], off[None])))
        squares += off.square()
    factor = share_left(context.objective) / SHARDS
    variance = squares * (factor / (SHARDS - 1))
    first = {name: (statistics.variance(along[name]) * factor) ** 0.5 for name in ("norm", "l1")}
    # For normal noise the squared norm varies as much as over shards, scaled.
    noise = float(variance.double().sum()) + statistics.stdev(along["square"]) * factor
    first["max"] = float(variance[largest]) ** 0.5
    cleared = (whole.square() - variance).clamp_min(0).sqrt()
    added = {
        "norm": norm - max(0.0, norm**2 - noise) ** 0.5,
        "l1": float((whole.abs() - cleared).double().sum()),
        "max": float(whole[largest].abs() - cleared.max()),
    }
    spread = {name: torch.tensor(each, dtype=torch.float64) for name, each in along.items()}
    values = {
        "norm": norm + spread["norm"],
        "l1": float(whole.abs().double().sum()) + spread["l1"],
        "max": float(whole[largest].abs()) + spread["max"],
    }
    spread["max"] = spread["norm"]
    return {
        name: _sampled(
            context, math.hypot(first[name], added[name]), spread[name], values[name], added[name]
        )
        for name in first
    }


def error_of_mean(context: Context, what: str, values: Callable[[], Tensor]) -> Sampled:
    """The sampling error of a number that is the mean of its `values` (16,), one a shard.

    No error if all data, or too few, were measured; `what` is measured, for the warning then. The
    shards are those of `shards(context.objective, context.seed)`.
    """
    if not _enough(context, what):
        return _unknown(context)
    return sampled_of(context, values().double().cpu())


def degrees_of_freedom(values: Tensor, carried: float) -> float:
    """Degrees of freedom of a variance over shards: one fewer than they, less if few dominate.

    Satterthwaite's 2·count/(κ − 1) with the kurtosis κ of the values (count,), and the same with
    the number of examples that `carried` the losses, since sums over shards hide heavy examples.
    """
    return min(len(values) - 1.0, 2 * (_carried(values) or math.inf), 2 * carried)


def _sampled(
    context: Context, error: float, spread: Tensor, values: Tensor, shift: float = 0.0
) -> Sampled:
    """A widened standard error from the `spread` over shards, with its reliability.

    `values` are the number's own on the shards.
    """
    error = widened(error, degrees_of_freedom(spread, context.carriers))
    status = sampling_status(context.objective.rows.doubt, context.carriers)
    return Sampled(error, status, values.tolist(), shift or None)


def _carried(values: Tensor) -> float:
    """How many shards carry the variance of their values (count,)."""
    off = values.double() - values.double().mean()
    off = off / (float(off.abs().max()) or 1.0)
    return carriers(float(off.square().sum()), float(off.pow(4).sum()), len(values))


def _unknown(context: Context) -> Sampled:
    """No error: all data were measured, or too few examples for an error."""
    return Sampled(None, SamplingStatus.UNRELIABLE if context.objective.rows.sampled else None)


def too_few(count: int) -> str:
    """The beginning of a sentence: that many examples are too few."""
    return f"{counted(count, 'example')} {'is' if count == 1 else 'are'} too few"


def _enough(context: Context, what: str) -> bool:
    """Whether a subset was measured that is large enough to divide; warns if it is too small."""
    rows = context.objective.rows
    if not rows.sampled:
        return False
    if rows.count < 2 * SHARDS:
        context.warnings.append(
            f"{too_few(rows.count)} to tell the sampling error of {what}: take {2 * SHARDS} or more"
        )
        return False
    return True


def _operators(context: Context) -> Iterator[CurvatureOperator]:
    """Each shard's own curvature, one at a time."""
    for shard in shards(context.objective, context.seed):
        operator = make_operator(
            shard, context.theta, context.settings.curvature, graphs=context.budget.graphs
        )
        try:
            yield operator
        finally:
            operator.release()


def _repulsion(gap: Tensor, variance: Tensor) -> Tensor:
    """How far an entry of this variance pushes an eigenvalue from one that is `gap` below it.

    variance/gap if that is small, never more than a standard deviation: √(gap²/4 + variance) −
    |gap|/2, from the eigenvalue of the two by two matrix.
    """
    push = (gap.square() / 4 + variance).sqrt() - gap.abs() / 2
    return torch.where(gap < 0, -push, push)


def _first_vectors(krylov: Krylov, count: int) -> Tensor:
    """The first Ritz vectors (r, n): rows of the basis if it has been turned into them."""
    if bool((krylov.projected == torch.diag(krylov.projected.diagonal())).all()):
        return krylov.basis[:count]
    _, turn, _ = krylov.ritz()
    found: Tensor = turn[:, :count].T.to(krylov.basis) @ krylov.basis
    return found


def _off(probes: Tensor, rows: Tensor) -> Tensor:
    """Random signs (b, n) without their components along orthonormal rows."""
    found = probes.to(rows)
    project_out(found, rows)
    return found


def _quotients(operator: CurvatureOperator, rows: Tensor) -> Tensor:
    """vᵀHv for each row v, float64."""
    found = [(images * own).sum(1) for images, own in _applied_to(operator, list(rows))]
    return torch.cat(found).double().cpu()


def _applied_to(operator: CurvatureOperator, rows: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The operator times a few rows at a time, with these rows, to avoid holding all."""
    for start in range(0, len(rows), _BLOCK):
        own = torch.stack(rows[start : start + _BLOCK])
        yield applied(operator, own), own
