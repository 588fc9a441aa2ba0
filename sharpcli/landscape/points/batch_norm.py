"""Compute a network's running statistics at a point between checkpoints.

Normalisations are observed at the calls of `batch_norm` and `instance_norm`, by the buffers passed
to them. This covers layers that are called twice, layers that change their input first, and buffers
that are passed to `functional.batch_norm` without a layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from sharpcli.errors import SharpError, setting
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective, accumulator

__all__ = [
    "Call",
    "EnoughError",
    "Given",
    "Normalisations",
    "OfBatches",
    "Watch",
    "batch_normalised",
    "batch_statistics",
    "look",
    "recalibration_rows",
    "statistics_of_layers",
]

# Up to this many bytes of activations (counted as for a backward pass, so several times what is
# held at once), statistics are computed in one forward pass; beyond, by default, on as many
# examples as fit. A constant, not a share of free memory: the number of examples affects results.
_ONE_PASS_BYTES = 4 * 2**30
# Rows of the pass that finds the normalisations.
_LOOKED_AT = 2
_NAMED_AS_STATISTICS = re.compile(r"(?:.*[._])?(?:running|moving)_(?:mean|avg|var|variance|std)")

_PYTHON = ("input", "running_mean", "running_var", "weight", "bias")
_NATIVE = ("input", "weight", "bias", "running_mean", "running_var")
# Normalisation → its arguments' names (the sixth says whether it uses the input's own statistics),
# and whether it normalises each example by itself.
_FUNCTIONS: dict[Any, tuple[tuple[str, ...], bool]] = {
    functional.batch_norm: ((*_PYTHON, "training", "momentum", "eps"), False),
    functional.instance_norm: ((*_PYTHON, "use_input_stats", "momentum", "eps"), True),
    torch.batch_norm: ((*_NATIVE, "training", "momentum", "eps", "cudnn_enabled"), False),
    torch.instance_norm: ((*_NATIVE, "use_input_stats", "momentum", "eps", "cudnn_enabled"), True),
}


@dataclass(frozen=True)
class Call:
    """A call of a normalisation that reads running statistics: the names of their buffers.

    With `instances`, it normalises each example by itself.
    """

    mean: str
    variance: str
    instances: bool

    @property
    def layer(self) -> str:
        """The layer that has the buffers."""
        return self.mean.rpartition(".")[0] or self.mean


@dataclass(frozen=True)
class Normalisations:
    """The calls of one forward pass, in order, and the statistics that cannot be re-estimated.

    `frozen` are buffers of layers that stay in evaluation mode when the model trains. `unseen` are
    buffers that have a name of running statistics and affect the loss, but that no call reads.
    """

    calls: Sequence[Call] = ()
    frozen: Sequence[str] = ()
    unseen: Sequence[str] = ()

    @property
    def moving(self) -> list[Call]:
        """The calls whose statistics depend on the point, each pair of buffers once."""
        return [call for call in dict.fromkeys(self.calls) if call.mean not in self.frozen]

    @property
    def several(self) -> list[Call]:
        """The moving calls with more than one set of statistics: repeated, or per example."""
        return [c for c in self.moving if c.instances or self.calls.count(c) > 1]


@dataclass(frozen=True)
class Given:
    """The arguments of a normalisation."""

    input: Tensor
    mean: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class Watch(TorchFunctionMode):
    """While active, passes each normalisation that reads running statistics of `fixed` to `see`.

    The result of `see` replaces the output; for None the output is computed as usual.
    """

    def __init__(
        self, fixed: Mapping[str, Tensor], see: Callable[[Call, Given], Tensor | None]
    ) -> None:
        super().__init__()
        self._names, self._see = {id(tensor): name for name, tensor in fixed.items()}, see

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the function or its replacement."""
        kwargs = kwargs or {}
        if function in _FUNCTIONS:
            names, instances = _FUNCTIONS[function]
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            own = given.get(names[5], instances)
            mean, variance = (
                self._names.get(id(given.get(name))) for name in ("running_mean", "running_var")
            )
            if mean is not None and variance is not None and not own:
                call = Call(mean, variance, instances)
                output = self._see(
                    call,
                    Given(
                        given["input"],
                        given["running_mean"],
                        given.get("weight"),
                        given.get("bias"),
                        given.get("eps", 1e-5),
                    ),
                )
                if output is not None:
                    return output
        return function(*args, **kwargs)


