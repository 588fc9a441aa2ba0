"""Labels of rows: the shortest path parts that distinguish checkpoints, and their metadata."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sharpcli.runtime.text import visible
from sharpcli.settings.training_names import is_choice, is_common

__all__ = [
    "CHECKPOINT_SUFFIXES",
    "clean",
    "common_metadata",
    "differing_metadata",
    "named",
    "natural_order",
    "pairs",
    "path_labels",
    "short_labels",
]

CHECKPOINT_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".bin"}
_MOST_NAMES = 3  # in a sentence; the rest becomes "and 7 more"
_LONGEST_TEXT = 40  # characters of a metadata value in a table; JSON and CSV have all of it


def short_labels(paths: Sequence[str]) -> list[str]:
    """A label for each path: its shortest unique ending, without the parts that all share.

    A path given twice is numbered.

    >>> short_labels(["runs/sgd/model.pt", "runs/adam/model.pt", "runs/adam/model.pt"])
    ['sgd', 'adam (1)', 'adam (2)']
    """
    distinct = list(dict.fromkeys(paths))
    by_path = dict(zip(distinct, _endings(distinct), strict=True))
    counts, seen = Counter(paths), Counter[str]()
    labels = []
    for path in paths:
        seen[path] += 1
        again = f" ({seen[path]})" if counts[path] > 1 else ""
        labels.append(by_path[path] + again)
    return labels


def path_labels(paths: Sequence[Sequence[str]]) -> list[str]:
    """A label for each optimizer's path: the common start of its checkpoints' names, no number.

    `adam-01.pt`, `adam-02.pt` and `sgd-01.pt`, `sgd-02.pt` give `adam` and `sgd`, also if these are
    folders. Paths without distinct names are `path 1`, `path 2`; a single one is `path`.
    """
    if len(paths) == 1:
        return ["path"]
    begun = [_shared_start(each) for each in paths]
    bare = [re.sub(r"[-_. ]*\d*$", "", text) for text in begun]
    labels = [text.strip("/-_. ") for text in short_labels([text.rstrip("/") for text in bare])]
    if all(labels) and all(bare) and len({*labels}) == len({*bare}) == len(paths):
        return labels
    return [f"path {number}" for number in range(1, len(paths) + 1)]


def differing_metadata(metadata: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in every row, in order of first appearance.

    What is no choice of a training is left out (`training_names`). So is a training loss, because
    the table shows the measured one, and the digest of the weights that a training started from,
    because `init` names them.
    """
    left_out = ("train_loss", "init_sha256")
    keys = (k for k in _keys(metadata) if k not in left_out and _is_choice(metadata, k))
    return [key for key in keys if not _same(metadata, key)]


def common_metadata(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The choices of a training and their values that every row shares."""
    keys = (key for key in _keys(metadata) if is_common(key) and _is_choice(metadata, key))
    return {key: metadata[0][key] for key in keys if _same(metadata, key)}


def clean(value: Any) -> str:
    """A value from a file as one short line of plain text, without terminal control codes."""
    if value is None:
        return "–"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = visible(text).strip()
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def pairs(metadata: Mapping[str, Any]) -> str:
    """`optimizer=sgd, lr=0.1`."""
    return ", ".join(f"{clean(key)}={clean(value)}" for key, value in metadata.items())


def named(labels: Sequence[str]) -> str:
    """`a, b, c and 7 more`."""
    more = len(labels) - _MOST_NAMES
    return ", ".join(labels[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def natural_order(value: Any) -> tuple[Any, ...]:
    """A sort key: numbers by size, then text with its numbers by size, then missing values."""
    if value is None:
        return (2,)
    if isinstance(value, int | float):
        return (0, value)
    pieces = re.split(r"(\d{1,4000})", str(value))  # Python does not convert longer ones
    return (1, *((int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces))


def _keys(metadata: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in metadata for key in row))


def _is_choice(metadata: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(is_choice(key, row) for row in metadata if key in row)


def _same(metadata: Sequence[Mapping[str, Any]], key: str) -> bool:
    return all(key in row and row[key] == metadata[0].get(key) for row in metadata)


def _endings(paths: Sequence[str]) -> list[str]:
    if len(paths) < 2:
        return [visible(PurePath(path).name or path) for path in paths]
    parts = [PurePath(path).parts or (path,) for path in paths]
    bare = [(*p[:-1], _without_suffix(p[-1])) for p in parts]
    if len(set(bare)) == len(parts):
        parts = bare
    shared = _shared_places([p[:0:-1] for p in parts])
    parts = [p[: len(p) - shared] for p in parts]

    def told_apart(length: int) -> bool:
        return len({p[-length:] for p in parts}) == len(parts)

    longest = max(map(len, parts))
    length = 1 + bisect_left(range(1, longest), True, key=told_apart)
    endings = [p[-length:] for p in parts]
    return [visible("/".join(e).replace("//", "/")) for e in _without_shared(endings)]


def _without_shared(endings: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The same tuples without the positions at which all agree, if all have the same length."""
    if len({len(e) for e in endings}) > 1:
        return list(endings)
    told = [i for i in range(len(endings[0])) if len({e[i] for e in endings}) > 1]
    return [tuple(e[i] for i in told) for e in endings]


def _shared_start(texts: Sequence[str]) -> str:
    return texts[0][: _shared_places(texts)]


def _shared_places(texts: Sequence[Sequence[str]]) -> int:
    """The length of the common start."""
    alike = itertools.takewhile(lambda each: len({*each}) == 1, zip(*texts, strict=False))
    return sum(1 for _ in alike)


def _without_suffix(name: str) -> str:
    path = PurePath(name)
    return path.stem if path.suffix in CHECKPOINT_SUFFIXES else name
