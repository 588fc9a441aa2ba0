"""Compare saved measurements: groups, differences to a baseline, rank correlations.

Reads only documents, in plain Python without torch or numpy. Each row of the comparison is a
group; without `by` each checkpoint is its own group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sharpcli.documents.comparison.checks import (
    comparability_warnings,
    grouping_notes,
    same_task,
    scale_warnings,
    training_loss_warning,
)
from sharpcli.documents.comparison.correlations import agreement, correlations
from sharpcli.documents.comparison.matched import (
    block_means,
    matched,
    matching_notes,
    student_interval,
)
from sharpcli.documents.comparison.members import (
    Group,
    check_keys,
    group_members,
    read_members,
    value_of,
)
from sharpcli.documents.comparison.paired import paired_difference, pairs_of_rows
from sharpcli.documents.environment import environment
from sharpcli.documents.labels import named
from sharpcli.documents.results import Document, Report
from sharpcli.documents.statuses import SOUND, SamplingStatus
from sharpcli.documents.uncertainty import (
    NOTHING_EXACT,
    Uncertainty,
    bound_of,
    difference_bound,
    ratio_bound,
    ratio_error,
    ratio_interval,
    uncertainty_of,
    worst_status,
)
from sharpcli.errors import UsageError, setting

__all__ = ["compare", "training_loss_warning"]


def compare(
    documents: Sequence[tuple[str, Document]],
    by: Sequence[str] = (),
    baseline: str | None = None,
    exact: Mapping[str, bool] = NOTHING_EXACT,
    larger_is_sharper: Mapping[str, bool | None] | None = None,
    *,
    within: Sequence[str] = (),
    rescaled: Mapping[str, str] | None = None,
    drawn: Mapping[str, str] | None = None,
) -> Report:
    """Compare `measure` documents in one report of kind "compare".

    A document that is not a measurement, or documents without a measured checkpoint, give a
    `SharpError`; an unknown key or `baseline` a `UsageError`.

    Args:
        documents: Pairs of a name, for messages, and a document.
        by: Metadata keys that define the groups.
        baseline: A row's label, a path or `key=value,…`.
        exact: JSON keys of measures whose numbers are exact up to rounding if they state no error.
        larger_is_sharper: By flat key, what a larger value means (default: only higher).
        within: Metadata keys in which members of two groups match, such as the seed: differences
            are then means over what both groups have, with the error of matched pairs.
        rescaled: Names, for a warning, of the measures that change if layers are rescaled without
            changing the function, by flat key.
        drawn: What a figure shows: {"scatter": flat key} or {"heat": flat key}.

    Raises:
        UsageError: An unknown key in `by` or `within`, a key in both, or an unknown `baseline`.
    """
    members, notes = read_members(documents, exact)
    check_keys(within, members, "within")
    if again := [key for key in within if key in by]:
        raise UsageError(
            f"{setting('within', again[0])}: is also in {setting('by', ','.join(by))}",
            "groups are made by one key and matched in another",
        )
    groups = group_members(members, by)
    summaries = [_summary(group) for group in groups]
    base = None
    if baseline is not None:
        base = _baseline(baseline, groups)
        summaries = [
            _differences(groups[index], summary, groups[base], summaries[base], within)
            if index != base
            else summary
            for index, summary in enumerate(summaries)
        ]
        notes += matching_notes(groups, groups[base], within)
    correlated, allowed = correlations(members, by, within)
    return Report(
        kind="compare",
        settings={
            "by": list(by),
            **({"within": list(within)} if within else {}),
            **(drawn or {}),
            "baseline": None if base is None else groups[base].label,
            "files": [name for name, _ in documents],
        },
        environment=environment(),
        task=documents[0][1]["task"] if same_task(documents) else {},
        results=summaries,
        correlations=correlated,
        agreement=agreement(members),
        pairs=pairs_of_rows(groups, base, larger_is_sharper or {}, exact),
        notes=[*notes, *grouping_notes(members, groups, by), *allowed],
        warnings=[
            *comparability_warnings(documents, members, groups, grouped=bool(by)),
            *scale_warnings(groups, rescaled or {}),
        ],
    )


def _summary(group: Group) -> Document:
    keys = dict.fromkeys(key for member in group.members for key in member.scalars)
    return {
        "label": group.label,
        "group": dict(group.values),
        "members": [member.path for member in group.members],
        "n": len(group.members),
        "measures": {key: _statistics(group, key) for key in keys},
    }


def _statistics(group: Group, key: str) -> Document:
    """Mean and standard deviation of the members with a value, and the mean of their errors.

    The mean of the errors bounds the error of the mean, whether they are independent or not. If
    part of a member's error is unknown, there is no error.
    """
    scalars = [member.scalars[key] for member in group.members if key in member.scalars]
    finite = [scalar for scalar in scalars if scalar["value"] is not None]
    values = [float(scalar["value"]) for scalar in finite]
    errors = [float(scalar["error"]) for scalar in finite if scalar.get("error") is not None]
    kinds = {scalar.get("error_kind") for scalar in finite}
    found = _uncertainty(group, key)
    summary = {
        "mean": _mean(values),
        "standard_deviation": _deviation(values),
        "n": len(values),
        "error": _mean(errors) if found and len(errors) == len(values) else None,
        "error_kind": kinds.pop() if len(kinds) == 1 else None,
        "status": worst_status([scalar["status"] for scalar in scalars]),
        "values": [value_of(member, key) for member in group.members],
        "difference": None,
    }
    if any(scalar.get("sampling_error") is not None for scalar in finite):
        summary["sampling_error"] = found.sampling if found else None
    if found and found.bias:
        summary["sampling_bias"] = found.bias
    if any(scalar.get("sampling_status") for scalar in finite):
        summary["sampling_status"] = SamplingStatus.UNRELIABLE
    return summary


def _mean(values: Sequence[float]) -> float | None:
    return sum(value / len(values) for value in values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    """The standard deviation, with n − 1 in the denominator; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(value / len(values) for value in values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def _differences(
    group: Group, summary: Document, base: Group, of_base: Document, within: Sequence[str]
) -> Document:
    """A group's summary, with the difference to the baseline added to each measure."""
    return {
        **summary,
        "measures": {
            key: {**own, "difference": _between(group, own, base, of_base, key, within)}
            for key, own in summary["measures"].items()
        },
    }


def _matched_or_not(difference: Document, found: Document | None) -> Document:
    """The difference, that of matched members where there is one, with its interval.

    A ratio whose measurement errors are unknown, or whose baseline may be 0, has no error.
    """
    if found is not None:
        known = difference["ratio_error"] is not None
        difference = {**difference, **found}
        if not known:
            difference["ratio_error"] = None
    if difference["error_kind"] != "standard_error":
        return difference
    value, error = difference["value"], difference["error"]
    interval = student_interval(value, error, difference["degrees_of_freedom"])
    return {**difference, "group_interval": interval}


def _between(
    group: Group, own: Document, base: Group, of_base: Document, key: str, within: Sequence[str]
) -> Document | None:
    """The difference of one measure to the baseline.

    Paired where two checkpoints share a sample; between groups of matched members if there are any.
    There is none between different data.
    """
    if {member.data for member in group.members} != {member.data for member in base.members}:
        return None
    found = _difference(
        own, of_base["measures"].get(key), _uncertainty(group, key), _uncertainty(base, key)
    )
    if found is None:
        return None
    if len(group.members) > 1 or len(base.members) > 1 or within:
        blocks = block_means(group, key, within), block_means(base, key, within)
        return _matched_or_not(found, matched(*blocks) if within else None)
    return paired_difference(key, found, group.members[0], base.members[0])


def _uncertainty(group: Group, key: str) -> Uncertainty | None:
    """The uncertainty of a measure's mean over a group; None if a part of it is unknown."""
    finite = [(m, m.scalars[key]) for m in group.members if value_of(m, key) is not None]
    if not finite:
        return None
    parts = [uncertainty_of(key, scalar, sampled=m.sampled, exact=m.exact) for m, scalar in finite]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    deviation = _deviation([float(scalar["value"]) for _, scalar in finite])
    over_seeds = 0.0 if deviation is None else deviation / math.sqrt(len(finite))
    return Uncertainty.of_mean(known, over_seeds)


def _difference(
    own: Document, base: Document | None, of_own: Uncertainty | None, of_base: Uncertainty | None
) -> Document | None:
    """The difference to the baseline, with its errors.

    Between two single checkpoints `error` is that of both measurements. Between groups it is
    Welch's standard error over the seeds, and the measurements' error is given separately. Between
    a single checkpoint and a group it is unknown, because one has no deviation over seeds.
    """
    if base is None or own["mean"] is None or base["mean"] is None:
        return None
    above, below = own["mean"], base["mean"]
    single, alike = own["n"] == base["n"] == 1, (own["n"] > 1) == (base["n"] > 1)
    both = None if of_own is None or of_base is None else of_own.minus(of_base)
    bounds = bound_of(own), bound_of(base)
    difference: Document = {
        "value": above - below,
        "error": None,
        "error_kind": None,
        "degrees_of_freedom": None,
        "measurement_error": both and both.measurement,
        "sampling_error": both.sampling if both and _sampled(own, base) else None,
        "sampling_bias": both.bias if both and both.bias else None,
        "interval": None,
        "bound": difference_bound(*bounds),
        "ratio": above / below if below else None,
        "ratio_error": None,
        "ratio_interval": None,
        "ratio_bound": ratio_bound(*bounds, above, below),
        "status": worst_status([s for s in (own["status"], base["status"]) if s not in SOUND]),
    }
    if single and both and both.stated:
        difference |= {"error": both.measurement, "error_kind": "measurement"}
        if difference["bound"] is None:
            middle = above - below - both.bias
            difference["interval"] = [middle - both.half_width, middle + both.half_width]
    elif own["n"] > 1 and base["n"] > 1:
        difference |= _welch(own, base)
    if any(summary.get("sampling_status") for summary in (own, base)):
        difference["sampling_status"] = SamplingStatus.UNRELIABLE
    if below and alike and of_own and of_base and both and (both.stated or not single):
        interval = ratio_interval(above, below, of_own, of_base)
        if interval is not None:
            difference["ratio_error"] = ratio_error(above, below, of_own, of_base)
            if single and difference["ratio_bound"] is None:
                difference["ratio_interval"] = list(interval)
    return difference


def _sampled(*summaries: Document) -> bool:
    return any(summary.get("sampling_error") is not None for summary in summaries)


def _welch(own: Document, base: Document) -> Document:
    """Welch's standard error of a difference of two means, with Satterthwaite's degrees."""
    parts = [s["standard_deviation"] / math.sqrt(s["n"]) for s in (own, base)]
    error = math.hypot(*parts)
    shares = [(part / error) ** 2 if error else 0.5 for part in parts]
    degrees = 1 / (shares[0] ** 2 / (own["n"] - 1) + shares[1] ** 2 / (base["n"] - 1))
    return {
        "error": error,
        "error_kind": "standard_error",
        "degrees_of_freedom": degrees if error else None,
    }


def _baseline(text: str, groups: Sequence[Group]) -> int:
    """The index of the single group that matches a label, a path or `key=value,…`."""
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
        f"matches {len(matching)} rows: {named([groups[index].label for index in matching])}"
        if matching
        else "matches no row"
    )
    rows = "; ".join(group.label for group in groups[:10]) + ("; …" if len(groups) > 10 else "")
    raise UsageError(f"{setting('baseline', text)}: {found}", f"name one of the rows: {rows}")


def _means(text: str, group: Group, key: str) -> bool:
    """Whether every member's metadata has this value, in any spelling of a number."""
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