class OfBatches(Watch):
    """While active, normalisations use the batch's statistics, except the `frozen` ones."""

    def __init__(self, fixed: Mapping[str, Tensor], frozen: Collection[str]) -> None:
        super().__init__(fixed, lambda call, given: self._own(call, given))
        self._frozen = frozen

    def _own(self, call: Call, given: Given) -> Tensor | None:
        if call.mean in self._frozen:
            return None
        if call.instances:
            return _each_by_itself(given)
        weight, bias = given.weight, given.bias
        return functional.batch_norm(given.input, None, None, weight, bias, True, 0.0, given.eps)


def statistics_of_layers(network: Network) -> set[str]:
    """The names of the buffers with running statistics of `torch.nn` layers."""
    return {
        f"{name}.{of}".removeprefix(".")
        for name, module in network.model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
        for of in ("running_mean", "running_var")
    }


def look(objective: Objective, theta: Tensor) -> Normalisations:
    """Find the model's normalisations. Cost: a pass over two rows, one more to check `unseen`."""
    network, fixed = objective.network, dict(objective.fixed)
    if network.model.training:  # normalisations use the batch, and read no statistics
        return Normalisations()
    rows = objective.rows.head(_LOOKED_AT)
    calls: list[Call] = []

    def loss() -> Tensor:
        outputs = network.outputs(network.unflatten(theta), fixed, rows.batch)
        sums, _ = network.losses(outputs, rows.batch, rows.count)
        return sums

    with torch.no_grad(), network.arithmetic():
        with Watch(fixed, lambda call, _: calls.append(call)):
            before = loss()
        read = {name for call in calls for name in (call.mean, call.variance)}
        buffers = [name for name, _ in network.model.named_buffers()]
        unseen = [n for n in buffers if _NAMED_AS_STATISTICS.fullmatch(n) and n not in read]
        fixed |= {name: 1.5 * fixed[name] + 0.25 for name in unseen}
        if unseen and torch.equal(before, loss()):
            unseen = []  # nothing reads them
    return Normalisations(
        tuple(calls), tuple(_frozen(network, [n for n in buffers if n in read])), tuple(unseen)
    )


def _frozen(network: Network, buffers: Sequence[str]) -> list[str]:
    """The buffers whose layers stay in evaluation mode when the model trains."""
    modules = dict(network.model.named_modules())
    before = {module: module.training for module in modules.values()}
    try:
        network.model.train()
        owners = [(name, modules[name.rpartition(".")[0]]) for name in buffers]
        return [n for n, owner in owners if isinstance(owner, _NormBase) and not owner.training]
    finally:
        for module, training in before.items():
            module.training = training


def recalibration_rows(train: Objective, asked: int | None, seed: int) -> Objective:
    """The training objective on the examples for the statistics.

    These are `asked` examples drawn by `seed`, or (None) as many as fit in one pass.
    """
    most = max(2, int(_ONE_PASS_BYTES / max(train.saved_bytes, 1))) if asked is None else asked
    if most >= train.rows.count:
        return train
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(train.rows.count, generator=generator)[:most].sort().values
    return Objective(
        train.network, train.rows.take(chosen), train.fixed, batch_size=min(most, train.batch_size)
    )


@dataclass(frozen=True)
class _Part:
    """Statistics of one call's input, over `count` values per channel, or `count` examples.

    The variance is the biased one of all values, or the mean of the examples' unbiased ones.
    """

    call: Call
    count: float
    mean: Tensor
    variance: Tensor

    def kept(self, *, unbiased: bool) -> Tensor:
        """The variance that PyTorch stores."""
        if self.call.instances or not unbiased:
            return self.variance
        return self.variance * (self.count / max(self.count - 1, 1))


def batch_statistics(
    objective: Objective,
    theta: Tensor,
    fixed: Mapping[str, Tensor],
    *,
    unbiased: bool = True,
    frozen: Collection[str] = (),
) -> dict[str, Tensor]:
    """Compute the running means and variances at θ over all of the objective's rows.

    They are those of one pass in training mode with all rows as one batch: each call normalises by
    the mean and (biased) variance of its own input. If a layer is called several times in a pass,
    the mean over its calls is stored, as with PyTorch's `momentum=None`; for an instance
    normalisation, the mean over the examples. If the rows do not fit in one pass, each call takes
    its own pass over batches, after the calls before it, so the batches do not affect the result.

    Args:
        objective: Its rows are the data.
        theta: The point θ (n,).
        fixed: The buffers and frozen parameters.
        unbiased: Store unbiased variances, as PyTorch does. With biased ones, evaluation gives the
            same outputs as the pass in training mode.
        frozen: Buffers that are used as they are.

    Returns:
        A copy of `fixed` with the new statistics.

    Cost: one forward pass, or one per call.
    """
    statistics = {name: tensor.clone() for name, tensor in fixed.items()}
    found = _parts(objective, theta, statistics, frozen)
    for call in dict.fromkeys(part.call for part in found):
        parts = [part for part in found if part.call == call]
        variances = [part.kept(unbiased=unbiased) for part in parts]
        statistics[call.mean].copy_(torch.stack([part.mean for part in parts]).mean(0))
        statistics[call.variance].copy_(torch.stack(variances).mean(0))
    return statistics


