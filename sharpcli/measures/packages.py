"""Which code computes the measures of packages, so that results of older code are known."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection
from importlib.metadata import EntryPoint
from pathlib import Path

from sharpcli.measures import entries_of
from sharpcli.tasks.own_code import imported_code

__all__ = ["code_of"]


def code_of(names: Collection[str]) -> dict[str, str]:
    """The package, its version and a digest of its code, by measure; built-in ones are left out.

    The code is that of the module of the entry point, and of all modules of its package that it
    imports: an editable package changes without its version.

    Args:
        names: of measures that exist.

    Cost: reading and parsing these modules.
    """
    return dict(sorted((entry.name, _described(entry)) for entry in entries_of(names)))


def _described(entry: EntryPoint) -> str:
    dist = getattr(entry, "dist", None)
    named = [f"{dist.name} {dist.version}"] if dist is not None else []
    module = entry.value.partition(":")[0].strip()
    source = getattr(sys.modules.get(module), "__file__", None)  # the registry has imported it
    if source is not None and source.endswith(".py"):
        named.append(f"code {_digest(Path(source), module.count('.'))}")
    return ", ".join([entry.value, *named])


def _digest(file: Path, depth: int) -> str:
    """A digest of a module, `depth` packages deep, and of those that it imports of its package."""
    folder = file.parents[depth + (file.name == "__init__.py")]
    package = folder / file.relative_to(folder).parts[0]

    def is_own(name: str) -> bool:
        other = Path(name)
        return other.parent == folder or other.is_relative_to(package)

    text = file.read_bytes()
    return hashlib.sha256(text + imported_code(text, file, is_own)).hexdigest()[:12]
