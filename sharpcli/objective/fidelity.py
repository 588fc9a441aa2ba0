"""Check that the measured network computes the same function as the task's own model.

The model as the task built it is loaded with the same tensors and runs its own forward pass. The
measured gradient is compared with differences of the loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sharpcli.checkpoint.contents import listed
from sharpcli.checkpoint.module_attributes import attributes
from sharpcli.checkpoint.own_hooks import loads_itself
from sharpcli.checkpoint.own_loading import loaded_by_itself
from sharpcli.errors import SharpError
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Rows
from sharpcli.objective.seen import Seen, nudge, of_model, of_network

__all__ = ["check_leaves", "check_likeness"]

# Rounding by which the two may differ, in units of the dtype. They run the same operations, but the
# memory layout of tensors changes the order of sums.
_ROUNDINGS = 1000
# The first words of advice.
_FROM_MODULES = (
    "read parameters from their module in forward(): not from a copy that was made when the model "
    "was built or loaded"
)
# If that is not enough: this many times the rounding seen when every parameter moves by a unit or
# two in the last place.
_SENSITIVITY = 30


def check_likeness(
    network: Network,
    original: nn.Module,
    tensors: Mapping[str, Tensor],
    rows: Rows,
    seed: int,
    warnings: list[str],
    gradients: bool,
) -> None:
    """Compare the functional network with the model itself, in the model's own dtype."""
    kinds = _kinds(original)
    own = next(iter(kinds)) if len(kinds) == 1 else torch.float32
    eps = max(torch.finfo(kind).eps for kind in kinds)
    # The functional network converts a model of two dtypes to one.
    share = min(_ROUNDINGS * eps, 0.1) if len(kinds) == 1 else 0.1
    if network.device.type == "mps" and own == torch.float64:
        return
    rows = rows.to(network.device, own)
    like = network if network.compute == own else _in_dtype(network, own, original)
    with torch.no_grad():  # anything cached between passes now has other parameters
        of_network(like, like.flatten(tensors), tensors, rows)
    for nudged in (True, False):
        theta = like.flatten(tensors)
        theta = nudge(like, theta, seed) if nudged else theta
        with _loaded(original, like, tensors) as load:
            try:
                with_own = load(theta)
                real = of_model(like, original, rows)
            except SharpError as error:
                warnings.append(f"the network was not compared with the model: {error.message}")
                return
            found = of_network(like, theta, with_own, rows)
            if nudged and not (real.finite and found.finite):
                continue  # a little off the checkpoint the loss is undefined
            other = None
            if _values_differ(found, real, share, other) or (
                gradients and _unlike_gradients(found, real, share, other)
            ):
                near = theta * (1 + 2 * eps * torch.randn_like(theta))
                other = of_network(like, near, with_own, rows)
            else:
                return
            if _values_differ(found, real, share, other):
                names = _without_effect(found, real)
                names = names or _stale(like, original, load, theta, rows)
                _refuse_values(network, names, itself=loads_itself(original))
            if gradients:
                names = _unlike_gradients(found, real, share, other)
                if names:
                    _refuse_gradients(network, names)
        return


