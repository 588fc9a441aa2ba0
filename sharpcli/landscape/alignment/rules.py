"""Rules for tensor operations: which axes of their inputs and outputs move together.

A rule is correct if permuting the inputs along the axes that it leaves free permutes the output
along the same axes, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sharpcli.landscape.alignment.symbolic_axes import (
    Axis,
    Dimension,
    Value,
    broadcast,
    concatenated,
    cut,
    fresh,
    pin,
    pinned,
    size,
    unify,
)

STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Call:
    """An operation's arguments by name, traced tensors as their axes, and its outputs' shapes."""

    given: Mapping[str, Any]
    shapes: list[tuple[int, ...]]

    def __getitem__(self, name: str) -> Any:
        return self.given[name]

    @property
    def shape(self) -> tuple[int, ...]:
        """The (first) output's shape."""
        return self.shapes[0]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or `default` if the operation does not have it."""
        return self.given.get(name, default)

    def values(self) -> list[Value]:
        """All traced tensors among the arguments."""
        return list(_tensors(self.given.values()))


Rule = Callable[[Call], Value | list[Value]]
"""Returns the axes of an operation's output, or of each output if they differ."""


def _tensors(arguments: Any) -> Iterator[Value]:
    """All traced tensors: these are the only tuples, since sequences are lists."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield argument
        elif isinstance(argument, list):
            yield from _tensors(argument)


def pointwise(call: Call) -> Value:
    """Operations whose output entry depends on the inputs' entries at the same index only."""
    return broadcast(call.values())


def fill(call: Call) -> Value:
    """Tensors filled with one number, or not filled: all entries are alike."""
    return fresh(call.shape)


def same(call: Call) -> Value:
    """Copies, and operations that commute with permutations, such as softmax."""
    value: Value = call["self"]
    return value


def transpose(call: Call) -> Value:
    """Two dimensions exchanged, for `t` the first two."""
    value = list(call["self"])
    if len(value) >= 2:
        first, second = call.get("dim0", 0), call.get("dim1", 1)
        value[first], value[second] = value[second], value[first]
    return tuple(value)


def permute(call: Call) -> Value:
    """Dimensions in another order."""
    return tuple(call["self"][dim] for dim in call["dims"])


def view(call: Call) -> Value:
    """The same entries in other dimensions."""
    flat = tuple(axis for dimension in call["self"] for axis in dimension)
    target = fresh(call.shape)
    unify(flat, tuple(axis for dimension in target for axis in dimension))
    return target


def expanded(call: Call) -> Value:
    """Dimensions of size one repeated: the repetitions are alike."""
    return broadcast([call["self"], fresh(call.shape)])


def repeat(call: Call) -> Value:
    """Copies of the tensor side by side."""
    value = ((),) * (len(call["repeats"]) - len(call["self"])) + call["self"]
    return tuple(
        (Axis(times), *dimension) for times, dimension in zip(call["repeats"], value, strict=True)
    )


def matrix_product(call: Call) -> Value:
    """A product of (batches of) matrices, plus `self` if there are two other arguments."""
    left, right = next(
        (call[one], call[other])
        for one, other in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"))
        if one in call.given and other in call.given
    )
    unify(left[-1], right[-2])
    product = (*broadcast([left[:-2], right[:-2]]), left[-2], right[-1])
    return product if left is call["self"] else broadcast([product, call["self"]])


def vector_product(call: Call) -> Value:
    """A matrix or a vector times a vector."""
    value: Value = call["self"]
    unify(value[-1], (call["vec"] if "vec" in call.given else call["tensor"])[0])
    return value[:-1]


def linear(call: Call) -> Value:
    """A layer's inputs (…, in), weight (out, in) and bias (out)."""
    inputs, weight = call["input"], call["weight"]
    unify(inputs[-1], weight[-1])
    outputs = (*inputs[:-1], *weight[:-1])
    return broadcast([outputs, call["bias"]]) if call["bias"] is not None else outputs


