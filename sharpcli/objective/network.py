"""A task's model as a pure function of its parameters."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.losses import sums_and_weights
from sharpcli.objective.places import holding, places_of
from sharpcli.objective.reach import Reach, Substitution, computed_when_built
from sharpcli.objective.rows import Batch

if TYPE_CHECKING:
    from sharpcli.tasks import Task

__all__ = ["Network"]


# The message of torch.autograd.grad in a pass that keeps no graph.
_NO_GRAPH = "does not require grad"
# The parameters and aliases of a skeleton, from which further skeletons are made.
_reaches: weakref.WeakKeyDictionary[nn.Module, Reach] = weakref.WeakKeyDictionary()


class Network:
    """A task's model as a pure function of a flat parameter vector θ (n,).

    θ holds the parameters that require gradients, in `named_parameters()` order, each storage once.
    A complex parameter is stored as pairs of real numbers, with a last dimension of two. The module
    is copied without these parameters and serves as a skeleton: its own tensors, mode flags and
    `.grad` are never touched. If a forward pass reaches parameters by another way than their
    modules (a closure, a list), the first pass detects it, and they are replaced there in every
    pass.

    Args:
        model: the task's model.
        task: its predict() and loss().
        device: where it runs.
        dtype: of θ and of everything accumulated.
        compute: in which the model runs, if narrower than `dtype` (bfloat16 in float32).
        mode: "eval" or "train".
        tf32: let a GPU round factors of float32 products to three digits.

    Raises:
        SharpError: if no parameter requires a gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        compute: torch.dtype | None = None,
        mode: str = "eval",
        tf32: bool = False,
    ) -> None:
        self.task, self.device, self.dtype, self.tf32 = task, device, dtype, tf32
        self.compute = compute or dtype
        trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
        if not trained:
            raise SharpError(
                f"the model of task '{task.name}' has no parameter that requires a gradient",
                "model() must leave requires_grad on for the parameters to measure",
            )
        self.reach = Reach(_reaches.get(model))
        if model not in _reaches:
            self.reach.add(model)
        self.model = _skeleton(model, trained.values(), device, self.reach, task.name)
        self._training = mode == "train"
        self.model.train(self._training)
        self.reach.add(self.model)
        _reaches[self.model] = self.reach
        self.idle = False
        self._memory_format = torch.preserve_format
        self._places = places_of(self.model)
        self._measure(list(trained))

    def _measure(self, names: list[str]) -> None:
        """Make θ hold the parameters `names`; all others are fixed."""
        own, chosen = dict(self.model.named_parameters()), set(names)
        self.names = names
        self.complex_names = {name for name in names if own[name].is_complex()}
        self.shapes = [
            torch.Size([*own[name].shape, 2]) if name in self.complex_names else own[name].shape
            for name in names
        ]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.size = sum(self.sizes)
        self.fixed_parameters = [name for name in own if name not in chosen]
        self.fixed_names = [*self.fixed_parameters, *(k for k, _ in self.model.named_buffers())]

    @property
    def some_training(self) -> bool:
        """Whether some module is in training mode, where it may use its batch's statistics."""
        return any(module.training for module in self.model.modules())

    def subset(self, names: Sequence[str], *, idle: bool = False) -> Network:
        """The network with a θ of the parameters `names` alone, in the order of this one's.

        The rest of θ is then fixed, as frozen parameters are. If `idle`, the loss need not depend
        on θ at all, and its derivatives are then 0. The skeleton is shared.
        """
        chosen, part = set(names), copy.copy(self)
        part.idle = idle
        part._measure([name for name in self.names if name in chosen])
        return part

    def in_precision(self, kind: torch.dtype) -> Network:
        """The network in another floating-point precision. The skeleton is shared."""
        part = copy.copy(self)
        part.dtype = part.compute = kind
        return part

    def with_loss(self, loss: Callable[[Any, Batch], Any]) -> Network:
        """The network with another loss. The skeleton is shared."""
        part = copy.copy(self)
        part.task = dataclasses.replace(self.task, loss=loss)
        return part

    def with_channels_last(self) -> Network:
        """The network with filters of two-dimensional convolutions stored channels last."""
        part = copy.copy(self)
        part._memory_format = torch.channels_last
        return part

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """θ (n,) from tensors by name, as in a state dict."""
        parts = []
        for name in self.names:
            pairs = name in self.complex_names
            kind = _complex(self.dtype) if pairs else self.dtype
            tensor = tensors[name].detach().to(self.device, kind)
            tensor = torch.view_as_real(tensor.resolve_conj()) if pairs else tensor
            parts.append(tensor.reshape(-1))
        return torch.cat(parts)

    def fixed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's other tensors: buffers and fixed parameters, floats in the run's dtype."""
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        fixed = {}
        for name in self.fixed_names:
            tensor = tensors.get(name, own[name]).detach()  # non-persistent buffers: the model's
            kind = self._precision_of(tensor)
            fixed[name] = tensor.to(self.device, kind, copy=True)
        return fixed

    def converted(self, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the tensors of `fixed` from another precision to this one."""
        return {name: tensor.to(self._precision_of(tensor)) for name, tensor in fixed.items()}

    def _precision_of(self, tensor: Tensor) -> torch.dtype:
        """The dtype in which a buffer or a fixed parameter is used."""
        if tensor.is_complex():
            return _complex(self.compute)
        return self.compute if tensor.is_floating_point() else tensor.dtype

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector (n,), one for each parameter, in the parameters' shapes."""
        parts = torch.split(vector, self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    @property
    def pads(self) -> bool:
        """Whether some embedding keeps a row for padding."""
        return bool(self.padding)

    @property
    def padding(self) -> list[tuple[str, int]]:
        """The rows reserved for padding by embeddings, as (parameter, row), in passes so far."""
        return sorted(place for place in self.reach.padded if place[0] in set(self.names))

    def trained(self, vector: Tensor, gradient: Tensor | None = None) -> Tensor:
        """The vector (n,) with zeros in the rows that embeddings reserve for padding, in place.

        PyTorch leaves these rows out of gradients, so they are never trained. Rows in which a
        `gradient` is not zero, because another layer uses them too, stay as they are.
        """
        parts = dict(zip(self.names, self.unflatten(vector), strict=True))
        for name, row in self.padding:
            if gradient is None or not self._has_slope(gradient, name, row):
                parts[name][row] = 0
        return vector

    def seen_padding(self, gradient: Tensor) -> list[tuple[str, int]]:
        """The padding rows in which a gradient (n,) is not zero: they are more than padding."""
        return [place for place in self.padding if self._has_slope(gradient, *place)]

    def _has_slope(self, gradient: Tensor, name: str, row: int) -> bool:
        return bool(self.unflatten(gradient)[self.names.index(name)][row].any())

    def locate(self, index: int) -> str:
        """The name of the parameter tensor that holds entry `index` of θ."""
        for name, size in zip(self.names, self.sizes, strict=True):
            if index < size:
                return name
            index -= size
        raise IndexError(index)

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """The arithmetic in which the model runs: `exact_arithmetic`."""
        return exact_arithmetic(tf32=self.tf32)

    def outputs(
        self,
        parameters: list[Tensor],
        fixed: Mapping[str, Tensor],
        batch: Batch,
        *,
        watch: Substitution | None = None,
    ) -> Any:
        """The task's predictions for a batch. Buffers that a forward pass updates are copies.

        `watch` sees the arguments of PyTorch's functions; its tensors come from `values`.

        Raises:
            SharpError: if the task refuses the batch.
            RuntimeError: if the pass fails and a graph would not help.
        """
        try:
            return self._outputs(parameters, fixed, batch, watch)
        except (SharpError, RuntimeError) as error:
            if not self.differentiates_itself(error):
                raise
        return self._outputs(parameters, fixed, batch, watch)

    def differentiates_itself(self, error: Exception) -> bool:
        """Whether an error means that the model or its loss computes derivatives itself.

        If so, passes that need no gradient keep a graph from now on.
        """
        said = str(error.__cause__ or error)
        if torch.is_grad_enabled() or self.reach.differentiates or _NO_GRAPH not in said:
            return False
        self.reach.differentiates = True
        return True

    def _outputs(
        self,
        parameters: list[Tensor],
        fixed: Mapping[str, Tensor],
        batch: Batch,
        watch: Substitution | None,
    ) -> Any:
        values = self.values(parameters, fixed) if watch is None else watch.values
        if watch is None and self.reach.strays is not False:
            watch = Substitution(self.reach, values)
        with holding(self._places, values), self._graph():
            if watch is None:
                return self.task.predict(self.model, batch)
            with self._modes(), watch:
                found = self.task.predict(self.model, batch)
        self.reach.strays = self.reach.strays or bool(watch.strays) or watch.altered
        self.reach.padded |= watch.padded
        return found

    def _graph(self) -> contextlib.AbstractContextManager[Any]:
        """Enable gradients if the model or its loss computes derivatives itself."""
        return torch.set_grad_enabled(torch.is_grad_enabled() or self.reach.differentiates)

    def values(self, parameters: list[Tensor], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensor for each parameter and buffer of the model, by name."""
        if self._training:
            fixed = {name: tensor.clone() for name, tensor in fixed.items()}
        if self.reach.differentiates:
            parameters = [p if p.requires_grad else p.detach().requires_grad_() for p in parameters]
        own = {
            name: self._value(name, parameter)
            for name, parameter in zip(self.names, parameters, strict=True)
        }
        return {**own, **fixed}

    def _value(self, name: str, parameter: Tensor) -> Tensor:
        if name in self.complex_names:
            # The product with one copies: a pair may start at an odd offset in θ and in product
            # vectors.
            return torch.view_as_complex(parameter.to(_complex(self.compute).to_real()) * 1)
        if parameter.ndim == 4:
            return parameter.to(self.compute, memory_format=self._memory_format)
        return parameter.to(self.compute)

    @contextlib.contextmanager
    def _modes(self) -> Iterator[None]:
        """Puts the models that this one copies into its mode: a closure may hold one of them."""
        wanted = {name: module.training for name, module in self.model.named_modules()}
        changed = []
        try:
            for model in self.reach.models():
                for name, module in model.named_modules():
                    training = wanted.get(name, module.training)
                    if module.training != training:
                        changed.append(module)
                        module.training = training
            yield
        finally:
            for module in changed:
                module.training = not module.training

    def losses(self, outputs: Any, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        """Per-example sums and weights of the loss, or one sum and one weight for the batch."""
        with self._graph():
            found = self.task.loss(outputs, batch)
        total, weight = sums_and_weights(found, count, f"{self.task.name}: loss")
        return (total if torch.is_grad_enabled() else total.detach()), weight


def _skeleton(
    model: nn.Module,
    trained: Iterable[nn.Parameter],
    device: torch.device,
    reach: Reach,
    source: str,
) -> nn.Module:
    """Copy the model to a device with shapes, but no memory, for its `trained` parameters.

    θ replaces them whenever the model runs, so their own numbers would be a useless copy.

    Raises:
        SharpError: if the model cannot be copied.
    """
    places: dict[int, Any] = {}
    for parameter in trained:
        nothing = torch.zeros((), dtype=parameter.dtype, device=device)
        places[id(parameter)] = nn.Parameter(nothing.expand(parameter.shape))
    # Weight norm and pruning keep their last result in the module. PyTorch does not copy such a
    # tensor. They recompute it before use, and where nothing does, using it is refused.
    for tensor, where in computed_when_built(model):
        places[id(tensor)] = tensor.detach().to(device, copy=True)
        reach.add_built(places[id(tensor)], where)
        reach.add_built(tensor, where)
    try:
        return copy.deepcopy(model, places).to(device)
    except (RuntimeError, TypeError, AttributeError, pickle.PickleError) as error:
        raise SharpError(
            f"task '{source}': the model cannot be copied: {str(error).splitlines()[0]}",
            "let model() keep in the model only what copy.deepcopy copies: no files, locks or "
            "generators, and no tensors computed from parameters",
        ) from error


def _complex(dtype: torch.dtype) -> torch.dtype:
    """The complex dtype with parts of a real dtype; bfloat16 has none."""
    return torch.complex128 if dtype == torch.float64 else torch.complex64
