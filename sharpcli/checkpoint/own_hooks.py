"""Let a model's own `load_state_dict` translate a checkpoint's names and tensors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TranslationError", "translated"]


class TranslationError(Exception):
    """What the model's own hooks raised, as text for a message."""


def translated(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The model's state dict after it has loaded the tensors by its own hooks.

    Only code of the model's classes runs: hooks before loading, and `_load_from_state_dict` and
    `load_state_dict` of their own. It runs on a copy of the model.

    Returns:
        The tensors that were loaded, by the model's names, and those that it did not expect; None
        if the model has no hooks, or does not say what it loaded.

    Raises:
        TranslationError: the hooks failed.

    Cost: no memory for tensors, other than what the hooks make; that of the model if its
    `load_state_dict` takes no `assign`.
    """
    if not _has_hooks(model):
        return None
    assign = "assign" in inspect.signature(model.load_state_dict).parameters
    places: dict[int, Any] = {}
    for each in (*model.parameters(), *model.buffers()):
        nothing = torch.zeros(each.shape, dtype=each.dtype, device="meta" if assign else "cpu")
        kept = each.requires_grad
        places[id(each)] = (
            nn.Parameter(nothing, kept) if isinstance(each, nn.Parameter) else nothing
        )
    empty = copy.deepcopy(model, places)
    how: dict[str, Any] = {"strict": False, **({"assign": True} if assign else {})}
    try:
        answer = empty.load_state_dict(dict(tensors), **how)
    except Exception as error:  # whatever the model's code raises; the caller says it
        reason = (str(error).splitlines() or [""])[0]
        raise TranslationError(f"{type(error).__name__}: {reason}") from error
    if not hasattr(answer, "missing_keys") or not hasattr(answer, "unexpected_keys"):
        return None
    missing, unexpected = {*answer.missing_keys}, {*answer.unexpected_keys}
    found = {
        name: tensor.detach()
        for name, tensor in empty.state_dict().items()
        if isinstance(tensor, Tensor) and name not in missing and not tensor.is_meta
    }
    return found | {name: tensors[name] for name in unexpected if name in tensors}


def _has_hooks(model: nn.Module) -> bool:
    return any(
        module._load_state_dict_pre_hooks
        or not _of_torch(type(module)._load_from_state_dict)
        or not _of_torch(type(module).load_state_dict)
        for module in model.modules()
    )


def _of_torch(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("torch.nn.")