def convolution(call: Call) -> Value:
    """A (transposed) convolution: channels can move, pixels cannot."""
    inputs, weight, bias = call["input"], call["weight"], call["bias"]
    groups: Dimension = (Axis(call["groups"]),)
    for dimension in (*inputs[2:], *weight[2:]):
        pin(dimension)
    # Groups can move, and the channels alike within all groups; in a depthwise convolution, every
    # channel is a group.
    within: Dimension = (*groups, Axis(size(weight[0]) // call["groups"]))
    unify(weight[0], within)
    unify(inputs[1], within if call["transposed"] else (*groups, *weight[1]))
    channels = (*groups, *weight[1]) if call["transposed"] else weight[0]
    if bias is not None:
        unify(bias[0], channels)
    return (inputs[0], channels, *pinned(call.shape[2:]))


def batch_norm(call: Call) -> list[Value]:
    """Each channel normalised by itself, with its statistics."""
    inputs = call["input"]
    for name in ("weight", "bias", *STATISTICS):
        if call.get(name) is not None:
            unify(inputs[1], call[name][0])
    channels = [size(inputs[1])]
    rest = [(inputs[1],) if list(each) == channels else pinned(each) for each in call.shapes[1:]]
    return [inputs, *rest]


def weight_norm(call: Call) -> list[Value]:
    """A weight `v` scaled to the norms `g` along a dimension, and these norms."""
    return [broadcast([call["v"], call["g"]]), call["g"]]


def layer_norm(call: Call) -> list[Value]:
    """The last dimensions normalised together; their order does not matter."""
    inputs, count = call["input"], len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            broadcast([inputs[-count:], call[name]])
    statistics = (*inputs[:-count], *((),) * count)
    return [inputs, *(statistics for _ in call.shapes[1:])]


def group_norm(call: Call) -> list[Value]:
    """Channels normalised in groups: groups can move, and channels alike within all groups."""
    inputs, groups = call["input"], Axis(call["group"])
    unify(inputs[1], (groups, Axis(size(inputs[1]) // call["group"])))
    for name in ("weight", "bias"):
        if call[name] is not None:
            unify(inputs[1], call[name][0])
    return [inputs, *((inputs[0], (groups,)) for _ in call.shapes[1:])]


def spatial(count: int) -> Rule:
    """Pooling and resizing over the last `count` dimensions."""

    def rule(call: Call) -> Value:
        value: Value = call["self"]
        for dimension in value[-count:]:
            pin(dimension)
        return (*value[:-count], *pinned(call.shape[-count:]))

    return rule


def pad(call: Call) -> Value:
    """Padding by a constant: the padded entries are alike."""
    value = list(call["self"])
    for place, before in enumerate(call["pad"][::2]):
        after, dimension = call["pad"][2 * place + 1], value[-1 - place]
        if before < 0 or after < 0:
            pin(dimension)
            (value[-1 - place],) = pinned(call.shape[-1 - place :][:1])
        elif before or after:
            around = [(Axis(before),), dimension, (Axis(after),)]
            value[-1 - place] = concatenated(around)
    return tuple(value)


def reduced(call: Call) -> Value:
    """Reductions such as sums, which do not depend on the order of entries."""
    value: Value = call["self"]
    named = call.get("dim")
    named = [named] if isinstance(named, int) else named
    dims = {each % max(len(value), 1) for each in (named or range(len(value)))}
    if call.get("keepdim"):
        return tuple(() if n in dims else each for n, each in enumerate(value))
    return tuple(each for n, each in enumerate(value) if n not in dims)


def chosen(call: Call) -> Value:
    """Reductions that return an index, which has to keep its meaning."""
    dim = call.get("dim")
    for dimension in call["self"] if dim is None else [call["self"][dim]]:
        pin(dimension)
    return reduced(call)


def along(call: Call) -> Value:
    """Operations that depend on the order along one dimension and keep the shape."""
    value: Value = call["self"]
    dims = call.get("dim", call.get("dims"))
    for dim in [dims] if isinstance(dims, int) else dims or range(len(value)):
        pin(value[dim])
    return value


def last_two(call: Call) -> Value:
    """A triangle of matrices."""
    for dimension in call["self"][-2:]:
        pin(dimension)
    return same(call)


def embedding(call: Call) -> Value:
    """Rows of a table by index; its columns can move."""
    pin(call["weight"][0])
    return (*call["indices"], *call["weight"][1:])


def cat(call: Call) -> Value:
    """Tensors one after the other along a dimension."""
    values, dim = call["tensors"], call["dim"] % len(call.shape)
    merged = list(broadcast([(*v[:dim], (), *v[dim + 1 :]) for v in values]))
    merged[dim] = concatenated([value[dim] for value in values])
    return tuple(merged)


def stack(call: Call) -> Value:
    """Tensors along a new dimension."""
    merged = list(broadcast(call["tensors"]))
    merged.insert(call["dim"] % len(call.shape), *pinned([len(call["tensors"])]))
    return tuple(merged)


def split(call: Call) -> list[Value]:
    """Consecutive pieces along a dimension."""
    value: Value = call["self"]
    dim = call["dim"] % len(value)
    pieces = cut(value[dim], [shape[dim] for shape in call.shapes])
    return [(*value[:dim], piece, *value[dim + 1 :]) for piece in pieces]


def sliced(call: Call) -> Value:
    """A piece along a dimension."""
    value: Value = call["self"]
    dim = call["dim"] % len(value)
    whole, kept = size(value[dim]), call.shape[dim]
    if kept == whole:
        return same(call)
    start = call["start"] or 0
    start = min(start + whole if start < 0 else start, whole)
    if call["step"] == 1 and kept:
        sizes = [each for each in (start, kept, whole - start - kept) if each]
        piece = cut(value[dim], sizes)[1 if start else 0]
    else:
        pin(value[dim])
        (piece,) = pinned([kept])
    return (*value[:dim], piece, *value[dim + 1 :])


def select(call: Call) -> Value:
    """One index of a dimension, or (`unbind`) each."""
    value: Value = call["self"]
    dim = call["dim"] % len(value)
    pin(value[dim])
    return (*value[:dim], *value[dim + 1 :])


def squeeze(call: Call) -> Value:
    """Dimensions of size one removed or added; the others keep their order."""
    rest = iter([dimension for dimension in call["self"] if size(dimension) != 1])
    return tuple(() if each == 1 else next(rest) for each in call.shape)


def glu(call: Call) -> Value:
    """One half times a function of the other half."""
    value: Value = call["self"]
    dim = call["dim"] % len(value)
    first, second = cut(value[dim], [call.shape[dim]] * 2)
    unify(first, second)
    return (*value[:dim], first, *value[dim + 1 :])
