"""Reuse outputs of the first layers: at any point they are sums of those at the anchors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.landscape.frame import weighted_sum
from sharpcli.landscape.points.batch_norm import EnoughError
from sharpcli.landscape.points.normalisations import Call, Watch, statistics_of_layers
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.trees import equal_tensors

__all__ = ["FirstLayers", "first_layers"]

# A layer is used if computing an output costs at least this many times summing it from the anchors
# (the ratio of fan-in to their number). Below, reading the outputs takes as long.
_WORTH = 16
# Bytes of kept outputs per split. It is a constant, not a share of free memory, since the choice of
# layers affects rounding.
_MOST_BYTES = 2**30
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FirstLayers:
    """Outputs of first layers at every anchor (K, n), for each batch of one split's data.

    If no parameter affects a layer's input x, then Wx + b is linear in (W, b). So the output at a
    weighted sum of anchors is the same sum of the outputs at the anchors. This is exact up to
    rounding, and bit for bit if one anchor has weight one.

    Cost: these layers at every anchor, once.
    """

    def __init__(
        self, objective: Objective, anchors: Tensor, layers: Mapping[str, nn.Module]
    ) -> None:
        self._layers = dict(layers)
        self._held: dict[tuple[int, int], dict[str, Tensor]] = {}
        network = objective.network
        start, _ = objective.share
        for batch, count in objective.batches():
            at_anchors = []
            for theta in anchors:
                seen: dict[str, Tensor] = {}
                with (
                    torch.no_grad(),
                    _seen_by(self._layers, seen),
                    contextlib.suppress(EnoughError),
                ):
                    network.outputs(network.unflatten(theta), objective.fixed, batch)
                at_anchors.append(seen)
            self._held[start, count] = {
                name: torch.stack([seen[name] for seen in at_anchors]) for name in self._layers
            }
            start += count

    @contextlib.contextmanager
    def at(self, weights: Tensor, start: int, count: int) -> Iterator[None]:
        """Make the layers return their outputs at the weighted sum of anchors, for one batch.

        Does nothing for a batch without stored outputs.
        """
        held = self._held.get((start, count), {})
        try:
            for name, outputs in held.items():
                output = weighted_sum(outputs, weights)
                # An instance's own `forward` overrides its class's.
                self._layers[name].__dict__["forward"] = lambda *_, output=output: output
            yield
        finally:
            for name in held:
                self._layers[name].__dict__.pop("forward", None)


def first_layers(
    objective: Objective, anchors: Tensor, fixed: Sequence[Mapping[str, Tensor] | None]
) -> FirstLayers | None:
    """The first layers worth storing for points between these anchors, or None.

    They are plain linear and convolutional layers, called once in a pass, whose input depends on no
    parameter and no running statistics, and whose fan-in is large relative to the number of
    anchors. There are none if `fixed`, the anchors' buffers and frozen parameters, differ in more
    than running statistics.
    """
    network = objective.network
    if network.compute != network.dtype:  # bfloat16's rounding does not add up
        return None
    owned = _trained_layers(network)
    inputs: dict[str, list[bool]] = {}
    sizes: dict[str, int] = {}
    rows = objective.rows.head(2)
    leaves = objective.leaves(anchors[0])
    normed: list[Call] = []  # calls that have read running statistics so far

    def look(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            free = len(arguments) == 1 and not arguments[0].requires_grad and not normed
            inputs.setdefault(name, []).append(free)
            sizes[name] = output.numel() // rows.count

        return hook

    hooks = [layer.register_forward_hook(look(name)) for name, layer in owned.items()]
    try:
        with Watch(objective.fixed, lambda call, _: normed.append(call)):
            network.outputs(leaves, objective.fixed, rows.batch)
    finally:
        for hook in hooks:
            hook.remove()
    statistics = statistics_of_layers(network)
    statistics |= {name for call in normed for name in (call.mean, call.variance)}
    first, *others = [own for own in fixed if own is not None]
    if any(
        tensor.is_floating_point()
        and name not in statistics
        and not all(equal_tensors(tensor, other[name]) for other in others)
        for name, tensor in first.items()
    ):
        return None
    width = anchors.element_size() * len(anchors) * objective.rows.count
    chosen: dict[str, nn.Module] = {}
    room = float(_MOST_BYTES)
    for name, calls in inputs.items():
        fan_in = owned[name].weight[0].numel()  # type: ignore[index]  # a Tensor, of these kinds
        if calls == [True] and fan_in >= _WORTH * len(anchors) and sizes[name] * width <= room:
            chosen[name] = owned[name]
            room -= sizes[name] * width
    return FirstLayers(objective, anchors, chosen) if chosen else None


def _trained_layers(network: Network) -> dict[str, nn.Module]:
    """Layers of known kinds whose parameters are all unshared and part of θ."""
    trained = set(network.names)
    users: dict[int, int] = {}
    for module in network.model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    found = {}
    for name, module in network.model.named_modules():
        own = dict(module.named_parameters(prefix=name, recurse=False))
        hooked = module._forward_hooks or module._forward_pre_hooks
        alone = all(users[id(parameter)] == 1 for parameter in own.values())
        if type(module) in _KINDS and not hooked and trained.issuperset(own) and alone:
            found[name] = module
    return found


@contextlib.contextmanager
def _seen_by(layers: Mapping[str, nn.Module], seen: dict[str, Tensor]) -> Iterator[None]:
    """Store each layer's output, and end the pass after the last one."""

    def keeper(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            seen[name] = output.clone()  # later layers may change it in place
            if len(seen) == len(layers):
                raise EnoughError

        return hook

    hooks = [layer.register_forward_hook(keeper(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
