"""Find the permutations of hidden units that do not change a network's function.

The forward pass is traced into a graph of tensor operations. Every axis of a parameter starts free.
Each operation says which axes have to move together and which cannot move (`operations`). Axes that
are free at the end can be permuted: for example a convolution's channels, together with those of
the batch norm, the running statistics and the next layer's inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from sharpcli.checkpoint import tied
from sharpcli.errors import SharpError, setting
from sharpcli.landscape.alignment.operations import normalized_inputs, outputs_of
from sharpcli.landscape.alignment.symbolic_axes import Axis, Value, fresh, leaves, pin, pinned
from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Batch, Rows

__all__ = [
    "TRACED_EXAMPLES",
    "Group",
    "Permutations",
    "Place",
    "TracedAxes",
    "apply_permutations",
    "arguments_of",
    "permuted",
    "trace_axes",
    "trace_permutations",
    "twins_of",
]

_ALIGNED = "its hidden units cannot be aligned"
TRACED_EXAMPLES = 2  # a batch of one would hide the batch dimension


@dataclass(frozen=True)
class Place:
    """The positions of a group's units in a tensor.

    Row i of `positions` (size, repeats) has the indices of unit i along the dimension `axis`.
    """

    tensor: str
    axis: int
    positions: Tensor


@dataclass(frozen=True)
class Group:
    """Hidden units that can be permuted, if they are at all these places together."""

    size: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Permutations:
    """A model's permutation symmetries: its groups, in the order of the forward pass.

    `statistics` are the names of running statistics. `twins` maps each further name of a tied
    tensor to the name in the places. `without_rule` lists unknown operations, which kept axes from
    being permuted.
    """

    groups: tuple[Group, ...]
    statistics: frozenset[str]
    twins: Mapping[str, str]
    without_rule: tuple[str, ...]


def trace_permutations(
    network: Network, batch: Batch, tensors: Mapping[str, Tensor]
) -> Permutations:
    """Find the permutation symmetries of a network in eval mode.

    `batch` has at least two examples, preferably few; `tensors` are a checkpoint's. Frozen
    parameters, and buffers other than running statistics, are not permuted. A `SharpError` says
    that the model cannot be traced.

    Cost: a forward pass.
    """
    traced = trace_axes(network, batch, tensors, asked="align", purpose=_ALIGNED)
    order = {node: place for place, node in enumerate(traced.module.graph.nodes)}
    named, free = traced.placeholders, traced.free
    met = sorted(free, key=lambda name: min(order[user] for user in named[name].users))
    return Permutations(
        _groups({name: free[name] for name in met}),
        traced.statistics,
        twins_of(network),
        traced.without_rule,
    )


@dataclass(frozen=True)
class TracedAxes:
    """A forward pass as a graph, and the axes of each node's output (a list for several).

    `free` has the axes of the tensors that may change, by name, `placeholders` the nodes of all
    tensors. `statistics` are the names of running statistics. `without_rule` lists unknown
    operations, which pin all axes that they meet.
    """

    module: fx.GraphModule
    axes: Mapping[fx.Node, Any]
    free: Mapping[str, Value]
    placeholders: Mapping[str, fx.Node]
    statistics: frozenset[str]
    without_rule: tuple[str, ...]


def trace_axes(
    network: Network, batch: Batch, tensors: Mapping[str, Tensor], *, asked: str, purpose: str
) -> TracedAxes:
    """Trace a network's forward pass in eval mode, and find which axes move together.

    Args:
        network: The network.
        batch: Two examples or more, preferably few.
        tensors: A checkpoint's tensors, under the names of the model's state dict.
        asked: The setting that an error tells the user to leave out.
        purpose: What cannot be done where the model cannot be traced, as a clause.

    A `SharpError` says that the model cannot be traced.

    Cost: a forward pass.
    """
    still = Network(
        network.model, network.task, device=network.device, dtype=network.dtype, mode="eval"
    )
    names = [*still.names, *still.fixed_names]
    values = [*still.unflatten(still.flatten(tensors)), *still.fixed(tensors).values()]
    rows = Rows(batch, 0, 0).to(still.device, still.dtype)
    module = _traced(still, values, rows.batch, asked, purpose)
    graph = module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    named = dict(zip(names, placeholders, strict=False))
    statistics = _running_statistics(graph)
    free = {
        name: fresh(tensor.shape)
        for name, tensor in zip(names, values, strict=True)
        if named[name].users and (name in still.names or named[name] in statistics)
    }
    axes, without_rule = _follow(module, {named[name]: value for name, value in free.items()})
    return TracedAxes(
        module,
        axes,
        free,
        named,
        frozenset(name for name in free if named[name] in statistics),
        without_rule,
    )


def apply_permutations(
    structure: Permutations, tensors: Mapping[str, Tensor], permutations: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Replace unit i of each group by its unit `permutation[i]`.

    There is one permutation (size,) per group. Tensors without a group are returned unchanged.
    """
    moved = dict(tensors)
    names = {name: [name] for name in tensors}
    for twin, name in structure.twins.items():
        if twin in tensors:
            names.setdefault(name, []).append(twin)
    for group, permutation in zip(structure.groups, permutations, strict=True):
        for place in group.places:
            for name in names.get(place.tensor, []):
                moved[name] = permuted(moved[name], place, permutation)
    return moved


