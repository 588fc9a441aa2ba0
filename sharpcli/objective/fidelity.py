"""Whether the network that is measured is the task's: its function beside the model's own.

The model as the task gave it is loaded with the same tensors and runs its own forward pass, and
the gradient that is measured is held against differences of the loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError, setting
from sharpcli.objective.network import Network, exact_arithmetic, sums_and_weights
from sharpcli.objective.outputs import tensors_of
from sharpcli.objective.reach import Substitution, inside
from sharpcli.objective.rows import Rows
from sharpcli.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    from sharpcli.runs.study import Study

__all__ = ["check_fidelity", "check_pass", "check_reach", "some_rows"]

# Random rows that are looked at: every layer sees some, and they cost nothing beside the data.
_ROWS = 8
# The parameters are compared a little off the checkpoint's, each tensor by this share of its root
# mean square: numbers that were computed from others, or cached in an earlier pass, then differ.
_NUDGE = 0.01
_NUDGE_OF_ZEROS = 1e-3
# Rounding that the two may differ by, in units of the dtype. They run the same operations; where
# tensors lie in memory changes the order of sums.
_ROUNDINGS = 1000
# Where that is not enough, by how much more than the rounding seen when every parameter is moved
# by a unit or two in the last place.
_SENSITIVITY = 30
# A difference along a direction and the gradient's slope: float64 leaves 1e-8 of a right one, a
# part of the model that is left out of differentiation more than this.
_SLOPE = {torch.float64: 1e-3, torch.float32: 5e-2}
_STEPS = {torch.float64: (1e-5, 1e-6, 1e-7), torch.float32: (3e-3, 1e-3, 3e-4)}
_SHOWN = 3


def check_fidelity(
    study: Study, tensors: Mapping[str, Tensor], warnings: list[str], *, gradients: bool = True
) -> None:
    """Raise `SharpError` where what is measured is not the task's model, naming the parameters.

    The model is loaded with a checkpoint's `tensors`, a little off them; outputs, losses and (with
    `gradients`) gradients on a few random rows are those of the functional network, and its
    gradient is the slope of its loss. Once for a study, whose original model is let go of. Cost: a
    few gradients on eight rows, and for a moment memory for four of θ.
    """
    original, study.original = study.original, None
    if original is None:
        return
    rows = _some(study)
    _compare(study.network, original, tensors, rows, study.run.seed, warnings, gradients)
    if gradients:
        _check_slope(study.network, tensors, rows, study.run.seed)


def check_reach(study: Study, tensors: Mapping[str, Tensor]) -> None:
    """Raise `SharpError` where a forward pass uses what no checkpoint holds, or changes parameters.

    Once for a study, before `check_fidelity`. Cost: a forward pass on eight rows.
    """
    if study.original is not None:
        check_pass(study.network, study.original, tensors, _some(study))


def _some(study: Study) -> Rows:
    """A few random rows of what is measured on."""
    rows = study.rows["train" if study.run.split == "both" else study.run.split]
    return some_rows(rows, study.run.seed)


def some_rows(rows: Rows, seed: int) -> Rows:
    """A few random rows, as they are looked at here."""
    if rows.fixed_batch:  # an example's loss is defined in its batch only
        return rows.head(rows.fixed_batch)
    if rows.count <= _ROWS:
        return rows
    order = torch.randperm(rows.count, generator=torch.Generator().manual_seed(seed))
    chosen = rows.take(order[:_ROWS].sort().values)
    return Rows(chosen.batch, chosen.count, chosen.count)


def check_pass(
    network: Network, original: nn.Module, tensors: Mapping[str, Tensor], rows: Rows
) -> None:
    """Raise `SharpError` where a pass over rows uses what can be trained and no checkpoint holds.

    So it does where the pass changes parameters. `original` is the model that the network is of.
    """
    theta, fixed = network.flatten(tensors), network.fixed(tensors)

    def passed() -> Substitution:
        # As leaves, for a model that takes derivatives in its parameters.
        parameters = [part.clone().requires_grad_() for part in network.unflatten(theta)]
        watch = Substitution(network.reach, network.values(parameters, fixed))
        versions.update({name: tensor._version for name, tensor in watch.values.items()})
        try:
            outputs = network.outputs(parameters, {}, rows.batch, watch=watch)
        finally:  # before what it may have failed of: another dtype than the parameters' own
            _refuse_unregistered(network, watch, rows, original)
        network.losses(outputs, rows.batch, rows.count)
        return watch

    versions: dict[str, int] = {}
    with torch.no_grad(), network.arithmetic():
        try:
            watch = passed()
        except (SharpError, RuntimeError) as error:
            if not network.differentiates_itself(error):
                raise
            watch = passed()
    for name in network.names:
        if watch.values[name]._version != versions[name]:
            raise SharpError(
                f"task '{network.task.name}': a forward pass changes the parameter '{name}'",
                "the loss must be one fixed function of the parameters: leave them as they are in "
                "forward() (an Embedding's max_norm, a weight that is clamped in place)",
            )


def _refuse_unregistered(
    network: Network, watch: Substitution, rows: Rows, original: nn.Module
) -> None:
    storages = rows.storages()
    outside = [
        tensor
        for tensor in watch.outside
        if tensor.requires_grad and tensor.untyped_storage().data_ptr() not in storages
    ]
    if not outside:
        return
    names: dict[int, str] = {}
    for model in (network.model, original):
        for prefix, module in model.named_modules():
            for place, tensor in inside(module):
                names.setdefault(id(tensor), f"{prefix}.{place}" if prefix else place)
    said = [
        f"'{names[id(tensor)]}'"
        if id(tensor) in names
        else f"a tensor of shape {tuple(tensor.shape)}"
        for tensor in outside
    ]
    raise SharpError(
        f"task '{network.task.name}': the forward pass uses what can be trained but is no "
        f"parameter of the model, so that no checkpoint holds it: {_listed(said)}",
        "register it (nn.ModuleList, nn.ParameterList, or an attribute of the module) and save the "
        "checkpoint again; where it is meant to stay as model() makes it, call requires_grad_("
        "False) on it",
    )


class _Seen:
    """What a pass on a few rows gives: the outputs, losses and weights, and what leads to them."""

    def __init__(self, outputs: Any, total: Tensor, weight: Tensor, leaves: Mapping[str, Tensor]):
        self.values = [each.detach() for each in (*tensors_of(outputs), total, weight)]
        self._total, self._leaves = total.double().sum(), leaves
        self._gradients: dict[str, Tensor] | None = None

    @property
    def loss(self) -> float:
        """The sum of the losses."""
        return float(self._total)

    @property
    def largest(self) -> float:
        """The largest entry of the outputs, losses and weights."""
        return max(float(value.abs().max()) for value in self.values if value.numel())

    @property
    def finite(self) -> bool:
        """Whether all values are."""
        return all(bool(torch.isfinite(value).all()) for value in self.values)

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Of the sum of the losses, by parameter; where nothing leads to one, it is left out."""
        if self._gradients is None:
            found: Sequence[Tensor | None] = [None] * len(self._leaves)
            if self._total.requires_grad:
                leaves = list(self._leaves.values())
                found = torch.autograd.grad(self._total, leaves, allow_unused=True)
            self._gradients = {
                name: _as_reals(each)
                for name, each in zip(self._leaves, found, strict=True)
                if each is not None
            }
        return self._gradients


