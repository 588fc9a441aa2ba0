"""The state dict of a whole module that was pickled, without its class.

A module's object has its parameters, buffers and submodules in mappings of its own, by the names
that `Module.state_dict()` puts together.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import NotPlain, allowance
from sharpcli.checkpoint.stand_ins import Stub

__all__ = ["ModuleState", "UnknownModule", "is_module", "module_state"]

_DEEPEST = 200  # levels of submodules
# Bytes of memory that the names may take: of each character, and of each entry of a module.
_CHARACTER, _ENTRY = 4, 400
# Packages whose modules write other tensors into a state dict than they have as parameters.
_OTHERWISE = ("torch.ao.", "torch.nn.quantized.", "torch.nn.intrinsic.", "torch.quantization.")


class ModuleState(dict[str, Any]):
    """The tensors of a pickled module by the names of its state dict.

    `class_name` is the full name of the module's class.
    """

    __slots__ = ("class_name",)

    def __init__(self, class_name: str, tensors: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.class_name = class_name


class UnknownModule(ValueError):  # noqa: N818 (a reason, not a fault of the program)
    """Why the state dict of a pickled module cannot be made, as text for a message."""


def is_module(value: object) -> bool:
    """Whether `value` is an inert object in the place of a module."""
    return isinstance(value, Stub) and (
        ("_parameters" in value and "_modules" in value)
        or value.name.startswith(("torch.fx.graph_module.", "torch.jit."))
    )


def module_state(root: Stub, size: int) -> ModuleState:
    """The tensors that `state_dict()` of a pickled module would give, from a file of `size` bytes.

    Raises:
        UnknownModule: the object does not have what a module has, or more than a file can hold.
    """
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    memory = allowance(size)
    while waiting:
        prefix, module, depth = waiting.pop()
        if not isinstance(module, Stub) or "_parameters" not in module:
            raise UnknownModule("it does not keep its parameters as modules do")
        if module.name.startswith(_OTHERWISE):
            raise UnknownModule(f"{module.name} packs its weights")
        left_out = _names(module.get("_non_persistent_buffers_set"))
        tables = {kind: _table(module, kind) for kind in ("_parameters", "_buffers", "_modules")}
        for table in tables.values():
            memory -= sum(_CHARACTER * (len(prefix) + len(name)) + _ENTRY for name in table)
        if memory < 0 or depth > _DEEPEST:
            raise UnknownModule("it has more submodules than a file of its size can hold")
        for kind in ("_parameters", "_buffers"):
            for name, value in tables[kind].items():
                if value is None or (kind == "_buffers" and name in left_out):
                    continue
                if not isinstance(value, Tensor | NotPlain):
                    raise UnknownModule("one of its parameters is no tensor")
                found[f"{prefix}{name}"] = value
        waiting += [
            (f"{prefix}{name}.", submodule, depth + 1)
            for name, submodule in reversed(tables["_modules"].items())
            if submodule is not None
        ]
    return ModuleState(root.name, found)


def _table(module: Stub, kind: str) -> dict[str, Any]:
    """The parameters, buffers or submodules of a module, by name."""
    table = module.get(kind, {})
    if not isinstance(table, dict) or not all(type(name) is str for name in table):
        raise UnknownModule("it lacks the tables that a module has")
    return table


def _names(value: object) -> set[str]:
    """The texts in the inert object in the place of a set."""
    if not isinstance(value, Stub):
        return set()
    given = value.arguments[0] if value.arguments else ()
    several = [*value.members, *(given if isinstance(given, list | tuple) else ())]
    return {each for each in several if type(each) is str}
