"""Parameters that a forward pass reaches by another way than from their module.

A closure, a list, a dictionary, a hook or a global name may hold a parameter too. They are
recognised by identity: wherever PyTorch gets a tensor that represents a parameter or a buffer, that
tensor is replaced by its present value.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sharpcli.errors import SharpError
from sharpcli.objective.second_derivatives import MADE_OF_OTHERS

__all__ = ["Reach", "Substitution", "computed_when_built", "inside"]

# The position of the argument `sparse`. Sparse gradients have no second derivative.
_SPARSE = {functional.embedding: 6}
_ASKS_FOR_GRADIENT = {Tensor.requires_grad_, vars(torch._C.TensorBase)["requires_grad"].__set__}
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# The nesting depth searched in lists, dictionaries and objects of a module.
_DEPTH = 4


class Reach:
    """Maps tensors of a model, and of its origins, to the parameters and buffers they represent.

    `strays` says whether a forward pass reaches one of them by another way, None if unknown; then
    passes need `Substitution`. `padded` are the rows that embeddings reserve for padding, as
    (parameter, row). `differentiates` says that the model or its loss computes derivatives itself.
    Tensors are not kept alive.
    """

    def __init__(self, origin: Reach | None = None) -> None:
        self._named: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._built: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._models: list[weakref.ref[nn.Module]] = []
        self.strays: bool | None = None
        self.padded: set[tuple[str, int]] = set()
        self.differentiates = False
        if origin is not None:
            self.padded, self.differentiates = origin.padded, origin.differentiates
            self._named |= origin._named
            self._built |= origin._built
            self._models += origin._models
            self.strays = origin.strays

    def add(self, model: nn.Module) -> None:
        """Register a model's parameters and buffers under their names."""
        self._models.append(weakref.ref(model))
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._named[id(tensor)] = weakref.ref(tensor), name

    def add_built(self, tensor: Tensor, where: str) -> None:
        """Register a tensor that was computed from parameters when the model was built."""
        self._built[id(tensor)] = weakref.ref(tensor), where

    def name_of(self, tensor: Tensor) -> str | None:
        """The name of the parameter or buffer that a tensor represents."""
        return _found(self._named, tensor)

    def built(self, tensor: Tensor) -> str | None:
        """The place of a tensor that was computed when the model was built."""
        return _found(self._built, tensor)

    def models(self) -> list[nn.Module]:
        """The models that own these tensors and still exist."""
        return [model for reference in self._models if (model := reference()) is not None]


def _found(table: Mapping[int, tuple[weakref.ref[Tensor], str]], tensor: Tensor) -> str | None:
    found = table.get(id(tensor))
    return None if found is None or found[0]() is not tensor else found[1]


