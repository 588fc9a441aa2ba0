"""The command line that asks for what a saved result holds, written from its settings."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from sharpcli.documents.results import Document
from sharpcli.settings.measuring import MeasureSettings

__all__ = ["commands_of"]

# Parameters of commands whose setting has another place or name than its own.
_PLACES = {
    "batch_norm_mode": "batch_norm.mode",
    "batch_norm_examples": "batch_norm.examples",
    "directions": "directions.kind",
    "path_kind": "path.kind",
    "path_steps": "path.steps",
    "path_batch_size": "path.batch_size",
    "path_lr": "path.lr",
}
# Groups of settings in which a parameter's own name is looked for.
_GROUPS = ("run", "measure", "spectrum", "train", "grid", "directions", "curvature")
# Settings with a default that the option does not have, so that it can tell who gave it.
_DEFAULTS = {"relative_error": MeasureSettings().relative_error}
_MISSING = object()


def commands_of(document: Document) -> list[str]:
    """The commands that repeat a saved result; empty where the document lacks what they need.

    Options are those that differ from the defaults. Where the checkpoints name the task, as those
    of `sharp train` do, it is left out. A sweep gives one command for each run.
    """
    kind, settings = document["kind"], document.get("settings") or {}
    if kind in ("measure", "spectrum"):
        named = [result["checkpoint"]["path"] for result in document["results"]]
        return [_joined([kind, *named, *_options(kind, settings), *_task(document)])]
    if kind in ("interpolate", "landscape") and document["results"]:
        result = document["results"][0]
        own = [c for c in result.get("checkpoints", ()) if c["role"] != "marked"]
        words = [kind, *(c["path"] for c in own), *_options(kind, settings), *_task(document)]
        return [_joined([*words, *_beside(result)])] if own else []
    if kind == "train":
        return [
            _train(result["checkpoint"]["path"], settings["train"], document["task"])
            for result in document["results"]
        ]
    if kind == "sweep":
        return [
            _train(
                r["checkpoint"]["path"],
                r["settings"],
                document["task"]
                | {"options": r["options"] or document["task"].get("options") or {}},
            )
            for r in document["results"]
        ]
    if kind == "compare" and "files" in settings:
        return [_joined([kind, *settings["files"], *_options(kind, settings)])]
    if kind == "schedule":
        return [_joined([kind, settings["schedule"], *_options(kind, settings)])]
    if kind == "inspect":
        return [_joined([kind, *(r["checkpoint"]["path"] for r in document["results"])])]
    return []


def _train(path: str, settings: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """The command of one training; the task is always named, as no checkpoint does."""
    named = [str(task["name"])] if task.get("name") else []
    words = ["train", *named, *_options("train", {"train": settings})]
    words += _pairs("-P", settings.get("optimizer_options") or {})
    return _joined([*words, *_pairs("-O", task.get("options") or {}), "--output", path])


def _options(kind: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """The words of every option whose setting differs from the option's default."""
    from sharpcli.cli.main import sharp

    # Click keeps the help option of a command's first context, so that one has sharp's own names.
    root = sharp.make_context("sharp", [], resilient_parsing=True)
    command = sharp.get_command(root, kind)
    assert command is not None, kind
    context = click.Context(command, parent=root)
    for param in command.get_params(context):
        if not isinstance(param, click.Option) or param.name is None:
            continue
        value = _setting(param.name, settings)
        if value is _MISSING or _same(param.name, value, param.get_default(context)):
            continue
        yield from _words(param, value)


def _setting(name: str, settings: Mapping[str, Any]) -> Any:
    """The value of a parameter's setting; `_MISSING` for what is no setting, such as a file."""
    if name == "map_":
        return settings.get("map", _MISSING)
    if name in _PLACES:
        group, _, own = _PLACES[name].partition(".")
        return (settings.get(group) or {}).get(own, _MISSING)
    places: list[Mapping[str, Any]] = [settings]
    for group in _GROUPS:
        places += [p[group] for p in tuple(places) if isinstance(p.get(group), Mapping)]
    places += [p["options"] for p in places if isinstance(p.get("options"), Mapping)]
    return next(
        (p[name] for p in places if name in p and not isinstance(p[name], Mapping)), _MISSING
    )


def _same(name: str, value: Any, default: Any) -> bool:
    """Whether a setting needs no option: it is empty, or what the command takes without one."""
    if value is None or value == []:
        return True
    usual = _DEFAULTS.get(name, [*default] if isinstance(default, list | tuple) else default)
    if isinstance(value, bool):
        return value is (usual is True)
    return bool(value == usual or (value == [None] and usual == ["full"]))


def _words(param: click.Option, value: Any) -> Iterator[str]:
    option = param.opts[0]
    if param.is_flag:
        yield option if value else (param.secondary_opts or [option])[0]
        return
    if param.nargs > 1:  # such as --betas 0.9 0.999
        yield from (option, *map(_written, value))
        return
    for each in value if param.multiple else [value]:
        yield from (option, _WRITERS.get(str(param.name), _written)(each))


def _written(value: Any) -> str:
    if value is None:
        return "full"  # of subspaces, the only list with null
    if isinstance(value, list):
        return ",".join(map(_written, value))
    return f"{value!r}" if isinstance(value, float) else str(value)


_WRITERS: dict[str, Callable[[Any], str]] = {
    "points": lambda value: "x".join(map(str, value)),
    "ranges": lambda value: ",".join(f"{low:g}:{high:g}" for low, high in value),
}


def _task(document: Document) -> list[str]:
    """The task and its options, unless every checkpoint names the task in its metadata."""
    task = document.get("task") or {}
    checkpoints = [r["checkpoint"] for r in document["results"] if "checkpoint" in r]
    checkpoints += [c for r in document["results"] for c in r.get("checkpoints") or ()]
    metadata = [c.get("metadata") or {} for c in checkpoints]
    if not task.get("name") or (metadata and all(m.get("task") == task["name"] for m in metadata)):
        return []
    return ["--task", str(task["name"]), *_pairs("-O", task.get("options") or {})]


def _beside(result: Mapping[str, Any]) -> Iterator[str]:
    """The checkpoints that are marked, and the paths that are drawn."""
    marked = [c["path"] for c in result.get("checkpoints", ()) if c["role"] == "marked"]
    if marked:
        yield from ("--mark", *marked)
    for path in result.get("trajectories") or ():
        yield from ("--trajectory", *(point["path"] for point in path["points"]))


def _pairs(option: str, values: Mapping[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (option, f"{name}={_plain(value)}")]


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _joined(words: Sequence[str]) -> str:
    """The command as a shell reads it; an option that begins like a file keeps its own line."""
    return shlex.join(["sharp", *words])
