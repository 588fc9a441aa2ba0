"""Which of a model's parameters are measured: patterns over their names, and a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from sharpcli.checkpoint import tied
from sharpcli.errors import UsageError, nearest, setting

__all__ = ["layers_of", "matching"]

_SHOWN = 12  # layers that an error lists: those of a deep network would fill the screen


def matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the parameters that require gradients and that match one of the shell's patterns.

    They are those of `named_parameters()`, in its order; any of a tied tensor's names counts for
    the tensor. Raises `UsageError` for a pattern that matches none, with near names and the layers
    that there are.
    """
    aliases = tied(model.named_parameters(remove_duplicate=False))
    free = [name for name, tensor in model.named_parameters() if tensor.requires_grad]
    for pattern in patterns:
        found = [name for name in aliases if _matches(aliases[name], [pattern])]
        if not found:
            raise UsageError(
                f"{setting('parameters', pattern)}: matches no parameter of the model",
                _nearest(pattern, [alias for name in free for alias in aliases[name]]),
            )
        if not set(found) & set(free):
            raise UsageError(
                f"{setting('parameters', pattern)}: matches frozen parameters only, {found[0]} "
                "first",
                "leave requires_grad on for them in model(), or name others",
            )
    return [name for name in free if _matches(aliases[name], patterns)]


def layers_of(model: nn.Module, names: Sequence[str]) -> dict[str, list[str]]:
    """The modules that own some of the parameters `names` directly, each with its own of them.

    A tied tensor belongs to the module that comes first. The model itself is called by its class.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        module, _, _ = name.rpartition(".")
        layers.setdefault(module or type(model).__name__, []).append(name)
    return layers


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """What was probably meant, and what there is: all of a layer that is named, or a near name."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    listed = ", ".join(layers[:_SHOWN])
    more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
    there = f"layers: {listed}{more} (`sharp inspect` lists a checkpoint's tensors)"
    if pattern and _matches(names, [f"{pattern}.*"]):
        return f"did you mean '{pattern}.*'? {there}"
    near = nearest(pattern, [*names, *(f"{layer}.*" for layer in layers)])
    return f"{near} {there}" if near else there
