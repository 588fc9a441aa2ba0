"""The user's own modules that a task's code imports, for the task's fingerprint."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["imported_code"]


def imported_code(text: bytes, file: Path, is_own: Callable[[str], bool]) -> bytes:
    """The source of every own module that a file imports, directly or through others.

    Imports are found in the syntax trees, also inside functions, so that the answer does not depend
    on what has been imported before. Modules are looked up where Python does: in the file's folder,
    then in the folders of `sys.path`.

    Args:
        text: the file's source.
        file: the file.
        is_own: whether a file name is the user's, not an installed package's.

    Cost: reading and parsing these modules.
    """
    folders = [file.parent, *(Path(each or ".") for each in sys.path)]
    folders = [each for each in dict.fromkeys(folders) if is_own(str(each.absolute() / "_.py"))]
    found: dict[Path, bytes] = {}
    waiting = [(file, text)]
    while waiting:
        importer, source = waiting.pop(0)
        for module in _imported(source, importer, folders):
            if module not in found and module != file and is_own(str(module.absolute())):
                try:
                    found[module] = module.read_bytes()
                except OSError:  # unreadable: its import says so
                    continue
                waiting.append((module, found[module]))
    return b"".join(b"\0" + each for each in found.values())


def _imported(source: bytes, file: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """The files that the imports in a module may run, packages on the way included."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # an import of it in vain
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name.split("."), folders)
        elif isinstance(node, ast.ImportFrom):
            names = node.module.split(".") if node.module else []
            above = [file.parents[node.level - 1]] if 0 < node.level <= len(file.parents) else []
            for alias in node.names:
                yield from _files([*names, alias.name], above if node.level else folders)


def _files(names: Sequence[str], folders: Sequence[Path]) -> Iterator[Path]:
    """The files of a dotted name; its last part may be a function or a class in the one before."""
    at = next((each for each in folders if _holds(each, names[0])), None)
    if at is None:
        return
    for depth in range(1, len(names) + 1):
        place = at.joinpath(*names[:depth])
        package, module = place / "__init__.py", place.with_name(f"{place.name}.py")
        if package.is_file():
            yield package
        elif module.is_file():
            yield module


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
