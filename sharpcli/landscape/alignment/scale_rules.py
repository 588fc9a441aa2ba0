"""Which exponents of its inputs and outputs an operation equates; by default all of them are 0.

A rule is correct if multiplying the inputs by factors with these exponents multiplies the outputs
by theirs, and changes nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from sharpcli.landscape.alignment.scales import Equations, Scaled, entries_of

__all__ = ["equate"]

_Index = Sequence[int]


@dataclass(frozen=True)
class _Call:
    """An operation of the graph: its arguments by name with traced tensors as their slots."""

    node: fx.Node
    given: Mapping[str, Any]
    outputs: Sequence[Scaled]
    equations: Equations

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name)

    @property
    def out(self) -> Scaled:
        return self.outputs[0]

    def tensors(self) -> list[Scaled]:
        return entries_of(list(self.given.values()))

    def equal(self, one: Scaled, i: _Index, other: Scaled, j: _Index) -> None:
        self.equations.add([(1, one, i), (-1, other, j)])


_Rule = Callable[[_Call], bool]
"""Adds equations; returns False where the rule does not hold for the arguments."""


def equate(
    node: fx.Node, given: Mapping[str, Any], outputs: Sequence[Scaled], equations: Equations
) -> None:
    """Add the equations of one operation between its arguments and its outputs."""
    call = _Call(node, given, outputs, equations)
    if not any(tensor.slots for tensor in (*call.tensors(), *outputs)):
        return
    target: Any = node.target
    name = target._schema.name.partition("aten::")[2]
    mutable = target._schema.is_mutable and name.endswith("_")
    rule = _RULES.get(name.removesuffix("_") if mutable else name)
    if rule is None or not rule(call):
        for tensor in (*call.tensors(), *outputs):
            equations.zero(tensor)
    elif mutable and isinstance(given.get("self"), Scaled):
        _same(_Call(node, {"self": given["self"]}, outputs, equations))


def _broadcast(index: _Index, tensor: Scaled) -> tuple[int, ...]:
    """The index of a tensor's entry that broadcasting puts at an output's index."""
    own = index[len(index) - len(tensor.shape) :]
    return tuple(0 if size == 1 else i for i, size in zip(own, tensor.shape, strict=True))


def _same(call: _Call) -> bool:
    """Each output entry grows by the same factor as the input's: a multiple, a ReLU, a size."""
    tensor = call["self"]
    for index in call.out.indices():
        call.equal(tensor, _broadcast(index, tensor), call.out, index)
    return True


def _sum(call: _Call) -> bool:
    """Sums and maxima of tensors: all have the same exponents."""
    if any(isinstance(call[name], int | float) and call[name] != 0 for name in ("other",)):
        return False
    tensors = [t for name, t in call.given.items() if isinstance(t, Scaled) and name != "condition"]
    for index in call.out.indices():
        for tensor in tensors:
            call.equal(tensor, _broadcast(index, tensor), call.out, index)
    if isinstance(call["condition"], Scaled):
        call.equations.zero(call["condition"])
    return True


def _times(sign: int) -> _Rule:
    """Products (or quotients): exponents add up (or are subtracted)."""

    def rule(call: _Call) -> bool:
        one, other = call["self"], call["other"]
        if call["rounding_mode"] is not None or not isinstance(one, Scaled):
            return False
        if not isinstance(other, Scaled):
            return _same(call)
        for index in call.out.indices():
            call.equations.add(
                [
                    (1, one, _broadcast(index, one)),
                    (sign, other, _broadcast(index, other)),
                    (-1, call.out, index),
                ]
            )
        return True

    return rule


def _clamped(call: _Call) -> bool:
    """A ReLU written as clamp(min=0)."""
    low, high = call["min"], call["max"]
    return low == 0 and high is None and _same(call)


def _threshold(call: _Call) -> bool:
    return call["threshold"] == 0 and call["value"] == 0 and _same(call)


def _prelu(call: _Call) -> bool:
    call.equations.zero(call["weight"])
    return _same(call)