def _of_model(like: Network, original: nn.Module, rows: Rows) -> _Seen:
    """What the model itself gives, called as the task calls it."""
    task, own = like.task, dict(original.named_parameters())
    with exact_arithmetic():
        outputs = task.predict(original, rows.batch)
        pair = sums_and_weights(task.loss(outputs, rows.batch), rows.count, f"{task.name}: loss")
    return _Seen(outputs, *pair, {name: own[name] for name in like.names})


def _of_network(
    network: Network, theta: Tensor, tensors: Mapping[str, Tensor], rows: Rows
) -> _Seen:
    """What the functional network gives."""
    leaves = [view.requires_grad_() for view in network.unflatten(theta.detach())]
    with exact_arithmetic():
        outputs = network.outputs(leaves, network.fixed(tensors), rows.batch)
        pair = network.losses(outputs, rows.batch, rows.count)
    return _Seen(outputs, *pair, dict(zip(network.names, leaves, strict=True)))


def _compare(
    network: Network,
    original: nn.Module,
    tensors: Mapping[str, Tensor],
    rows: Rows,
    seed: int,
    warnings: list[str],
    gradients: bool,
) -> None:
    """Hold the functional network against the model itself, in the model's own dtype."""
    kinds = _kinds(original)
    own = next(iter(kinds)) if len(kinds) == 1 else torch.float32
    eps = max(torch.finfo(kind).eps for kind in kinds)
    # Of two dtypes in one model the functional network makes one.
    share = min(_ROUNDINGS * eps, 0.1) if len(kinds) == 1 else 0.1
    if network.device.type == "mps" and own == torch.float64:
        return
    rows = rows.to(network.device, own)
    like = network if network.compute == own else _in_dtype(network, own, original)
    with torch.no_grad():  # what is kept between passes is now that of other parameters
        _of_network(like, like.flatten(tensors), tensors, rows)
    for nudged in (True, False):
        theta = like.flatten(tensors)
        theta = _nudged(like, theta, seed) if nudged else theta
        with _loaded(original, like, theta, tensors) as load:
            try:
                real = _of_model(like, original, rows)
            except SharpError as error:
                warnings.append(f"the network was not compared with the model: {error.message}")
                return
            found = _of_network(like, theta, tensors, rows)
            if nudged and not (real.finite and found.finite):
                continue  # a little off the checkpoint's is out of the loss's domain
            other = None
            if _values_differ(found, real, share, other) or (
                gradients and _unlike_gradients(found, real, share, other)
            ):
                near = theta * (1 + 2 * eps * torch.randn_like(theta))
                other = _of_network(like, near, tensors, rows)
            else:
                return
            if _values_differ(found, real, share, other):
                names = _without_effect(found, real)
                names = names or _stale(like, original, load, theta, tensors, rows)
                _refuse_values(network, names)
            if gradients:
                names = _unlike_gradients(found, real, share, other)
                if names:
                    _refuse_gradients(network, names)
        return