class Substitution(TorchFunctionMode):
    """A block in which tensors that represent parameters are replaced by their `values`.

    Using a tensor that was computed from parameters when the model was built is refused. Afterwards
    `strays` holds the names that were replaced and `padded` the rows that embeddings reserve for
    padding. `outside` are the tensors that require a gradient and are neither values nor made in
    the block. `coarsest` is the largest machine epsilon among results, larger than the values' if a
    model computes in a dtype of its own.
    """

    def __init__(self, reach: Reach, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._reach, self.values = reach, values
        self._own = {id(tensor): name for name, tensor in values.items()}
        self._inputs: list[Tensor] = []  # kept, so that no other tensor gets the same id
        self._leaves: dict[int, weakref.ref[Tensor]] = {}
        self.strays: set[str] = set()
        self.padded: set[tuple[str, int]] = set()
        self.altered = False
        self.coarsest = 0.0

    @property
    def outside(self) -> list[Tensor]:
        """Tensors used that require a gradient, are not values, and outlive the block."""
        return [leaf for each in self._leaves.values() if (leaf := each()) is not None]

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the function on the values."""
        args, kwargs = self._now(args), self._now(kwargs or {})
        place = _SPARSE.get(function)
        if place is not None:
            if len(args) > place and args[place]:
                args, self.altered = (*args[:place], False, *args[place + 1 :]), True
            if kwargs.get("sparse"):
                kwargs, self.altered = {**kwargs, "sparse": False}, True
            self._note_padding(args, kwargs)
        if function in MADE_OF_OTHERS:
            function, self.altered = MADE_OF_OTHERS[function], True
        if function is torch.view_as_complex and args:
            # Parameters, and the vectors of products, lie one after the other, so a pair may start
            # at an odd offset, where view_as_complex fails. The product with one is a tensor of its
            # own.
            args, self.altered = (args[0] * 1, *args[1:]), True
        if function in _ASKS_FOR_GRADIENT and args and not args[0].requires_grad:
            # An input in which the model differentiates; it is not trained.
            self._own[id(args[0])] = ""
            self._inputs.append(args[0])
        found = function(*args, **kwargs)
        if isinstance(found, Tensor) and found.dtype in _FLOATS:
            self.coarsest = max(self.coarsest, torch.finfo(found.dtype).eps)
        return found

    def _note_padding(self, args: Any, kwargs: Any) -> None:
        """Record which row of a parameter `functional.embedding` reserves for padding, if any."""
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        row = args[2] if len(args) > 2 else kwargs.get("padding_idx")
        name = self._own.get(id(weight))
        if name and row is not None:
            self.padded.add((name, row % len(weight)))

    def _now(self, node: Any) -> Any:
        """The node with values in place of their representatives; itself if it has none."""
        if isinstance(node, Tensor):
            return self._value(node)
        kind = type(node)
        if kind is dict:
            changed = {key: self._now(value) for key, value in node.items()}
            return changed if any(changed[key] is not node[key] for key in node) else node
        if kind is tuple or kind is list:
            parts = kind(self._now(value) for value in node)
            return parts if any(a is not b for a, b in zip(parts, node, strict=True)) else node
        return node

    def _value(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self._own:
            return tensor
        name = self._reach.name_of(tensor)
        if name is not None:
            self.strays.add(name)
            return self.values.get(name, tensor)
        where = self._reach.built(tensor)
        if where is not None:
            raise SharpError(
                f"'{where}' was computed from parameters when the model was built, and forward() "
                "uses it as it is: it does not follow the checkpoint's parameters",
                "compute it from the parameters in forward()",
            )
        if isinstance(tensor, nn.Parameter) or (tensor.requires_grad and tensor.is_leaf):
            self._leaves[id(tensor)] = weakref.ref(tensor)
        return tensor


def computed_when_built(model: nn.Module) -> list[tuple[Tensor, str]]:
    """Tensors with a graph that modules hold beside their parameters, with their places."""
    found = []
    for name, module in model.named_modules():
        for place, tensor in inside(module):
            if tensor.grad_fn is not None:
                found.append((tensor, f"{name}.{place}" if name else place))
    return found


def inside(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors in a module's own attributes, lists, dictionaries and objects, with their places.

    Modules in lists are searched; registered ones are not.
    """
    registered = ("_parameters", "_modules")
    seen: set[int] = {id(module)}
    own = {key: value for key, value in vars(module).items() if key not in registered}
    buffers = own.pop("_buffers", {})
    yield from _tensors({**buffers, **own}, "", _DEPTH, seen)


def _tensors(node: Any, place: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield place, node
        return
    if depth == 0 or id(node) in seen:
        return
    children: Iterable[tuple[str, Any]]
    if isinstance(node, nn.Module):
        every = (*node.named_parameters(), *node.named_buffers())
        children = [(f"{place}.{key}", value) for key, value in every]
    elif isinstance(node, Mapping):
        dotted = not place
        children = [
            (str(key) if dotted else f"{place}[{key!r}]", value) for key, value in node.items()
        ]
    elif isinstance(node, list | tuple):
        children = [(f"{place}[{index}]", value) for index, value in enumerate(node)]
    elif hasattr(node, "__dict__") and not isinstance(node, type) and not callable(node):
        children = [(f"{place}.{key}", value) for key, value in vars(node).items()]
    else:
        return
    seen.add(id(node))
    for where, child in children:
        yield from _tensors(child, where, depth - 1, seen)