def _copied(call: _Call) -> bool:
    """Each output entry is a copy of an input's entry: follow the numbers of the entries."""
    tensors = call.tensors()
    starts = [0, *itertools.accumulate(math.prod(tensor.shape) for tensor in tensors)]
    numbers = iter(
        torch.arange(start, start + math.prod(tensor.shape)).reshape(tensor.shape)
        for tensor, start in zip(tensors, starts, strict=False)
    )
    given = {name: _numbered(each, numbers) for name, each in call.given.items()}
    schema = call.node.target._schema.arguments  # type: ignore[union-attr]  # an OpOverload
    positional = [given[a.name] for a in schema if not a.kwarg_only and a.name in given]
    named = {a.name: given[a.name] for a in schema if a.kwarg_only and a.name in given}
    found: Any = call.node.target(*positional, **named)  # type: ignore[operator]
    for out, sources in zip(
        call.outputs, found if isinstance(found, tuple | list) else [found], strict=True
    ):
        for index in out.indices():
            number = int(sources[tuple(index)])
            if number < 0:
                continue  # a padded 0, which any factor leaves as it is
            which = sum(number >= start for start in starts[1:-1])
            inside = _unravelled(number - starts[which], tensors[which].shape)
            call.equal(tensors[which], inside, out, index)
    return True


def _numbered(argument: Any, numbers: Any) -> Any:
    if isinstance(argument, Scaled):
        return next(numbers)
    return (
        [_numbered(each, numbers) for each in argument] if isinstance(argument, list) else argument
    )


def _unravelled(number: int, shape: Sequence[int]) -> tuple[int, ...]:
    found = []
    for size in reversed(shape):
        number, rest = divmod(number, size)
        found.append(rest)
    return tuple(reversed(found))


def _padded(call: _Call) -> bool:
    """Padding with zeros; the numbers of entries start at 0, so padding is marked by −1."""
    if call["value"]:
        return False
    return _copied(_Call(call.node, {**call.given, "value": -1}, call.outputs, call.equations))


def _product(call: _Call) -> bool:
    """Products of (batches of) matrices: the exponents of what is summed over cancel."""
    names = next(
        pair
        for pair in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"))
        if isinstance(call[pair[0]], Scaled) and isinstance(call[pair[1]], Scaled)
    )
    left, right = (call[name] for name in names)
    for index in call.out.indices():
        *batch, row, column = index
        for k in {*left.looked_at(len(batch) + 1), *right.looked_at(len(batch))}:
            call.equations.add(
                [
                    (1, left, (*batch, row, k)),
                    (1, right, (*batch, k, column)),
                    (-1, call.out, index),
                ]
            )
        if names[0] != "self":
            added = call["self"]
            call.equal(added, _broadcast(index, added), call.out, index)
    return True


def _linear(call: _Call) -> bool:
    inputs, weight, bias = call["input"], call["weight"], call["bias"]
    for index in call.out.indices():
        for k in {*inputs.looked_at(len(index) - 1), *weight.looked_at(1)}:
            call.equations.add(
                [(1, inputs, (*index[:-1], k)), (1, weight, (index[-1], k)), (-1, call.out, index)]
            )
        if isinstance(bias, Scaled):
            call.equal(bias, index[-1:], call.out, index)
    return True


def _convolution(call: _Call) -> bool:
    """Channels; pixels have no factors."""
    inputs, weight, bias, out = call["input"], call["weight"], call["bias"], call.out
    groups, transposed = call["groups"], call["transposed"]
    within = weight.shape[1]
    for channel in out.looked_at(1):
        pixel = (0,) * (len(out.shape) - 2)
        index = (0, channel, *pixel)
        if transposed:
            group, filter_ = divmod(channel, within)
            size = inputs.shape[1] // groups
            pairs = [(group * size + i, (group * size + i, filter_)) for i in range(size)]
        else:
            group = channel // (out.shape[1] // groups)
            pairs = [(group * within + i, (channel, i)) for i in range(within)]
        for source, place in pairs:
            call.equations.add(
                [
                    (1, inputs, (0, source, *(0 for _ in inputs.shape[2:]))),
                    (1, weight, (*place, *(0 for _ in weight.shape[2:]))),
                    (-1, out, index),
                ]
            )
        if isinstance(bias, Scaled):
            call.equal(bias, (channel,), out, index)
    return True