def _refuse_values(network: Network, names: Sequence[str]) -> NoReturn:
    reached = _listed([repr(name) for name in names]) if names else "parameters"
    raise SharpError(
        f"task '{network.task.name}': the network that would be measured is not the model: with "
        f"the same parameters its outputs differ. The forward pass reaches {reached} in a way that "
        "does not follow the checkpoint",
        "read parameters from their module in forward(): not from a copy that was made when the "
        "model was built or loaded, not from a result kept from an earlier pass, and not in "
        "scripted or traced code",
    )


def _refuse_gradients(network: Network, names: Sequence[str]) -> NoReturn:
    raise SharpError(
        f"task '{network.task.name}': the network that would be measured is not the model: with "
        f"the same parameters the gradient differs in {_listed([repr(name) for name in names])}",
        "a function or hook of the model's own reads parameters in the backward pass, or is handed "
        "them from a list or a closure: hand it the parameters of their modules, and in its "
        "backward() use what it was handed (torch.utils.checkpoint needs no change)",
    )


def _values_differ(found: _Seen, real: _Seen, share: float, other: _Seen | None) -> bool:
    """Whether outputs or losses differ by more than rounding, which `other` shows."""
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


def _unlike_gradients(found: _Seen, real: _Seen, share: float, other: _Seen | None) -> list[str]:
    """Parameters in which the gradients differ by more than rounding, the most unlike first."""
    ones, twos = found.gradients, real.gradients
    sizes = {name: float(each.norm()) for name, each in twos.items()}
    largest = max(sizes.values(), default=0.0)
    unlike = []
    for name in {**ones, **twos}:
        one, two = ones.get(name), twos.get(name)
        # A tensor's own size, and of tiny ones what rounding of the large ones leaves in them.
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


