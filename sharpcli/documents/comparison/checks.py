"""Warnings and notes about what limits a comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sharpcli.documents.comparison.factors import NOT_A_CHOICE
from sharpcli.documents.comparison.members import Group, Member
from sharpcli.documents.labels import clean, differing_metadata, named
from sharpcli.documents.pairing import different_data, measured
from sharpcli.documents.results import Document
from sharpcli.documents.scalars import leaves
from sharpcli.documents.statuses import SOUND, Status
from sharpcli.errors import counted, setting

__all__ = [
    "comparability_warnings",
    "grouping_notes",
    "same_task",
    "scale_warnings",
    "training_loss_warning",
]

_LOSS_RATIO = 2.0
_NORM_RATIO = 1.5  # φ's box and λ1 go with the square of a common scale: about 2×
_NORM = re.compile(r"parameter_norms?(\.(norm|l2|two))?")
_SCALING = ("weight_decay", "batch_norm", "normalization", "norm")  # settings, by metadata key
_WITHOUT_EFFECT = re.compile(
    r"settings\.(run\.(device|batch_size)$|measure\.by$|output\b|checkpoints\b|paths\b)"
)


def training_loss_warning(losses: Mapping[str, float | None]) -> str | None:
    """A warning if the training losses of the rows differ by more than 2×, else None.

    `losses` maps row labels to losses; a loss that is None or not finite is ignored.
    """
    known = {row: x for row, x in losses.items() if x is not None and math.isfinite(x)}
    if len(known) < 2:
        return None
    low, high = (pick(known, key=lambda label: known[label]) for pick in (min, max))
    if known[high] <= _LOSS_RATIO * known[low] or known[high] <= 0:
        return None
    ratio = f"{known[high] / known[low]:.3g}×" if known[low] > 0 else "without bound"
    return (
        f"training losses differ {ratio}: {known[low]:.3g} ({low}) to {known[high]:.3g} "
        f"({high}); "
        "as a cross-entropy goes to 0 the Hessian goes to 0 with it, so the smaller eigenvalue "
        "need not be the flatter minimum: compare at similar training loss"
    )


def comparability_warnings(
    documents: Sequence[tuple[str, Document]],
    members: Sequence[Member],
    groups: Sequence[Group],
    *,
    grouped: bool,
) -> list[str]:
    """All warnings that matter when two rows are compared."""
    loss_warning = training_loss_warning({g.label: _mean_of(g, "loss.train") for g in groups})
    return [
        *_different_settings(documents),
        *_different_data(members),
        *([loss_warning] if loss_warning else []),
        *(_lone_members(groups) if grouped else []),
        *_given_twice(members),
        *_not_converged(members),
        *_unreliable(members),
    ]


def grouping_notes(
    members: Sequence[Member], groups: Sequence[Group], by: Sequence[str]
) -> list[str]:
    """Notes on checkpoints that lack a key of `by`; without `by`, on keys that group over seeds."""
    if by:
        lacking = {key: [m.label for m in members if key not in m.metadata] for key in by}
        return [
            f"{named(labels)}: no {key} in the metadata; grouped under –"
            for key, labels in lacking.items()
            if labels
        ]
    metadata = [member.metadata for member in members]
    keys = [
        key
        for key in differing_metadata(metadata)
        if key not in NOT_A_CHOICE and len({row.get(key) for row in metadata}) < len(members)
    ]
    grouped = {tuple(row.get(key) for key in keys) for row in metadata}
    if not keys or len(grouped) == len(groups):
        return []
    return [
        f"`{setting('by', ','.join(keys))}` would group these {counted(len(members), 'row')} into "
        f"{len(grouped)}"
    ]


def scale_warnings(groups: Sequence[Group], rescaled: Mapping[str, str]) -> list[str]:
    """A warning if the rows differ in the parameters' scale and measures depend on it.

    Evidence is the parameters' norm where it was measured, else settings that shrink or normalise
    the parameters.

    Args:
        groups: The rows.
        rescaled: Names of the measures that depend on the scale of layers, by flat key.
    """
    keys = {key for group in groups for member in group.members for key in member.scalars}
    names = list(dict.fromkeys(name for key, name in rescaled.items() if key in keys))
    if not names:
        return []
    reason = _norms_differ(groups, keys)
    if reason is None:
        return []
    verb = "changes" if len(names) == 1 else "change"
    return [
        f"{reason}; {named(names)} {verb} with the parameters' scale also where the function stays "
        "the same, so a part of the differences may be scale: compare with a measure that does "
        f"not, or see what moves with {setting('rescale_check', True)} of `sharp measure`"
    ]


def _norms_differ(groups: Sequence[Group], keys: Collection[str]) -> str | None:
    """Why the rows' parameters have different scales, as far as the documents say; else None."""
    norm = next((key for key in keys if _NORM.fullmatch(key)), None)
    if norm is not None:
        norms = {group.label: _mean_of(group, norm) for group in groups}
        known = {label: x for label, x in norms.items() if x is not None and x > 0}
        if len(known) < 2:
            return None
        low, high = (pick(known, key=lambda label: known[label]) for pick in (min, max))
        if known[high] <= _NORM_RATIO * known[low]:
            return None
        return (
            f"the parameters' norms differ {known[high] / known[low]:.3g}×: {known[low]:.3g} "
            f"({low}) to {known[high]:.3g} ({high})"
        )
    for key in _SCALING:
        found = {str(m.metadata.get(key)) for group in groups for m in group.members}
        if len(found) > 1 and len(groups) > 1 and _between(groups, key):
            return f"the rows differ in {key}, which changes the scale of the parameters"
    return None


