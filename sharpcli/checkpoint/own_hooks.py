"""Let a model's own `load_state_dict` make its weights of a checkpoint's names and tensors.

A class may rename, transpose or rescale tensors of older versions of itself, and may compute
further ones when it is loaded. PyTorch runs this code in every `load_state_dict`.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.checkpoint.module_attributes import attributes, changed
from sharpcli.checkpoint.renaming import module_names
from sharpcli.checkpoint.state_dict import KEY, StateDict, Versions, versions_in
from sharpcli.errors import SharpError

__all__ = [
    "OwnLoading",
    "TranslationError",
    "by_place",
    "handed",
    "held",
    "load",
    "loaders",
    "loads_itself",
    "reads_versions",
    "stored",
    "translated",
    "versions_of",
]

# Hooks of torch that leave tensors as they are where the names fit.
_NAMES_ONLY = ("torch.nn.utils.parametrizations", "torch.nn.modules.lazy")


# How far a hook's closure is searched for a model.
_DEEPEST, _MOST = 4, 1000


class TranslationError(Exception):
    """What the model's own hooks raised, as text for a message."""


@dataclass(frozen=True)
class OwnLoading:
    """What a model holds after its own `load_state_dict`.

    Attributes:
        model: a copy of the model, loaded.
        tensors: those that were loaded, by the model's names, and those that it did not expect.
        buffers: buffers outside the state dict that changed.
        versions: the metadata of modules that it was handed; None: there are none.
        attributes: what else changed: attributes of modules that are no parameters or buffers.
        given: what it was handed, under those names, with these versions.
    """

    model: nn.Module
    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor]
    versions: Versions | None
    attributes: dict[str, Any]
    given: StateDict


def translated(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    rest: Mapping[str, Tensor] | None = None,
) -> OwnLoading | None:
    """What the model holds after it has loaded the tensors by its own hooks.

    Only code of the model's classes runs, on a copy of the model. A `TranslationError` has what it
    raised. A `SharpError` says that a hook holds another model in a closure.

    Args:
        model: the model; its own tensors stay as they are.
        tensors: the checkpoint's, with the versions of its modules.
        names: the names to hand over → the checkpoint's.
        rest: the model's tensors as they were built. Parameters of a model without numbers of its
            own that are not among them are 0 before.

    Returns:
        None if the model has no hooks.

    Cost: the memory of a model and of the tensors.
    """
    if not (any(_hooks(model)) or loads_itself(model)):
        return None
    _refuse_captured(model)
    loaded = _attempt(model, tensors, names, rest, strict=False)
    if loaded is None:  # it does not say what was missing: with all of it required, nothing is
        loaded = _attempt(model, tensors, names, rest, strict=True)
    return loaded


def _attempt(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    rest: Mapping[str, Tensor] | None,
    *,
    strict: bool,
) -> OwnLoading | None:
    """One loading of a copy of the model; None if it is not strict and does not say what it did."""
    copied = _copied(model, rest or {})
    before, had = attributes(copied), _outside(copied)
    had = {name: tensor.clone() for name, tensor in had.items()}
    versions = versions_of(model, tensors, names)
    given = StateDict({new: tensors[old] for new, old in names.items()}, versions)
    try:
        answer = load(copied, handed(given), strict=strict)
    except Exception as error:  # whatever the model's code raises; the caller says it
        raise TranslationError(_said(error)) from error
    says = hasattr(answer, "missing_keys") and hasattr(answer, "unexpected_keys")
    if not says and not strict:
        return None
    missing, unexpected = (
        ({*answer.missing_keys}, {*answer.unexpected_keys}) if says else (set(), set())
    )
    found = {name: each for name, each in held(copied).items() if name not in missing}
    return OwnLoading(
        copied,
        found | {name: tensors[names[name]] for name in unexpected if name in names},
        {name: t.detach() for name, t in _outside(copied).items() if not _same(t, had.get(name))},
        versions,
        changed(before, attributes(copied)),
        given,
    )