def permuted(tensor: Tensor, place: Place, permutation: Tensor) -> Tensor:
    """A copy of a tensor with the units at one place permuted."""
    index = torch.arange(tensor.shape[place.axis])
    index[place.positions] = place.positions[permutation.cpu()]
    return tensor.index_select(place.axis, index.to(tensor.device))


def _traced(
    network: Network, values: Sequence[Tensor], batch: Batch, asked: str, purpose: str
) -> fx.GraphModule:
    leaves_of_batch, shape = pytree.tree_flatten(batch)
    given = [leaf for leaf in leaves_of_batch if isinstance(leaf, Tensor)]
    trained, count = len(network.names), len(values)

    def forward(*tensors: Tensor) -> Any:
        rest = iter(tensors[count:])
        rows = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves_of_batch]
        fixed = dict(zip(network.fixed_names, tensors[trained:count], strict=True))
        outputs = network.outputs(
            list(tensors[:trained]), fixed, pytree.tree_unflatten(rows, shape)
        )
        return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]

    try:
        with torch.no_grad(), exact_arithmetic():
            module = make_fx(forward)(*values, *given)
    except (RuntimeError, SharpError) as error:
        raise SharpError(
            f"{network.task.name}: the model's operations cannot be traced, so {purpose}: "
            f"{str(error).splitlines()[0]}",
            f"leave {setting(asked)} out; or keep .item() and branches on values out of the "
            "forward pass",
        ) from error
    module.graph.eliminate_dead_code()
    return module


def _running_statistics(graph: fx.Graph) -> set[fx.Node]:
    found = set()
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            given = arguments_of(node)
            for name in normalized_inputs(node.target):
                if isinstance(given.get(name), fx.Node):
                    found.add(given[name])
    return found


def _follow(
    module: fx.GraphModule, free: Mapping[fx.Node, Value]
) -> tuple[dict[fx.Node, Any], tuple[str, ...]]:
    """Unify and pin axes along the graph; return them, and the operations without a rule."""
    known: dict[fx.Node, Any] = dict(free)
    without_rule: dict[str, None] = {}
    for node in module.graph.nodes:
        if node in known:
            continue
        if node.op == "call_function" and node.target is operator.getitem:
            source, index = node.args
            known[node] = known[source][index]
        elif node.op == "get_attr":
            known[node] = pinned(getattr(module, node.target).shape)
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            given = {name: _resolved(each, known) for name, each in arguments_of(node).items()}
            shapes, many = _shapes(node)
            outputs, at_a_loss = outputs_of(node.target, given, shapes)
            known[node] = outputs if many else outputs[0]
            if at_a_loss:
                without_rule[str(node.target)] = None
        else:  # an input, the output, or a call outside torch's operations
            for source in node.all_input_nodes:
                _pin_all(known[source])
            shapes, many = _shapes(node)
            known[node] = [pinned(each) for each in shapes] if many else pinned(shapes[0])
    return known, tuple(without_rule)


def _pin_all(value: Value | list[Value]) -> None:
    for each in value if isinstance(value, list) else [value]:
        for dimension in each:
            pin(dimension)


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by name, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]  # an OpOverload
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given.update(zip((a.name for a in schema.arguments), node.args, strict=False))
    return {**given, **node.kwargs}


def _resolved(argument: Any, known: Mapping[fx.Node, Any]) -> Any:
    """An argument with nodes replaced by traced tensors; sequences become lists."""
    if isinstance(argument, fx.Node):
        return known[argument]
    if isinstance(argument, list | tuple):
        return [_resolved(each, known) for each in argument]
    return argument


def _shapes(node: fx.Node) -> tuple[list[tuple[int, ...]], bool]:
    """The shapes of a node's outputs, and whether the node returns a sequence."""
    value = node.meta.get("val")
    many = isinstance(value, tuple | list)
    several: Any = value if many else [value]
    return [tuple(each.shape) if isinstance(each, Tensor) else () for each in several], many


def _groups(values: Mapping[str, Value]) -> tuple[Group, ...]:
    found: dict[Axis, dict[tuple[str, int], list[Tensor]]] = {}
    for name, value in values.items():
        for number, dimension in enumerate(value):
            for axis, positions in leaves(dimension):
                found.setdefault(axis, {}).setdefault((name, number), []).append(positions)
    return tuple(
        Group(
            axis.size,
            tuple(
                Place(*where, positions)
                for where, several in places.items()
                for positions in _joined(several)
            ),
        )
        for axis, places in found.items()
    )


def _joined(several: list[Tensor]) -> list[Tensor]:
    """Join a group's positions along one axis, unless some occur twice."""
    joined = torch.cat(several, 1)
    if len(several) == 1:
        return several
    return [joined] if len(set(joined.flatten().tolist())) == joined.numel() else several


def twins_of(network: Network) -> dict[str, str]:
    """Map each further name of a tied tensor to its first name."""
    model = network.model
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return {name: names[0] for name, names in tied(named).items() if name != names[0]}
