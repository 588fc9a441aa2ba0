"""Saved measurements side by side: groups, differences to a baseline, rank correlations.

Works on documents alone, in plain Python: no torch, no numpy. A row of the comparison is a group;
without `by` every checkpoint is a group of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..environment import environment
from ..errors import UsageError
from ..labels import named
from ..results import Document, Report
from .checks import comparability_warnings, grouping_notes, same_task, training_loss_warning
from .members import Group, Member, group_members, read_members
from .ranks import kendall, smallest_p_value

__all__ = ["compare", "training_loss_warning"]

_GAP = "loss.gap"
_FEWEST_CORRELATED = 4  # three have no p-value below 1/3


def compare(
    documents: Sequence[tuple[str, Document]], by: Sequence[str] = (), baseline: str | None = None
) -> Report:
    """Put `measure` documents, each with its name, into one report of kind "compare".

    Raises `SharpError` where a document is not a measurement or nothing in it was measured, and
    `UsageError` where `by` or `baseline` names what there is not.
    """
    members, notes = read_members(documents)
    groups = group_members(members, by)
    summaries = [_summary(group) for group in groups]
    if baseline is not None:
        base = _baseline(baseline, groups)
        summaries = [
            {**summary, "measures": _with_differences(summary["measures"], summaries[base])}
            if index != base
            else summary
            for index, summary in enumerate(summaries)
        ]
    correlations, allowed = _correlations(members)
    return Report(
        kind="compare",
        settings={
            "by": list(by),
            "baseline": None if baseline is None else groups[base].label,
            "files": [name for name, _ in documents],
        },
        environment=environment(),
        task=documents[0][1]["task"] if same_task(documents) else {},
        results=summaries,
        correlations=correlations,
        notes=[*notes, *grouping_notes(members, groups, by), *allowed],
        warnings=comparability_warnings(documents, members, groups, grouped=bool(by)),
    )


def _correlations(members: Sequence[Member]) -> tuple[list[Document], list[str]]:
    """Kendall's tau-b of every measure with the generalization gap, over the checkpoints.

    Test values and gaps are left out: they are what the gap is made of.
    """
    having_gap = [m for m in members if _value(m, _GAP) is not None]
    n = len(having_gap)
    if n < _FEWEST_CORRELATED:
        found = f"{n} of these {len(members)} checkpoints {'has' if n == 1 else 'have'} one"
        return [], [
            "no rank correlations with the generalization gap (test loss minus training loss): "
            f"they need {_FEWEST_CORRELATED} checkpoints with a gap, and {found}"
        ]
    correlations = []
    for key in dict.fromkeys(key for member in having_gap for key in member.scalars):
        if key.endswith((".test", ".gap")):
            continue
        both = [
            (value, gap)
            for member in having_gap
            if (value := _value(member, key)) is not None
            and (gap := _value(member, _GAP)) is not None
        ]
        if len(both) >= _FEWEST_CORRELATED:
            found_ = kendall([value for value, _ in both], [gap for _, gap in both])
            correlations.append({"measure": key, "with": _GAP, **asdict(found_)})
    return correlations, [
        f"rank correlations are over {n} checkpoints: the smallest p-value that is possible is "
        f"{smallest_p_value(n):.2g}, and each p is for one measure looked at alone"
    ]


def _value(member: Member, key: str) -> float | None:
    value = member.scalars.get(key, {}).get("value")
    return None if value is None else float(value)


def _summary(group: Group) -> Document:
    keys = dict.fromkeys(key for member in group.members for key in member.scalars)
    return {
        "label": group.label,
        "group": dict(group.values),
        "members": [member.path for member in group.members],
        "n": len(group.members),
        "measures": {
            key: _statistics([m.scalars[key] for m in group.members if key in m.scalars])
            for key in keys
        },
    }


def _statistics(scalars: Sequence[Mapping[str, Any]]) -> Document:
    """Mean and standard deviation of those that have a value; `error` is the mean of theirs.

    The mean of the errors bounds the error of the mean, whether they are independent or not.
    """
    finite = [scalar for scalar in scalars if scalar["value"] is not None]
    values = [float(scalar["value"]) for scalar in finite]
    errors = [scalar.get("error") for scalar in finite]
    known = [float(error) for error in errors if error is not None]
    kinds = {scalar.get("error_kind") for scalar in finite}
    statuses = {scalar["status"] for scalar in scalars}
    bounds = ("lower_bound", "upper_bound")
    worst = ("not_finite", "suspect", "max_products", "precision", *bounds, "converged")
    summary = {
        "mean": _mean(values),
        "standard_deviation": _deviation(values),
        "n": len(values),
        "error": _mean(known) if len(known) == len(values) else None,
        "error_kind": kinds.pop() if len(kinds) == 1 else None,
        "status": next((status for status in worst if status in statuses), "converged"),
        "difference": None,
    }
    if len(finite) == 1 and finite[0].get("sampling_error") is not None:
        summary["sampling_error"] = finite[0]["sampling_error"]
    return summary


def _mean(values: Sequence[float]) -> float | None:
    return sum(value / len(values) for value in values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    """With n − 1 in the denominator; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(value / len(values) for value in values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def _with_differences(measures: Document, base: Document) -> Document:
    return {
        key: {**summary, "difference": _difference(summary, base["measures"].get(key))}
        for key, summary in measures.items()
    }


def _difference(summary: Document, base: Document | None) -> Document | None:
    """To the baseline: Welch's standard error between groups of two or more.

    Between two single checkpoints the error is the sum of the two measurement errors, between a
    single one and a group it is not known.
    """
    if base is None or summary["mean"] is None or base["mean"] is None:
        return None
    difference: Document = {
        "value": summary["mean"] - base["mean"],
        "error": None,
        "error_kind": None,
        "degrees_of_freedom": None,
        "ratio": summary["mean"] / base["mean"] if base["mean"] else None,
    }
    if summary["standard_deviation"] is not None and base["standard_deviation"] is not None:
        parts = [s["standard_deviation"] / math.sqrt(s["n"]) for s in (summary, base)]
        error = math.hypot(*parts)
        shares = [(part / error) ** 2 if error else 0.5 for part in parts]
        degrees = 1 / (shares[0] ** 2 / (summary["n"] - 1) + shares[1] ** 2 / (base["n"] - 1))
        difference |= {
            "error": error,
            "error_kind": "standard_error",
            "degrees_of_freedom": degrees if error else None,
        }
    elif summary["n"] == base["n"] == 1 and None not in (summary["error"], base["error"]):
        difference |= {"error": summary["error"] + base["error"], "error_kind": "measurement"}
    return difference


def _baseline(text: str, groups: Sequence[Group]) -> int:
    """The index of the one group that a label, a path or `key=value,…` means."""
    matching = [
        index
        for index, group in enumerate(groups)
        if text == group.label or text in [member.path for member in group.members]
    ]
    if not matching and "=" in text:
        wanted = [pair.strip().partition("=") for pair in text.split(",")]
        matching = [
            index
            for index, group in enumerate(groups)
            if all(_means(value, group, key) for key, _, value in wanted)
        ]
    if len(matching) == 1:
        return matching[0]
    found = (
        f"fits {len(matching)} rows: {named([groups[index].label for index in matching])}"
        if matching
        else "fits no row"
    )
    rows = "; ".join(group.label for group in groups[:10]) + ("; …" if len(groups) > 10 else "")
    raise UsageError(f"--baseline {text}: {found}", f"name one of the rows: {rows}")


def _means(text: str, group: Group, key: str) -> bool:
    """Whether every member's metadata has this value, however the number is spelt."""
    for member in group.members:
        value = member.metadata.get(key)
        if str(value) == text:
            continue
        try:
            if value is None or float(value) != float(text):
                return False
        except ValueError:
            return False
    return True