def handed(tensors: StateDict) -> OrderedDict[str, Tensor]:
    """A state dict to load, of copies, since a hook may change them in place."""
    state = OrderedDict((name, tensor.clone()) for name, tensor in tensors.items())
    if tensors.versions is not None:
        state._metadata = copy.deepcopy(tensors.versions)  # type: ignore[attr-defined]
    return state


def load(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool) -> Any:
    """What the model's own `load_state_dict` returns; that of a class may always be strict."""
    parameters = inspect.signature(model.load_state_dict).parameters.values()
    takes = any(each.name == "strict" or each.kind is each.VAR_KEYWORD for each in parameters)
    return model.load_state_dict(state, strict=strict) if takes else model.load_state_dict(state)


def held(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state dict, as the model holds them: a class may store others."""
    own = by_place(model)
    return {
        name: own.get(name, stored).detach()
        for name, stored in model.state_dict().items()
        if isinstance(stored, Tensor)
    }


def stored(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors of a model's state dict, on the CPU.

    They have the versions of its modules where code of its own reads these when it is loaded.
    """
    state = model.state_dict()
    tensors = {
        name: each.detach().cpu().clone()
        for name, each in state.items()
        if isinstance(each, Tensor)
    }
    if not reads_versions(model):
        return tensors
    return StateDict(tensors, versions_in(getattr(state, KEY, None)))


def by_place(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a model, tied ones under each name."""
    own: dict[str, Tensor] = {}
    own.update(model.named_parameters(remove_duplicate=False))
    own.update(model.named_buffers(remove_duplicate=False))
    return own


_METHODS = ("_load_from_state_dict", "load_state_dict")


def loads_itself(model: nn.Module) -> bool:
    """Whether a class of the model may change tensors whose names fit when it loads them."""
    return any(
        not _of_torch(type(module)._load_from_state_dict)
        or not _of_torch(type(module).load_state_dict)
        or _has_state(module)
        for module in model.modules()
    ) or any(not _module_of(hook).startswith(_NAMES_ONLY) for hook in _hooks(model))


def _has_state(module: nn.Module) -> bool:
    """Whether a module makes something of a tensor in the state dict that is no buffer of it."""
    kind = type(module)
    own = not (_of_torch(kind.set_extra_state) or _of_torch(kind.get_extra_state))
    return own and isinstance(module.get_extra_state(), Tensor)


def reads_versions(model: nn.Module) -> bool:
    """Whether code of the model's own sees the versions of modules when it is loaded."""
    return any(
        not _of_torch(type(module)._load_from_state_dict)
        or not _of_torch(type(module).load_state_dict)
        or module._load_state_dict_pre_hooks
        for module in model.modules()
    )


def loaders(model: nn.Module) -> list[str]:
    """The functions of the model's own that run when it is loaded, for a note."""
    found: dict[str, None] = {}
    for module in model.modules():
        for name in _METHODS:
            if not _of_torch(getattr(type(module), name)):
                found[f"{type(module).__name__}.{name}"] = None
        if _has_state(module):
            found[f"{type(module).__name__}.set_extra_state"] = None
    for hook in _hooks(model):
        if not _module_of(hook).startswith(_NAMES_ONLY):
            found[getattr(hook, "__qualname__", type(hook).__name__)] = None
    return list(found)


def _hooks(model: nn.Module) -> Iterator[Callable[..., Any]]:
    for module in model.modules():
        for hook in module._load_state_dict_pre_hooks.values():
            yield getattr(hook, "hook", hook)  # torch wraps it with its module
        yield from module._load_state_dict_post_hooks.values()


def _of_torch(function: Any) -> bool:
    return _module_of(function).startswith("torch.nn.")


def _module_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _module_of(function.func)
    named = getattr(function, "__module__", None) or type(function).__module__
    return str(named)


def _refuse_captured(model: nn.Module) -> None:
    """Raise `SharpError` if a hook has a model in a closure: it would change that one, no copy."""
    for hook in _hooks(model):
        held = _captured(hook) if isinstance(hook, types.FunctionType | functools.partial) else None
        if held is not None:
            kind = "parameter" if isinstance(held, Tensor) else "module"
            raise SharpError(
                f"the load hook {hook_name(hook)} of the model holds a {kind} in a closure or a "
                "default, so it would use that one and not the model that is loaded",
                "make it a method, or use the module that the hook is handed "
                "(register_load_state_dict_pre_hook and …_post_hook hand it over)",
            )


def _captured(value: Any, depth: int = _DEEPEST) -> nn.Module | nn.Parameter | None:
    """A module or parameter that a function holds, also in what it holds; None: it holds none."""
    if isinstance(value, nn.Module | nn.Parameter):
        return value
    if depth == 0 or isinstance(value, type | types.ModuleType | Tensor):
        return None
    inside: list[Any] = []
    if isinstance(value, types.FunctionType):
        inside = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        inside += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    elif isinstance(value, types.MethodType):
        inside = [value.__self__, value.__func__]
    elif isinstance(value, functools.partial):
        inside = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, dict):
        inside = [*value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inside = [*value]
    elif hasattr(value, "__dict__"):
        inside = [*vars(value).values()]
    found = (_captured(each, depth - 1) for each in inside[:_MOST])
    return next((each for each in found if each is not None), None)


def hook_name(hook: Callable[..., Any]) -> str:
    """The name of a function, for a message."""
    return f"'{getattr(hook, '__qualname__', type(hook).__name__)}'"


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (an empty one raises)
    except ValueError:
        return False
    return True


def _copied(model: nn.Module, rest: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model with memory of its own for all tensors, on the CPU."""
    places: dict[int, Any] = {}
    for name, each in model.named_parameters():
        first = rest.get(name)
        if first is None and 0 in each.stride() and each.numel():
            first = torch.zeros(each.shape, dtype=each.dtype)  # its numbers were never copied
        value = (each if first is None else first).detach().to("cpu", copy=True)
        places[id(each)] = nn.Parameter(value, each.requires_grad)
    for buffer in model.buffers():
        places[id(buffer)] = buffer.detach().to("cpu", copy=True)
    for module in model.modules():  # old weight norm keeps its last result, which is not copied
        for value in vars(module).values():
            if isinstance(value, Tensor) and id(value) not in places and not value.is_leaf:
                places[id(value)] = value.detach().clone()
    return copy.deepcopy(model, places)


def versions_of(
    model: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> Versions | None:
    """The versions of a file's modules under the names of the model's.

    A pickled module has none in the file: it is as its class was when it was loaded.
    """
    if not isinstance(tensors, StateDict):
        return None
    if tensors.origin == "module":
        return getattr(model.state_dict(), "_metadata", None)
    if tensors.versions is None:
        return None
    own = [name for name, _ in model.named_modules()]
    before = module_names(own, names)
    return {new: tensors.versions[old] for new, old in before.items() if old in tensors.versions}


def _outside(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that the state dict leaves out."""
    saved = {*model.state_dict()}
    return {name: each for name, each in model.named_buffers() if name not in saved}


def _same(one: Tensor, other: Tensor | None) -> bool:
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.layout != torch.strided or other.layout != torch.strided:
        return False
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _said(error: Exception) -> str:
    """An error of the model's own code: its kind, its first line, and where it was raised."""
    lines = str(error).splitlines() or [""]
    reason = lines[0] if len(lines) < 2 or not lines[0].endswith(":") else lines[0] + lines[1]
    where = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_INSIDE):
            where = f" in {code.co_qualname}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"({type(error).__name__}: {' '.join(reason.split())}){where}"


_INSIDE = (torch.__path__[0], __file__)
