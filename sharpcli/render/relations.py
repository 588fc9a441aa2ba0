"""What figures of a comparison show: a measure against the gap, or its means over two factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpcli.documents.labels import clean
from sharpcli.errors import SharpError, setting
from sharpcli.measures.columns import column_titles
from sharpcli.render.pages.correlations import levels_of
from sharpcli.render.pages.scores import DrawnScores, read_bands

__all__ = ["DrawnHeat", "DrawnPoints", "DrawnScatter", "read_comparison"]

GAP = "loss.gap"
_FIRST_CHOICE = "hessian.eigenvalues[0]"
_NOT_SHARPNESS = ("loss.", "accuracy.")


@dataclass(frozen=True)
class DrawnPoints:
    """The checkpoints of one colour, with the names that a page shows."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str]


@dataclass(frozen=True)
class DrawnScatter:
    """A measure against the gap; the colours are the values of `factor`."""

    measure: str
    factor: str
    points: Sequence[DrawnPoints]
    tau: float | None


@dataclass(frozen=True)
class DrawnHeat:
    """The means of a measure: `values[row][column]`, None where there is no group."""

    measure: str
    down: str
    across: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


def read_comparison(document: Mapping[str, Any]) -> DrawnScores | DrawnScatter | DrawnHeat:
    """What is drawn of a `compare` document; a `SharpError` if it has no gaps, or no curve."""
    asked = document["settings"]
    if asked.get("score"):
        return read_bands(document)
    return _heat(document) if "heat" in asked else _scatter(document)


def _heat(document: Mapping[str, Any]) -> DrawnHeat:
    key, (down, across) = document["settings"]["heat"], document["settings"]["by"]
    rows, columns = levels_of(document, down), levels_of(document, across)
    means = {
        tuple(r["group"].get(k) for k in (down, across)): r["measures"].get(key, {}).get("mean")
        for r in document["results"]
    }
    values = [[means.get((a, b)) for b in columns] for a in rows]
    return DrawnHeat(
        _title(key),
        clean(down),
        clean(across),
        [clean(each) for each in rows],
        [clean(each) for each in columns],
        values,
    )


def _scatter(document: Mapping[str, Any]) -> DrawnScatter:
    results, by = document["results"], document["settings"]["by"]
    keys = dict.fromkeys(key for result in results for key in result["measures"])
    key = document["settings"].get("scatter") or _default(keys)
    found: dict[str, list[tuple[float, float, str]]] = {}
    for result in results:
        values = [result["measures"].get(name, {}).get("values") for name in (key, GAP)]
        if None in values:
            continue
        name = clean(result["group"].get(by[0])) if by else ""
        for x, y, path in zip(*values, result["members"], strict=True):
            if x is not None and y is not None:
                found.setdefault(name, []).append((float(x), float(y), path))
    if not found:
        raise SharpError(
            "a figure of a comparison shows a measure against the generalization gap, and no "
            "checkpoint has both",
            f"measure the loss on test data too, or name two keys with {setting('by', 'A,B')} and "
            f"a measure with {setting('heat', 'MEASURE')}; for scores add {setting('score', True)}",
        )
    points = [
        DrawnPoints(name, *map(list, zip(*each, strict=True))) for name, each in found.items()
    ]
    tau = {c["measure"]: c["tau"] for c in document.get("correlations", ())}.get(key)
    return DrawnScatter(_title(key), clean(by[0]) if by else "", points, tau)


def _default(keys: Mapping[str, Any]) -> str:
    """λ1 if it was measured, else the first measure of the table that is no loss or metric."""
    if _FIRST_CHOICE in keys:
        return _FIRST_CHOICE
    shown = [key for key in column_titles(keys) if not key.startswith(_NOT_SHARPNESS)]
    return next(iter(shown), "loss.train")


def _title(key: str) -> str:
    return column_titles([key]).get(key, clean(key))