def check_leaves(
    network: Network, original: nn.Module, tensors: Mapping[str, Tensor], rows: Rows
) -> None:
    """Refuse a network whose loss depends on the model's parameters in another way than by θ.

    A function may hold the model's own, or the model a result of an earlier pass. The original may
    be in training: it is not moved, and not even run.

    Raises:
        SharpError: it does; names the parameters.

    Cost: two forward passes.
    """
    theta = network.flatten(tensors)
    own = {
        id(parameter): name
        for model in (network.model, original)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    for _ in range(2):
        reached = [
            own.get(id(each), "parameters of an earlier pass")
            for each in of_network(network, theta, tensors, rows).strangers
            if id(each) in own or _is_part(each, theta)
        ]
        if reached:
            raise SharpError(
                f"{network.task.name}: cannot be measured: its forward pass reaches "
                f"{listed(reached, 3)} in a way that does not follow the weights",
                f"{_FROM_MODULES}, and not from a result kept from an earlier pass",
            )


def _refuse_values(network: Network, names: Sequence[str], *, itself: bool) -> NoReturn:
    own = (
        ". What the model's own load hook computes from parameters belongs into a buffer: "
        "register_buffer(name, tensor, persistent=False)"
    )
    reached = listed(names, 3) if names else "parameters"
    raise SharpError(
        f"task '{network.task.name}': the network that would be measured is not the model: with "
        f"the same parameters its outputs differ. The forward pass reaches {reached} in a way that "
        "does not follow the checkpoint",
        f"{_FROM_MODULES}, not from a result kept from an earlier pass, and not in scripted or "
        f"traced code{own if itself else ''}",
    )


def _refuse_gradients(network: Network, names: Sequence[str]) -> NoReturn:
    raise SharpError(
        f"task '{network.task.name}': the network that would be measured is not the model: with "
        f"the same parameters the gradient differs in {listed(names, 3)}",
        "a function or hook of the model's own reads parameters in the backward pass, or is handed "
        "them from a list or a closure: hand it the parameters of their modules, and in its "
        "backward() use what it was handed (torch.utils.checkpoint needs no change)",
    )


def _values_differ(found: Seen, real: Seen, share: float, other: Seen | None) -> bool:
    """Whether outputs or losses differ by more than the rounding that `other` shows."""
    if [v.shape for v in found.values] != [v.shape for v in real.values]:
        return True
    for index, (one, two) in enumerate(zip(found.values, real.values, strict=True)):
        finite = torch.isfinite(two)
        if not torch.equal(finite, torch.isfinite(one)):
            return True
        if not bool(finite.any()):
            continue
        one, two = one[finite].double(), two[finite].double()
        allowed = share * float(two.abs().max())
        if other is not None and other.values[index].shape == finite.shape:
            moved = (other.values[index][finite].double() - one).abs()
            allowed += _SENSITIVITY * float(moved.nan_to_num().max())
        if float((one - two).abs().max()) > allowed:
            return True
    return False


def _unlike_gradients(found: Seen, real: Seen, share: float, other: Seen | None) -> list[str]:
    """Parameters whose gradients differ by more than rounding, the largest difference first."""
    ones, twos = found.gradients, real.gradients
    sizes = {name: float(each.norm()) for name, each in twos.items()}
    largest = max(sizes.values(), default=0.0)
    unlike = []
    for name in {**ones, **twos}:
        one, two = ones.get(name), twos.get(name)
        # Relative to the tensor's own size; for tiny tensors, to the rounding of the large ones.
        allowed = share * (sizes.get(name, 0.0) + 0.01 * largest)
        if other is not None and one is not None and name in other.gradients:
            allowed += _SENSITIVITY * float((other.gradients[name] - one).norm())
        difference = _distance(one, two)
        if difference > allowed:
            unlike.append((difference, name))
    return [name for _, name in sorted(unlike, reverse=True)]


def _distance(one: Tensor | None, two: Tensor | None) -> float:
    if one is None or two is None:
        only = one if two is None else two
        return 0.0 if only is None else float(only.norm())
    return float((one.to(two.dtype) - two).norm())


def _without_effect(found: Seen, real: Seen) -> list[str]:
    """Parameters on which the model's loss depends and the network's does not."""
    ones, twos = found.gradients, real.gradients
    return [
        name
        for name, two in twos.items()
        if float(two.norm()) > 0 and (name not in ones or float(ones[name].norm()) == 0)
    ]


def _stale(
    network: Network,
    original: nn.Module,
    load: Callable[[Tensor], Mapping[str, Tensor]],
    theta: Tensor,
    rows: Rows,
) -> list[str]:
    """Parameters on which only one of the two losses depends, the model's or the network's.

    Cost: two passes on a few rows for each parameter.
    """
    away = nudge(network, theta, 1)

    def losses(vector: Tensor) -> tuple[float, float]:
        both = (
            of_network(network, vector, load(vector), rows),
            of_model(network, original, rows),
        )
        return both[0].loss, both[1].loss

    found = []
    with torch.no_grad():
        first = losses(theta)
        for index, name in enumerate(network.names):
            vector = theta.clone()
            network.unflatten(vector)[index].copy_(network.unflatten(away)[index])
            changes = [abs(now - then) for now, then in zip(losses(vector), first, strict=True)]
            if min(changes) <= 1e-3 * max(changes) and max(changes) > 0:
                found.append(name)
    return found


@contextlib.contextmanager
def _loaded(
    original: nn.Module, like: Network, tensors: Mapping[str, Tensor]
) -> Iterator[Callable[[Tensor], Mapping[str, Tensor]]]:
    """Let the original load θ and a checkpoint's rest, on the device, in the network's mode.

    Yields a function that loads a θ, and returns the rest with the buffers that code of the model's
    own made of it. Afterwards the model is as before: its maker may use it.
    """
    holders: list[tuple[Any, str, Tensor]] = [
        (holder, key, tensor)
        for module in original.modules()
        for holder in (module._parameters, module._buffers)
        for key, tensor in holder.items()
        if tensor is not None
    ]
    own = {id(tensor): tensor for _, _, tensor in holders}
    elsewhere = any(tensor.device != like.device for tensor in own.values())
    before = {key: tensor.data if elsewhere else tensor.data.clone() for key, tensor in own.items()}
    modes = [(module, module.training) for module in original.modules()]
    # Hooks on parameters change what an optimizer sees (clipped gradients), not the loss's
    # gradient.
    hooks = [(p, p._backward_hooks) for p in original.parameters()]
    # By memory, because a buffer may share a parameter's storage.
    names = {_memory(p): name for name, p in original.named_parameters() if p.numel()}
    trained = set(like.names)
    keys = {
        key: key if key in trained else names.get(_memory(tensor))
        for key, tensor in original.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor)
    }

    itself = loads_itself(original)
    # Attributes are as its own code made them of the file. It sees θ in another form than the
    # file's, and may make others of that.
    attributes_then = _own_attributes(original) if itself else []
    versions, rest = tensors, dict(tensors)
    if itself:  # they may be the original's own, which loading changes
        rest |= {name: each.clone() for name, each in tensors.items() if name not in trained}
    usual: dict[str, Any] = {}

    def load(vector: Tensor) -> Mapping[str, Tensor]:
        parts = dict(zip(like.names, like.unflatten(vector), strict=True))
        state = {
            key: _as_stored(like, name, parts[name]) if name in parts else rest[key]
            for key, name in keys.items()
            if name in parts or key in rest
        }
        if not itself:
            original.load_state_dict(state, strict=False)
            return tensors
        _restore(attributes_then)
        made = {**rest, **loaded_by_itself(original, state, versions)}
        nonlocal usual
        now = attributes(original)
        usual = usual or now
        if usual == now:  # else they depend on θ, and the outputs show it
            _restore(attributes_then)
        return made

    try:
        if elsewhere:
            original.to(like.device)
        if itself:
            load(like.flatten(tensors))
        original.train(like.model.training)
        for parameter, _ in hooks:
            parameter._backward_hooks = None
        yield load
    finally:
        for parameter, own_hooks in hooks:
            parameter._backward_hooks = own_hooks
        for module, training in modes:
            module.training = training
        for holder, key, tensor in holders:
            holder[key] = tensor
        for place, tensor in own.items():
            expanded = any(step == 0 for step in tensor.stride()) if not tensor.is_sparse else False
            if elsewhere or expanded:  # rows of an expanded tensor are one memory
                tensor.data = before[place]
            else:
                tensor.data.copy_(before[place])