def _between(groups: Sequence[Group], key: str) -> bool:
    """Whether a setting differs between rows, not only within each."""
    return len({frozenset(str(m.metadata.get(key)) for m in g.members) for g in groups}) > 1


def same_task(documents: Sequence[tuple[str, Document]]) -> bool:
    """Whether all documents have the same task, options and data."""
    return all(document["task"] == documents[0][1]["task"] for _, document in documents)


def _different_settings(documents: Sequence[tuple[str, Document]]) -> list[str]:
    """One warning for each setting that is not the same in all documents."""
    flat = [
        {
            key: "not set" if value is None else clean(value)
            for part in ("task", "settings")
            for key, value in leaves(document[part], part)
            if not _WITHOUT_EFFECT.match(key)
        }
        for _, document in documents
    ]
    warnings = []
    for key in dict.fromkeys(key for settings in flat for key in settings):
        names: dict[str, list[str]] = {}
        for (name, _), settings in zip(documents, flat, strict=True):
            names.setdefault(settings.get(key, "not set"), []).append(name)
        if len(names) > 1:
            found = "; ".join(f"{value} in {named(files)}" for value, files in names.items())
            warnings.append(f"settings differ: {key} is {found}")
    return warnings


def _different_data(members: Sequence[Member]) -> list[str]:
    found = different_data([replace(measured(m.result), label=m.label) for m in members])
    return [f"{found}: no differences between them"] if found else []


def _lone_members(groups: Sequence[Group]) -> list[str]:
    lone = [group.label for group in groups if len(group.members) == 1]
    if not lone:
        return []
    return [f"only one member, so no standard deviation: {'; '.join(lone)}"]


def _given_twice(members: Sequence[Member]) -> list[str]:
    places: dict[str, list[str]] = {}
    for member in members:
        if member.sha256:
            places.setdefault(member.sha256, []).append(f"{member.path} ({member.source})")
    return [
        f"the same checkpoint {len(found)} times: {', '.join(found)}"
        for found in places.values()
        if len(found) > 1
    ]


def _not_converged(members: Sequence[Member]) -> list[str]:
    """One warning for each set of rows that share what did not converge or has no value."""
    told: dict[str, str] = {
        Status.MAX_PRODUCTS: "did not converge: included as computed",
        Status.PRECISION: "rounding keeps the error above the tolerance: included as computed",
        Status.SUSPECT: "wrong second derivatives are suspected: included as computed",
        Status.UNRESOLVED: "the method cannot decide: included as computed",
        Status.NOT_FINITE: "not finite: left out of means and correlations",
    }
    rows: dict[tuple[str, str], list[str]] = {}
    for member in members:
        for key, scalar in member.scalars.items():
            if scalar["status"] not in SOUND:
                rows.setdefault((key, scalar["status"]), []).append(member.label)
    keys: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (key, status), labels in rows.items():
        keys.setdefault((status, tuple(labels)), []).append(key)
    return [
        f"{told.get(status, f'{clean(status)}: included as computed')}: "
        f"{named(measures)} of {named(labels)}"
        for (status, labels), measures in keys.items()
    ]


def _unreliable(members: Sequence[Member]) -> list[str]:
    """One warning that names the rows with unreliable sampling errors."""
    rows = [
        member.label
        for member in members
        if any(scalar.get("sampling_status") for scalar in member.scalars.values())
    ]
    if not rows:
        return []
    return [
        f"sampling errors of {named(rows)} are unreliable, and so are those of differences and "
        f"ratios (marked ?): measure with more {setting('samples')}, or on all of the data"
    ]


def _mean_of(group: Group, key: str) -> float | None:
    values = [member.scalars.get(key, {}).get("value") for member in group.members]
    known = [float(value) for value in values if value is not None]
    return sum(value / len(known) for value in known) if known else None
