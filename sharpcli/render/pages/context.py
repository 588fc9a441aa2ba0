"""The first line above a table: the task, the data actually used, the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.documents.labels import pairs
from sharpcli.render.pages.layers import measured_parameters

__all__ = ["run_lines", "task_name"]


def run_lines(document: Mapping[str, Any], splits: Sequence[str] | None = None) -> list[str]:
    """`digits (model=mlp) · a sample of 256 train examples · float32 on cpu`, or no line.

    `splits` are those whose data were used, by default the split of the run's settings. Without a
    task the line leaves out the data.
    """
    task, run = document.get("task") or {}, (document.get("settings") or {}).get("run") or {}
    checkpoints = _checkpoints(document)
    if splits is None:
        splits = [run["split"]] if run.get("split") else []
    device = (document.get("environment") or {}).get("device")
    pieces = [
        task_name(task),
        _data(task, run, splits, checkpoints) if task.get("name") else "",
        _batches(task, splits),
        " on ".join(str(x) for x in (run.get("dtype"), device) if x),
        measured_parameters(checkpoints, run),
    ]
    line = " · ".join(piece for piece in pieces if piece)
    return [line] if line else []


def task_name(task: Mapping[str, Any]) -> str:
    """`digits (model=mlp)`; empty if the task has no name."""
    if not task.get("name"):
        return ""
    given = task.get("options") or {}
    options = pairs({name: value for name, value in given.items() if value is not None})
    return str(task["name"]) + (f" ({options})" if options else "")


def _checkpoints(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The checkpoints of a document, one per result or all in one result."""
    rows = [each["checkpoint"] for each in document["results"] if "checkpoint" in each]
    return rows + [c for each in document["results"] for c in each.get("checkpoints") or ()]


def _batches(task: Mapping[str, Any], splits: Sequence[str]) -> str:
    """The batches on which the loss is defined; empty if the examples are independent."""
    sizes = [str(n) for split, n in (task.get("fixed_batch") or {}).items() if split in splits]
    return f"in fixed batches of {' and '.join(dict.fromkeys(sizes))}" if sizes else ""


def _data(
    task: Mapping[str, Any],
    run: Mapping[str, Any],
    splits: Sequence[str],
    checkpoints: Sequence[Mapping[str, Any]],
) -> str:
    """The number of examples used from each split, and which splits were sampled.

    A checkpoint that was measured on a sample has its own counts. The task counts the examples
    used: this equals the requested size for a sample, is smaller if the split has fewer, and larger
    for a split that was used completely.
    """
    own = sorted({about["examples"] for about in checkpoints if "examples" in about})
    if any("examples_in_all" in about for about in checkpoints):
        count = str(own[0]) if len(own) == 1 else f"{own[0]} to {own[-1]}"
        noun = "example" if own == [1] else "examples"
        return f"a sample of {count} {' and '.join(splits)} {noun}"
    used = {split: (task.get("examples") or {}).get(split) for split in splits}
    asked = run.get("samples")
    sampled = [split for split in splits if asked and used[split] in (None, asked)]
    whole = [split for split in splits if split not in sampled]
    counts = [
        " ".join(str(x) for x in ("all" if sampled else "", used[split], split) if x)
        for split in whole
    ]
    if sampled:
        counts.insert(0, f"a sample of {asked} {' and '.join(sampled)}")
    known = sampled or any(used.values())
    alone = asked == 1 if sampled else [used[split] for split in splits] == [1]
    noun = " example" if alone and len(counts) == 1 else " examples"
    return " and ".join(counts) + (noun if known else "")