_Attributes = list[tuple[dict[str, Any], dict[str, Any]]]


def _own_attributes(model: nn.Module) -> _Attributes:
    """What each module holds beside parameters, buffers and modules, and where."""
    return [
        (
            vars(module),
            {
                name: value.copy() if isinstance(value, dict) else value
                for name, value in vars(module).items()
                if name not in _HELD
            },
        )
        for module in model.modules()
    ]


_HELD = {"_parameters", "_buffers", "_modules", "training"}


def _restore(held: _Attributes) -> None:
    for own, then in held:
        for name in [*own.keys() - then.keys() - _HELD]:
            del own[name]
        own.update({k: each.copy() if isinstance(each, dict) else each for k, each in then.items()})


def _is_part(tensor: Tensor, vector: Tensor) -> bool:
    """Whether a tensor is a view of a vector, or of the same memory."""
    strided = tensor.layout == torch.strided
    return strided and tensor.untyped_storage().data_ptr() == vector.untyped_storage().data_ptr()


def _memory(tensor: Tensor) -> int | None:
    """Where a tensor's numbers begin; None for a sparse one, which has several parts."""
    return tensor.data_ptr() if tensor.layout == torch.strided else None


def _in_dtype(network: Network, kind: torch.dtype, original: nn.Module) -> Network:
    """A second network of the original in its dtype, without what this one's model has cached."""
    wide = kind if kind in (torch.float32, torch.float64) else torch.float32
    return Network(
        original,
        network.task,
        device=network.device,
        dtype=wide,
        compute=kind,
        mode="train" if network.model.training else "eval",
    ).subset(network.names)


def _kinds(model: nn.Module) -> set[torch.dtype]:
    """The real dtypes of a model's parameters and buffers."""
    return {
        tensor.dtype.to_real()
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point() or tensor.is_complex()
    }


def _as_stored(network: Network, name: str | None, part: Tensor) -> Tensor:
    """A parameter's part of θ in the form in which the model stores it."""
    return torch.view_as_complex(part.clone()) if name in network.complex_names else part
