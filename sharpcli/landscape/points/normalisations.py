"""Find the normalisations of a network that read running statistics.

They are observed at the calls of `batch_norm` and `instance_norm`, by the buffers passed to them.
This covers layers that are called twice, layers that change their input first, and buffers that are
passed to `functional.batch_norm` without a layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective

__all__ = [
    "Call",
    "Given",
    "Normalisations",
    "OfBatches",
    "Watch",
    "each_by_itself",
    "look",
    "statistics_of_layers",
]

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
            return each_by_itself(given)
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


def each_by_itself(given: Given) -> Tensor:
    """The output of an instance normalisation by the statistics of each example."""
    weight, bias = given.weight, given.bias
    return functional.instance_norm(given.input, None, None, weight, bias, True, 0.0, given.eps)
