"""What a network's running statistics are at a point between checkpoints.

Normalisations are seen where they are computed: at the calls of `batch_norm` and `instance_norm`,
by the buffers that these are given. So a layer that is called twice, one that changes its input
first, and a buffer that is passed to `functional.batch_norm` without any layer are all seen.
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

# Bytes of activations (counted as for a backward pass, so several times what is held at once) up
# to which statistics are taken in one forward pass; beyond, by default, on as many examples as fit.
# A constant and not a share of what is free: the number of examples is part of the answer.
_ONE_PASS_BYTES = 4 * 2**30
# Rows of the pass that looks which normalisations there are.
_LOOKED_AT = 2
_NAMED_AS_STATISTICS = re.compile(r"(?:.*[._])?(?:running|moving)_(?:mean|avg|var|variance|std)")

_PYTHON = ("input", "running_mean", "running_var", "weight", "bias")
_NATIVE = ("input", "weight", "bias", "running_mean", "running_var")
# What normalises → the names of its arguments, the sixth of which says that the statistics are
# the input's own, and whether these are of each example alone.
_FUNCTIONS: dict[Any, tuple[tuple[str, ...], bool]] = {
    functional.batch_norm: ((*_PYTHON, "training", "momentum", "eps"), False),
    functional.instance_norm: ((*_PYTHON, "use_input_stats", "momentum", "eps"), True),
    torch.batch_norm: ((*_NATIVE, "training", "momentum", "eps", "cudnn_enabled"), False),
    torch.instance_norm: ((*_NATIVE, "use_input_stats", "momentum", "eps", "cudnn_enabled"), True),
}


@dataclass(frozen=True)
class Call:
    """A call of a normalisation that reads running statistics: the buffers they are held in.

    `instances` says that it normalises each example by itself.
    """

    mean: str
    variance: str
    instances: bool

    @property
    def layer(self) -> str:
        """Whose buffers they are."""
        return self.mean.rpartition(".")[0] or self.mean


@dataclass(frozen=True)
class Normalisations:
    """The calls of one forward pass, in order, and the statistics that cannot be taken anew.

    `frozen` are buffers of layers that stay in evaluation mode when the model trains. `unseen` are
    buffers that are named as running statistics and change the loss, and that no call reads.
    """

    calls: Sequence[Call] = ()
    frozen: Sequence[str] = ()
    unseen: Sequence[str] = ()

    @property
    def moving(self) -> list[Call]:
        """The calls whose statistics belong to the point, each pair of buffers once."""
        return [call for call in dict.fromkeys(self.calls) if call.mean not in self.frozen]

    @property
    def several(self) -> list[Call]:
        """Those whose statistics in a pass are not one set: called again, or of each example."""
        return [c for c in self.moving if c.instances or self.calls.count(c) > 1]


@dataclass(frozen=True)
class Given:
    """What a normalisation was given."""

    input: Tensor
    mean: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class Watch(TorchFunctionMode):
    """While active, shows `see` the normalisations that read running statistics of `fixed`.

    What `see` gives is their output; for None they are computed as ever.
    """

    def __init__(
        self, fixed: Mapping[str, Tensor], see: Callable[[Call, Given], Tensor | None]
    ) -> None:
        super().__init__()
        self._names, self._see = {id(tensor): name for name, tensor in fixed.items()}, see

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the function, or what stands in for it."""
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
    """While active, normalisations use the statistics of the batch, but for the `frozen` ones."""

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
    """Names of the buffers that layers of `torch.nn` keep running statistics in."""
    return {
        f"{name}.{of}".removeprefix(".")
        for name, module in network.model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
        for of in ("running_mean", "running_var")
    }


def look(objective: Objective, theta: Tensor) -> Normalisations:
    """Which normalisations the model computes, from a pass over two rows (three for `unseen`)."""
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
    """Those of the buffers whose layers stay in evaluation mode when the model trains."""
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
    """The training objective on the examples that statistics are taken of.

    `asked` of them drawn by `seed`, or (None) all that fit in one pass.
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
    """Statistics of one call's input: of `count` values a channel, or of so many examples.

    The variance is the biased one of all values, or the mean of the examples' unbiased ones.
    """

    call: Call
    count: float
    mean: Tensor
    variance: Tensor

    def kept(self, *, unbiased: bool) -> Tensor:
        """The variance that PyTorch keeps."""
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
    """`fixed` with every running mean and variance as at θ over all of the objective's rows.

    They are what one pass in training mode with all rows as one batch gives: each call sees
    activations normalised by their own mean and (biased) variance, and what is kept is the mean
    and the unbiased variance (`unbiased=False`: the biased one, with which evaluation is then
    the same as that pass). Where a layer is called several times in a pass, what is kept is the
    mean over its calls, as with PyTorch's `momentum=None`; of an instance normalisation, which
    normalises each example by itself, the mean over the examples. Where the rows do not fit in one
    pass, each call takes a pass of its own over batches, with the calls before it done: the
    statistics do not depend on the batches. `frozen` buffers stay as they are, and are used.

    Cost: one forward pass, or one a call.
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
    """Buffers, and what to enter for a batch, so that a pass is as in training mode.

    All the objective's rows are then one batch, whatever the batches are that are passed: each call
    is normalised by the statistics that its input has over all rows, and each example by its own
    where that is the kind of it. Cost: as `batch_statistics`.
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
    """Each call's statistics over all rows, the calls before it normalised by theirs."""
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
    """Ends a forward pass whose remaining layers are not needed; no task's code should catch it."""


def _normalised(call: Call, given: Given, part: _Part | None) -> Tensor:
    """What the call gives in a pass in training mode over all rows.

    Raises `SharpError` where the statistics are another call's.
    """
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
    """Of each channel (dimension 1), float64 where there is one."""
    kind = accumulator(values.device)
    if not call.instances:
        dimensions = [d for d in range(values.dim()) if d != 1]
        variance, mean = torch.var_mean(values, dimensions, correction=0)
        return _Part(call, values.numel() / values.shape[1], mean.to(kind), variance.to(kind))
    variance, mean = torch.var_mean(values.flatten(2), 2, correction=1)
    return _Part(call, len(values), mean.to(kind).mean(0), variance.to(kind).mean(0))


def _merged(left: _Part, right: _Part) -> _Part:
    """Two groups' statistics as one group's (Chan, Golub & LeVeque 1983)."""
    m, n, apart = left.count, right.count, right.mean - left.mean
    total = m + n
    mean = left.mean + apart * (n / total)
    variance = (m * left.variance + n * right.variance) / total
    if not left.call.instances:
        variance = variance + apart.square() * (m * n / total**2)
    return replace(left, count=total, mean=mean, variance=variance)
