"""Tensors by name, with the versions that torch's `state_dict()` keeps of each module."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal

__all__ = ["KEY", "Origin", "StateDict", "Versions", "versions_below", "versions_in"]

# The metadata of each module by its name, "" for the outermost: plain values only.
Versions = dict[str, dict[str, Any]]
# What the tensors are from: a state dict, a pickled module, or a model in memory.
Origin = Literal["state dict", "module", "model"]

KEY = "_metadata"  # the attribute of an OrderedDict in which torch keeps them
_DEEPEST = 4  # levels of mappings in a module's metadata; torch's spectral norm uses two
_PLAIN = (str, int, float, bool, type(None))


class StateDict(dict[Any, Any]):
    """A mapping of tensors, as of `Module.state_dict()`.

    Attributes:
        versions: the metadata of its modules; None where the file has none.
        origin: what the tensors are from.
    """

    __slots__ = ("_metadata", "_versions", "origin")

    def __init__(
        self,
        entries: Any = (),
        versions: Versions | None = None,
        origin: Origin = "state dict",
    ) -> None:
        super().__init__(entries)
        self._versions, self.origin = versions, origin
        self._metadata: Any = None

    def restore(self, state: Any) -> None:
        """Keep the metadata among the attributes that a pickle gives an OrderedDict."""
        if isinstance(state, dict) and type(state.get(KEY)) in _TABLES:
            self._metadata = state[KEY]

    @property
    def written(self) -> str | None:
        """The versions as text for a file without a place for them; None without any."""
        versions = self.versions
        return None if versions is None else json.dumps(versions, sort_keys=True)

    @property
    def versions(self) -> Versions | None:
        """The metadata of each module as plain values; any others are left out."""
        if self._versions is None and self._metadata is not None:
            made: dict[int, Any] = {}  # a hostile file may link to one mapping from many places
            self._versions = {
                name: _plain(table, _DEEPEST, made)
                for name, table in self._metadata.items()
                if isinstance(name, str) and type(table) in _TABLES
            }
        return self._versions


_TABLES = (dict, OrderedDict, StateDict)  # an object of any other class is left out


def _plain(table: Mapping[Any, Any], depth: int, made: dict[int, Any]) -> dict[str, Any]:
    if id(table) not in made:
        kept: dict[str, Any] = {}
        made[id(table)] = kept
        for name, value in table.items():
            if not isinstance(name, str):
                continue
            if type(value) in _PLAIN:
                kept[name] = value
            elif type(value) in _TABLES and depth > 1:
                kept[name] = _plain(value, depth - 1, made)
    found: dict[str, Any] = made[id(table)]
    return found


def versions_in(tables: Any) -> Versions | None:
    """The metadata of modules in what torch or JSON gives; None for anything else."""
    state = StateDict()
    state.restore({KEY: tables})
    return state.versions


def versions_below(tensors: Mapping[str, Any], prefix: str) -> Versions | None:
    """The versions of the modules under a prefix such as `ema.`, without it."""
    versions = tensors.versions if isinstance(tensors, StateDict) else None
    return None if versions is None else dict(_below(versions, prefix))


def _below(versions: Versions, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, table in versions.items():
        if not prefix or f"{name}.".startswith(prefix):
            yield name[len(prefix) :], table
