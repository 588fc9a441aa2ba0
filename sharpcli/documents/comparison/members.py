"""The checkpoints of saved measurements, and their groups."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharpcli.documents.labels import differing_metadata, named, natural_order, pairs, short_labels
from sharpcli.documents.results import Document
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.statuses import Outcome
from sharpcli.documents.uncertainty import NOTHING_EXACT
from sharpcli.errors import SharpError, UsageError, setting

__all__ = ["Group", "Member", "check_keys", "group_members", "read_members", "value_of"]


@dataclass(frozen=True)
class Member:
    """One measured checkpoint of one document; `sampled` if measured on a sample of the data.

    Numbers of the measures in `exact` (JSON keys) without an error are exact up to rounding.
    `result` is the document's own.
    """

    source: str
    label: str
    path: str
    sha256: str | None
    metadata: Mapping[str, Any]
    scalars: Mapping[str, Mapping[str, Any]]
    sampled: bool = False
    exact: Mapping[str, bool] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def data(self) -> str | None:
        """The options by which its metadata chose its data; None for those of the run."""
        chosen: str | None = (self.result.get("checkpoint") or {}).get("data")
        return chosen


@dataclass(frozen=True)
class Group:
    """The members that share the metadata in `values`."""

    label: str
    values: Mapping[str, Any]
    members: Sequence[Member]


def value_of(member: Member, key: str) -> float | None:
    """A measure's value; None if the member has none or it is not finite."""
    value = member.scalars.get(key, {}).get("value")
    return None if value is None else float(value)


def read_members(
    documents: Sequence[tuple[str, Document]], exact: Mapping[str, bool] = NOTHING_EXACT
) -> tuple[list[Member], list[str]]:
    """The measured checkpoints of named documents, and a note for each that failed.

    Raises:
        SharpError: A document is not a measurement, or no checkpoint was measured.
    """
    found: list[tuple[str, Mapping[str, Any]]] = []
    notes = []
    for name, document in documents:
        if document["kind"] != "measure":
            trained = document["kind"] in ("train", "sweep")
            raise SharpError(
                f'{name}: holds a result of kind "{document["kind"]}", not a measurement',
                "pass files that `sharp measure` wrote as JSON"
                + (f", or compare trainings with {setting('score', True)}" if trained else ""),
            )
        for result in document["results"]:
            if result["status"] == Outcome.FAILED:
                notes.append(f"{name}: {result['checkpoint']['path']} failed and is left out")
            else:
                found.append((name, result))
        if parameters := (document["settings"].get("run") or {}).get("parameters"):
            notes.append(f"{name}: only of the parameters {', '.join(map(str, parameters))}")
        if any(result.get("layers") for result in document["results"]):
            notes.append(f"{name}: layers are not compared, only all parameters together")
    if not found:
        names = named([name for name, _ in documents])
        raise SharpError(f"{names}: no measured checkpoint", "each one failed; see its message")
    labels = short_labels([result["checkpoint"]["path"] for _, result in found])
    members = [
        Member(
            source,
            label,
            result["checkpoint"]["path"],
            result["checkpoint"].get("sha256"),
            {
                **(result["checkpoint"].get("metadata") or {}),
                **(result["checkpoint"].get("options") or {}),
            },
            flat_scalars(result["measures"]),
            _sampled(result),
            exact,
            result,
        )
        for label, (source, result) in zip(labels, found, strict=True)
    ]
    return members, notes


def _sampled(result: Mapping[str, Any]) -> bool:
    """Whether fewer examples were measured than the split has."""
    checkpoint = result["checkpoint"]
    return "examples_in_all" in checkpoint or any(
        scalar.get("sampling_error") is not None or scalar.get("sampling_status")
        for scalar in flat_scalars(result["measures"]).values()
    )


def check_keys(keys_given: Sequence[str], members: Sequence[Member], name: str = "by") -> None:
    """Raise `UsageError` for a key that no checkpoint's metadata has; `name` is the setting."""
    keys = sorted({key for member in members for key in member.metadata})
    for key in keys_given:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            there = f"the metadata keys are: {', '.join(keys)}" if keys else "there is no metadata"
            hint = f"did you mean '{near[0]}'? {there}" if near else there
            raise UsageError(f"{setting(name, key)}: no checkpoint has metadata of that name", hint)


def group_members(members: Sequence[Member], by: Sequence[str]) -> list[Group]:
    """Groups in the order of their metadata; without `by`, one per member.

    A key that no checkpoint's metadata has is a `UsageError`.
    """
    check_keys(by, members)
    if not by:
        told = differing_metadata([member.metadata for member in members])
        return sorted(
            (
                Group(m.label, {key: m.metadata[key] for key in told if key in m.metadata}, [m])
                for m in members
            ),
            key=lambda group: (
                [natural_order(group.values.get(key)) for key in told],
                natural_order(group.label),
            ),
        )
    together: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        together.setdefault(tuple(member.metadata.get(key) for key in by), []).append(member)
    return [
        Group(pairs(values), values, together[key])
        for key in sorted(together, key=lambda key: [natural_order(value) for value in key])
        for values in [dict(zip(by, key, strict=True))]
    ]
