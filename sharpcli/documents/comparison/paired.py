"""Single checkpoints of saved measurements, compared on the sample that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sharpcli.documents.comparison.members import Group, Member
from sharpcli.documents.contrast import contrast_of
from sharpcli.documents.pairing import Measured, Pair, measured, pair_of, pairs_of
from sharpcli.documents.results import Document

__all__ = ["paired_difference", "pairs_of_rows"]


def pairs_of_rows(
    groups: Sequence[Group],
    baseline: int | None,
    larger_is_sharper: Mapping[str, bool | None],
    exact: Mapping[str, bool],
) -> list[Pair]:
    """The rows two by two, or each with the baseline; none if a row has several checkpoints."""
    if any(len(group.members) > 1 for group in groups):
        return []
    rows = [_measured(group.label, group.members[0]) for group in groups]
    return pairs_of(rows, larger_is_sharper, baseline=baseline, exact=exact)


def paired_difference(key: str, difference: Document, own: Member, base: Member) -> Document:
    """A difference between two checkpoints, with paired errors if both have the same sample."""
    a, b = _measured("", own), _measured("", base)
    if a.sample is None or a.sample != b.sample:
        return difference
    scalars = a.scalars[key], b.scalars[key]
    both = contrast_of(*scalars, key, a.count, a.total, exact=own.exact)
    if both is None or both.scatter is None:
        return difference
    pair = pair_of(*scalars, key, a.count, a.total, exact=own.exact)
    error = both.limit(1.0, 1.0) + both.widened(1.0, 1.0)
    paired = {
        "error": error,
        "error_kind": "measurement",
        "measurement_error": error,
        "sampling_error": both.widened(1.0, 1.0),
        "interval": None if difference["bound"] else pair.difference.interval,
        "ratio_error": None,
        "ratio_interval": None if difference["ratio_bound"] else pair.ratio.interval,
        "paired": True,
    }
    if pair.ratio.interval is not None:
        center = both.center
        widened = both.limit(1.0, center) + both.widened(1.0, center)
        paired["ratio_error"] = widened / abs(both.values[1])
    return {**difference, **paired}


def _measured(label: str, member: Member) -> Measured:
    return replace(measured(member.result), label=label)