def _batch_norm(call: _Call) -> bool:
    """γ(x − mean)/√var + β: the mean has the exponent of x, the variance twice that."""
    inputs, weight, bias, out = call["input"], call["weight"], call["bias"], call.out
    mean, variance = call["running_mean"], call["running_var"]
    if not isinstance(mean, Scaled) or not isinstance(variance, Scaled):
        return False
    for channel in out.looked_at(1):
        index, own = (0, channel, *(0 for _ in out.shape[2:])), (channel,)
        call.equal(mean, own, inputs, index)
        call.equations.add([(1, variance, own), (-2, inputs, index)])
        if isinstance(weight, Scaled):
            call.equal(weight, own, out, index)
        else:
            call.equations.zero(out)
        if isinstance(bias, Scaled):
            call.equal(bias, own, out, index)
    return True


def _normalised(call: _Call) -> bool:
    """Layer, RMS and group norms: the inputs keep their sizes, γ and β pass theirs on."""
    inputs, out, weight, bias = call["input"], call.out, call["weight"], call["bias"]
    for tensor in (inputs, *call.outputs[1:], *([] if isinstance(weight, Scaled) else [out])):
        call.equations.zero(tensor)
    for index in out.indices():
        by_channel = call["group"] is not None
        own = (index[1],) if by_channel else None
        for tensor in (weight, bias):
            if isinstance(tensor, Scaled):
                call.equal(tensor, own or index[-len(tensor.shape) :], out, index)
    return True


def _reduced(call: _Call) -> bool:
    """Sums, means, maxima and norms along dimensions: all entries have the same exponents."""
    tensor, named = call["self"], call["dim"]
    named = [named] if isinstance(named, int) else named
    if call["ord"] is not None and call["ord"] == 0:
        return False
    rank = max(len(tensor.shape), 1)
    dims = {each % rank for each in (named or range(len(tensor.shape)))}
    kept = call["keepdim"]
    for index in tensor.indices():
        there = tuple(0 if n in dims else i for n, i in enumerate(index) if kept or n not in dims)
        call.equal(tensor, index, call.out, there)
    return True


def _spatial(count: int) -> _Rule:
    """Pooling and resizing over the last dimensions, which have no factors."""

    def rule(call: _Call) -> bool:
        for index in call.out.indices():
            call.equal(call["self"], (*index[:-count], *(0,) * count), call.out, index)
        return True

    return rule


def _embedding(call: _Call) -> bool:
    weight = call["weight"]
    for index in call.out.indices():
        call.equal(weight, (0, *index[-1:]), call.out, index)
    return True


def _named(rule: _Rule, names: str) -> dict[str, _Rule]:
    return dict.fromkeys(names.split(), rule)


_RULES: dict[str, _Rule] = {
    **_named(
        _same,
        "relu leaky_relu abs neg positive clone detach alias contiguous _to_copy lift_fresh "
        "lift_fresh_copy cumsum tril triu",
    ),
    **_named(_sum, "add sub maximum minimum where"),
    **_named(_times(1), "mul"),
    **_named(_times(-1), "div"),
    **_named(_clamped, "clamp clamp_min"),
    **_named(_threshold, "threshold"),
    **_named(_prelu, "_prelu_kernel"),
    **_named(
        _copied,
        "t transpose permute view _unsafe_view reshape _reshape_alias expand repeat squeeze "
        "unsqueeze cat stack split split_with_sizes unsafe_split unsafe_split_with_sizes slice "
        "select unbind flip roll",
    ),
    **_named(_padded, "constant_pad_nd"),
    **_named(_product, "mm bmm addmm baddbmm"),
    **_named(_linear, "linear"),
    **_named(_convolution, "convolution"),
    **_named(
        _batch_norm,
        "native_batch_norm _native_batch_norm_legit_no_training _batch_norm_no_update "
        "cudnn_batch_norm miopen_batch_norm",
    ),
    **_named(_normalised, "native_layer_norm _fused_rms_norm native_group_norm"),
    **_named(_reduced, "mean sum amax amin linalg_vector_norm"),
    **_named(_embedding, "embedding"),
    **{
        f"{name}{count}d{suffix}": _spatial(count)
        for count in (1, 2, 3)
        for name, suffix in (
            ("avg_pool", ""),
            ("max_pool", ""),
            ("max_pool", "_with_indices"),
            ("adaptive_avg_pool", ""),
            ("_adaptive_avg_pool", ""),
            ("adaptive_max_pool", ""),
            ("upsample_nearest", ""),
            ("reflection_pad", ""),
            ("replication_pad", ""),
        )
    },
    **_named(_spatial(2), "upsample_bilinear2d upsample_bicubic2d"),
}