def _without_effect(found: _Seen, real: _Seen) -> list[str]:
    """Parameters that the model's loss depends on and the network's does not."""
    ones, twos = found.gradients, real.gradients
    return [
        name
        for name, two in twos.items()
        if float(two.norm()) > 0 and (name not in ones or float(ones[name].norm()) == 0)
    ]


def _stale(
    network: Network,
    original: nn.Module,
    load: Callable[[Tensor], None],
    theta: Tensor,
    tensors: Mapping[str, Tensor],
    rows: Rows,
) -> list[str]:
    """Parameters that one of the model's and the network's losses depends on, and not the other.

    Cost: two passes on a few rows for each parameter.
    """
    away = _nudged(network, theta, 1)

    def losses(vector: Tensor) -> tuple[float, float]:
        load(vector)
        both = (
            _of_network(network, vector, tensors, rows),
            _of_model(network, original, rows),
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


def _check_slope(network: Network, tensors: Mapping[str, Tensor], rows: Rows, seed: int) -> None:
    """Raise `SharpError` where the gradient is not the slope of the loss along a direction."""
    for kind in (torch.float64, torch.float32):
        if kind == torch.float64 and network.device.type == "mps":
            continue
        like = network if network.compute == kind else _in_dtype(network, kind)
        theta = _nudged(like, like.flatten(tensors), seed)
        rows = rows.to(network.device, kind)
        try:
            seen = _of_network(like, theta, tensors, rows)
            gradients = seen.gradients
        except (RuntimeError, TypeError, SharpError) as error:  # such as a kernel of float32 alone
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            continue
        if gradients and seen.finite:  # otherwise it is said elsewhere
            _hold_against_slope(like, theta, seen, tensors, rows, seed)
        return


def _hold_against_slope(
    network: Network,
    theta: Tensor,
    seen: _Seen,
    tensors: Mapping[str, Tensor],
    rows: Rows,
    seed: int,
) -> None:
    kind, gradients = network.dtype, seen.gradients
    # A loss near zero is the difference of outputs that are not, and rounds as they do.
    largest = rows.count * seen.largest
    slope = torch.cat(
        [
            gradients[name].reshape(-1) if name in gradients else theta.new_zeros(size)
            for name, size in zip(network.names, network.sizes, strict=True)
        ]
    )
    direction = network.trained(_nudged(network, theta, seed + 1) - theta, slope)
    parts = dict(zip(network.names, network.unflatten(direction), strict=True))
    slopes = {
        name: float((gradients[name].double() * part.double()).sum()) if name in gradients else 0.0
        for name, part in parts.items()
    }

    def off(vector: Tensor, slope: float, scale: float) -> bool:
        """Whether no difference along a vector is near the slope."""
        for step in _STEPS[kind]:
            step /= _NUDGE
            up, down = (
                _loss(network, theta.add(vector, alpha=sign * step), tensors, rows)
                for sign in (1, -1)
            )
            difference = (up - down) / (2 * step)
            rounding = 10 * torch.finfo(kind).eps * (abs(up) + abs(down) + largest) / step
            allowed = _SLOPE[kind] * max(scale, abs(difference)) + rounding
            if not abs(difference - slope) > allowed:  # nor for NaN
                return False
        return True

    scale = sum(slope**2 for slope in slopes.values()) ** 0.5
    if not off(direction, sum(slopes.values()), scale):
        return
    # Logits turned to float32, or autocast, leave only larger differences, or none.
    kind = _coarsest(network, theta, tensors, rows)
    if kind not in _STEPS or not off(direction, sum(slopes.values()), scale):
        return
    names = []
    for index, name in enumerate(network.names):
        alone = torch.zeros_like(direction)
        network.unflatten(alone)[index].copy_(parts[name])
        if off(alone, slopes[name], abs(slopes[name])):
            names.append(name)
    among = f" in {_listed([repr(name) for name in names])}" if names else ""
    padding = [(name, row) for name, row in network.seen_padding(slope) if name in names]
    if padding:
        name, row = padding[0]
        raise SharpError(
            f"task '{network.task.name}': the gradient is not the slope of the loss{among}: row "
            f"{row} of '{name}' is padding (padding_idx), for which PyTorch leaves the embedding's "
            "derivative out, and the model uses that row elsewhere too",
            "mask the padded positions so that the loss does not depend on them, or build the "
            "embedding without padding_idx, or measure the loss alone: "
            f"{setting('measures', ['loss'])}",
        )
    raise SharpError(
        f"task '{network.task.name}': the gradient is not the slope of the loss{among}: a small "
        "step changes the loss by another amount than the gradient says",
        "something between the parameters and the loss is left out of differentiation or has "
        "another derivative (detach(), .data, no_grad(), rounding with a straight-through "
        "gradient, a hook or backward of its own); take it out, or measure the loss alone: "
        f"{setting('measures', ['loss'])}",
    )


def _coarsest(
    network: Network, theta: Tensor, tensors: Mapping[str, Tensor], rows: Rows
) -> torch.dtype:
    """The dtype with the fewest digits that a forward pass computes in."""
    leaves = [part.detach().requires_grad_() for part in network.unflatten(theta)]
    values = network.values(leaves, network.fixed(tensors))
    watch = Substitution(network.reach, values)
    with torch.no_grad(), exact_arithmetic():
        outputs = network.outputs([], {}, rows.batch, watch=watch)
        with watch:
            network.losses(outputs, rows.batch, rows.count)
    # float16 and bfloat16 are of one kind here
    return next((k for k in _STEPS if watch.coarsest <= torch.finfo(k).eps), torch.bfloat16)


def _loss(network: Network, theta: Tensor, tensors: Mapping[str, Tensor], rows: Rows) -> float:
    with torch.no_grad():
        return _of_network(network, theta, tensors, rows).loss


def _nudged(network: Network, theta: Tensor, seed: int) -> Tensor:
    """Every tensor of θ moved at random by a small share of its root mean square."""
    generator = torch.Generator().manual_seed(seed)
    moved = torch.randn(len(theta), generator=generator, dtype=torch.float32).to(theta)
    for step, part in zip(network.unflatten(moved), network.unflatten(theta), strict=True):
        size = float(part.double().square().mean().sqrt()) if part.numel() else 0.0
        step.mul_(_NUDGE * size or _NUDGE_OF_ZEROS)
    return moved.add_(theta)


@contextlib.contextmanager
def _loaded(
    original: nn.Module, like: Network, theta: Tensor, tensors: Mapping[str, Tensor]
) -> Iterator[Callable[[Tensor], None]]:
    """The original model on the device, in the network's mode, with θ and a checkpoint's rest.

    Gives what loads it with another θ. It is as it was afterwards: it may be its maker's still.
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
    # Hooks on parameters change what an optimizer sees (clipped gradients), not the loss's slope.
    hooks = [(p, p._backward_hooks) for p in original.parameters()]
    # By memory: a buffer may lie in a parameter's.
    names = {p.data_ptr(): name for name, p in original.named_parameters() if p.numel()}
    trained = set(like.names)
    keys = {
        key: key if key in trained else names.get(tensor.data_ptr())
        for key, tensor in original.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor)
    }

    def load(vector: Tensor) -> None:
        parts = dict(zip(like.names, like.unflatten(vector), strict=True))
        state = {
            key: _as_stored(like, name, parts[name]) if name in parts else tensors[key]
            for key, name in keys.items()
            if name in parts or key in tensors
        }
        original.load_state_dict(state, strict=False)

    try:
        if elsewhere:
            original.to(like.device)
        load(theta)
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
            if elsewhere:
                tensor.data = before[place]
            else:
                tensor.data.copy_(before[place])


def _in_dtype(network: Network, kind: torch.dtype, model: nn.Module | None = None) -> Network:
    """The network computing in a dtype, of its skeleton or of the `model` that it is a copy of."""
    wide = kind if kind in (torch.float32, torch.float64) else torch.float32
    return Network(
        network.model if model is None else model,
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


def _as_reals(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.to_dense() if tensor.is_sparse else tensor


def _as_stored(network: Network, name: str | None, part: Tensor) -> Tensor:
    """A parameter's part of θ as the model stores it."""
    return torch.view_as_complex(part.clone()) if name in network.complex_names else part


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
