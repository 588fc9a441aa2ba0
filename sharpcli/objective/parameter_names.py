"""The parameters that are measured: patterns over their names, and a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from sharpcli.checkpoint import tied
from sharpcli.errors import UsageError, nearest, setting

__all__ = ["layers_of", "matching"]

_SHOWN = 12  # layers that an error lists: a deep network has enough to fill the screen


def matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the parameters that require gradients and match one of the shell patterns.

    They are in the order of `named_parameters()`. Any name of a tied tensor selects the tensor.

    Raises:
        UsageError: if a pattern matches none; it lists similar names and the existing layers.
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
    """The modules that directly own some of the parameters `names`, each with its own of them.

    A tied tensor belongs to the module that comes first. The model itself is named by its class.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        module, _, _ = name.rpartition(".")
        layers.setdefault(module or type(model).__name__, []).append(name)
    return layers


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """A hint: all parameters of a named layer or a similar name, and the existing layers."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    listed = ", ".join(layers[:_SHOWN])
    more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
    there = f"layers: {listed}{more} (`sharp inspect` lists a checkpoint's tensors)"
    if pattern and _matches(names, [f"{pattern}.*"]):
        return f"did you mean '{pattern}.*'? {there}"
    near = nearest(pattern, [*names, *(f"{layer}.*" for layer in layers)])
    return f"{near} {there}" if near else there
