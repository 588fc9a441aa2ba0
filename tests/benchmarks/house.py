"""How the package is laid out: rooms, imports, floors, lines, and a checkpoint's way."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import re
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from click.testing import CliRunner
from problem import Setting
from report import Bar, Section

from sharpcli.checkpoint import Checkpoint, save_checkpoint
from sharpcli.cli.main import sharp
from sharpcli.tasks import load_task

NAME = "house"
_PACKAGE = Path(__file__).parents[2] / "sharpcli"
_ROOMS, _FLOORS, _PAIRS = 17, 9, 80
_ENTERED, _RETURNS = 5, 7
_OPTION = re.compile(r"--[a-z]")
# Commands as a whole, of sharp or of another program, are typed as they are.
_WHOLE = re.compile(r"`sharp [^`]*`|^sharp .*|python -m .*")


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "The house",
        "A room is a file or folder directly under the package. One room imports another where a "
        "module of it does, at the top or inside a function; imports for type checkers alone do "
        "not count. Floors are the longest chain of such imports. Lines are those of all files, "
        "and those that are neither blank, nor comment, nor docstring. A checkpoint's way through "
        "`sharp measure`: the rooms whose functions are given, or give back, its path, what was "
        "read of it, or its tensors, until θ is made of them.",
    )
    imports = imports_between_rooms(_PACKAGE)
    rooms = [each for each in _PACKAGE.iterdir() if _is_room(each)]
    pairs = sum(map(len, imports.values()))
    try:
        longest = floors(imports)
        circles = 0
    except RecursionError:
        longest, circles = 0, 1
    options = [*options_outside(_PACKAGE)]
    lines, code = lines_of(_PACKAGE)
    section.tables.append(
        ("Imports", ("room", "imports"), [(a, ", ".join(sorted(b))) for a, b in imports.items()])
    )
    section.tables.append(("Lines", ("all", "code"), [(str(lines), str(code))]))
    section.bars += [
        Bar("rooms", str(len(rooms)), f"≤ {_ROOMS}", len(rooms) <= _ROOMS),
        Bar("floors", str(longest), f"≤ {_FLOORS}", 0 < longest <= _FLOORS),
        Bar("pairs of rooms that import", str(pairs), f"≤ {_PAIRS}", pairs <= _PAIRS),
        Bar("circles", str(circles), "0", not circles),
        Bar("texts with --option outside cli/", str(len(options)), "0", not options),
    ]
    way = checkpoint_way()
    returns = len(way) - len({*way})
    section.tables.append(("A checkpoint's way", ("from the command to θ",), [(" → ".join(way),)]))
    section.bars += [
        Bar(
            "rooms on a checkpoint's way",
            str(len({*way})),
            f"≤ {_ENTERED}",
            len({*way}) <= _ENTERED,
        ),
        Bar("returns to one of them", str(returns), f"≤ {_RETURNS}", returns <= _RETURNS),
    ]
    section.notes += [f"{place}: {text}" for place, text in options[:20]]
    return section


def imports_between_rooms(package: Path) -> dict[str, set[str]]:
    """Room → the rooms it imports at run time."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        room = _room(path.relative_to(package).parts)
        found.setdefault(room, set())
        for module in _imported(path, package):
            other = _room((*module.split(".")[1:], ""))
            if other != room:
                found[room].add(other)
    return found


def floors(imports: Mapping[str, set[str]]) -> int:
    """The number of rooms in the longest chain of imports; endless for a circle."""

    @functools.cache
    def height(room: str) -> int:
        return 1 + max((height(other) for other in imports.get(room, ())), default=0)

    return max(map(height, imports))


def checkpoint_way() -> list[str]:
    """The rooms that a checkpoint passes from the command line to θ, in order."""
    way: list[str] = []
    tensors: set[int] = set()
    arrived = False

    def carries(value: Any, depth: int = 2) -> bool:
        if isinstance(value, str | Path):
            return Path(value).name == "a.safetensors"
        if isinstance(value, torch.Tensor):
            return id(value) in tensors
        if depth and isinstance(value, dict | list | tuple):
            inner = [*value.values()] if isinstance(value, dict) else [*value]
            return any(carries(each, depth - 1) for each in inner[:3])
        return type(value).__name__ in ("Checkpoint", "Match", "Loaded")

    def watch(frame: FrameType, event: str, given: Any) -> None:
        nonlocal arrived
        code = frame.f_code
        path = Path(code.co_filename)
        inside = _PACKAGE in path.parents and not code.co_name.startswith("<")
        if arrived or event not in ("call", "return") or not inside:
            return
        if event == "return":
            if isinstance(given, Checkpoint):
                tensors.update(map(id, given.tensors.values()))
            arrived = isinstance(given, torch.Tensor) and code.co_name == "flatten"
            values = [given]
        else:
            count = code.co_argcount + code.co_kwonlyargcount
            count += bool(code.co_flags & 4) + bool(code.co_flags & 8)  # *args, **kwargs
            values = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
        room = _room(path.relative_to(_PACKAGE).parts)
        if any(map(carries, values)) and way[-1:] != [room]:
            way.append(room)

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        save_checkpoint(Path("a.safetensors"), load_task("digits", {}).model().state_dict(), {})
        importlib.import_module("sharpcli.runs.measure")  # whose imports are no part of the way
        sys.setprofile(watch)
        try:
            done = CliRunner().invoke(sharp, "measure a.safetensors -t digits -m loss")
        finally:
            sys.setprofile(None)
    assert done.exit_code == 0, done.output
    assert arrived
    return way


def options_outside(package: Path) -> Iterator[tuple[str, str]]:
    """Text literals (docstrings are none) that name an option of the command line, outside cli/."""
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] == "cli":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node) for node in _docstrings(tree)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if id(node) not in docstrings and _OPTION.search(_WHOLE.sub("", node.value)):
                yield f"{path.relative_to(package)}:{node.lineno}", node.value


def lines_of(package: Path) -> tuple[int, int]:
    """Lines of all modules, and those of code."""
    lines = code = 0
    skipped = (
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
        *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
    )
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8")
        lines += text.count("\n")
        words: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in skipped:
                words.update(range(token.start[0], token.end[0] + 1))
        for node in _docstrings(ast.parse(text)):
            words -= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
        code += len(words)
    return lines, code


def _is_room(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")


def _room(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py") if parts[0] else "__init__"


def _imported(path: Path, package: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            module = node.module or ""
            if module.split(".")[0] != package.name:
                continue
            for alias in node.names:
                inner = package.parent.joinpath(*module.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{module}.{alias.name}" if is_module else module


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr):
            value = node.body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value