def batch_normalised(
    objective: Objective,
    theta: Tensor,
    fixed: Mapping[str, Tensor],
    *,
    frozen: Collection[str] = (),
) -> tuple[dict[str, Tensor], Callable[[], AbstractContextManager[Any]]]:
    """Return buffers, and a context for each batch in which a pass is as in training mode.

    All of the objective's rows then count as one batch, however they are split: each call uses the
    statistics of its input over all rows, and an instance normalisation those of each example.

    Cost: as for `batch_statistics`.
    """
    statistics = {name: tensor.clone() for name, tensor in fixed.items()}
    found = _parts(objective, theta, statistics, frozen)

    def enter() -> AbstractContextManager[Any]:
        following = iter(found)

        def see(call: Call, given: Given) -> Tensor | None:
            return None if call.mean in frozen else _normalised(call, given, next(following, None))

        return Watch(statistics, see)

    return statistics, enter


def _parts(
    objective: Objective, theta: Tensor, fixed: Mapping[str, Tensor], frozen: Collection[str]
) -> list[_Part]:
    """Each call's statistics over all rows, after the earlier calls are normalised by theirs."""
    network = objective.network
    whole = objective.saved_bytes * objective.rows.count <= _ONE_PASS_BYTES
    size = objective.rows.count if whole else objective.batch_size
    found: list[_Part] = []  # of the calls in their order
    pending: list[_Part] = []  # of the next one, from the batches so far
    place = 0

    def see(call: Call, given: Given) -> Tensor | None:
        nonlocal place
        if call.mean in frozen:
            return None
        place += 1
        if place > len(found):
            part = _statistics(call, given.input)
            if not whole:
                pending[:] = [_merged(pending[0], part) if pending else part]
                raise EnoughError
            found.append(part)
        return _normalised(call, given, found[place - 1])

    with torch.no_grad(), network.arithmetic(), Watch(fixed, see):
        done = False
        while not done:
            pending.clear()
            for batch in objective.rows.split(size):
                place, done = 0, False
                with suppress(EnoughError):
                    network.outputs(network.unflatten(theta), fixed, batch)
                    done = True
                    break  # all calls are known
            found += pending
    return found


class EnoughError(BaseException):
    """Ends a forward pass early; a `BaseException`, so that no task's code catches it."""


def _normalised(call: Call, given: Given, part: _Part | None) -> Tensor:
    """The call's output in training mode over all rows; `SharpError` for another call's `part`."""
    if part is None or part.call != call:
        raise SharpError(
            f"not every batch calls the normalisation of '{call.layer}' at the same place of the "
            "forward pass, so its statistics over all batches cannot be taken",
            f"use {setting('batch_norm.mode', 'interpolate')}, or fewer "
            f"{setting('batch_norm.examples')}, which fit in one batch",
        )
    if call.instances:
        return _each_by_itself(given)
    mean, variance = part.mean.to(given.mean), part.variance.to(given.mean)
    return functional.batch_norm(
        given.input, mean, variance, given.weight, given.bias, False, 0.0, given.eps
    )


def _each_by_itself(given: Given) -> Tensor:
    weight, bias = given.weight, given.bias
    return functional.instance_norm(given.input, None, None, weight, bias, True, 0.0, given.eps)


def _statistics(call: Call, values: Tensor) -> _Part:
    """The statistics of each channel (dimension 1), in float64 if the device has it."""
    kind = accumulator(values.device)
    if not call.instances:
        dimensions = [d for d in range(values.dim()) if d != 1]
        variance, mean = torch.var_mean(values, dimensions, correction=0)
        return _Part(call, values.numel() / values.shape[1], mean.to(kind), variance.to(kind))
    variance, mean = torch.var_mean(values.flatten(2), 2, correction=1)
    return _Part(call, len(values), mean.to(kind).mean(0), variance.to(kind).mean(0))


def _merged(left: _Part, right: _Part) -> _Part:
    """Merge the statistics of two groups (Chan, Golub & LeVeque 1983)."""
    m, n, apart = left.count, right.count, right.mean - left.mean
    total = m + n
    mean = left.mean + apart * (n / total)
    variance = (m * left.variance + n * right.variance) / total
    if not left.call.instances:
        variance = variance + apart.square() * (m * n / total**2)
    return replace(left, count=total, mean=mean, variance=variance)
