"""Differences between groups whose members match: the same seed, the same learning rate."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

from sharpcli.documents.comparison.factors import settings_of
from sharpcli.documents.comparison.members import Group, value_of
from sharpcli.documents.results import Document
from sharpcli.documents.scoring.statistics import deviation, mean, student, student_quantile
from sharpcli.errors import setting

__all__ = ["block_means", "matched", "matching_notes", "student_interval"]

Blocks = Mapping[tuple[Hashable, ...], float]


def block_means(group: Group, key: str, within: Sequence[str]) -> dict[tuple[Hashable, ...], float]:
    """The mean of a measure over the members of each block, which share the values of `within`."""
    values: dict[tuple[Hashable, ...], list[float]] = {}
    for member, row in zip(group.members, settings_of(group.members, within), strict=True):
        value = value_of(member, key)
        if value is not None:
            values.setdefault(tuple(row[name] for name in within), []).append(value)
    return {block: math.fsum(v / len(each) for v in each) for block, each in values.items()}


def matched(own: Blocks, base: Blocks) -> Document | None:
    """The mean difference over the blocks that both groups have; None for fewer than two.

    The standard error is that of the blocks' differences. It is smaller than Welch's where a block,
    such as a seed, moves both groups in the same way.
    """
    both = [block for block in own if block in base]
    if len(both) < 2:
        return None
    above, below = (math.fsum(side[b] / len(both) for b in both) for side in (own, base))
    differences = [own[block] - base[block] for block in both]
    spread, n = deviation(differences) or 0.0, len(both)
    found: Document = {
        "value": mean(differences),
        "error": spread / math.sqrt(n),
        "error_kind": "standard_error",
        "degrees_of_freedom": n - 1 if spread else None,
        "matched": n,
        "ratio": above / below if below else None,
        "ratio_error": None,
        "ratio_interval": None,
    }
    if below:
        ratio = found["ratio"]
        off = deviation([own[block] - ratio * base[block] for block in both]) or 0.0
        if abs(below) > student_quantile(n - 1) * (deviation([base[b] for b in both]) or 0.0) / (
            math.sqrt(n)
        ):
            found["ratio_error"] = off / math.sqrt(n) / abs(below)
    return found


def student_interval(value: float, error: float, degrees: float | None) -> list[float]:
    """Student's 95 % interval; without degrees of freedom there is no scatter, and no width."""
    half = 0.0 if degrees is None else error * student(degrees)
    return [value - half, value + half]


def matching_notes(groups: Sequence[Group], base: Group | None, within: Sequence[str]) -> list[str]:
    """What the differences to the baseline match, and the rows that match it in too little."""
    if not within or base is None:
        return []
    names = ", ".join(within)
    blocks = {g.label: {tuple(r.values()) for r in settings_of(g.members, within)} for g in groups}
    shared = {
        group.label: len(blocks[group.label] & blocks[base.label])
        for group in groups
        if group is not base
    }
    notes = []
    for count in sorted({n for n in shared.values() if n > 1}):
        rows = [label for label, n in shared.items() if n == count]
        some = "; ".join(rows[:3]) + (f"; and {len(rows) - 3} more" if len(rows) > 3 else "")
        notes.append(
            f"differences of {some}: means over the {count} values of {names} that are also in the "
            "baseline; ± is the standard error of these differences"
        )
    few = [label for label, n in shared.items() if n < 2]
    if few:
        notes.append(
            f"not matched, because fewer than two values of {names} are also in the baseline: "
            f"{'; '.join(few[:3])}{' and more' if len(few) > 3 else ''}; "
            f"{setting('within', ','.join(within))} has no effect on them"
        )
    return notes
