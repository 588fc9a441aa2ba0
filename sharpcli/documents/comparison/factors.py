"""Which metadata are the factors of an experiment, and which settings of runs agree."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from sharpcli.documents.comparison.members import Member
from sharpcli.documents.labels import differing_metadata

__all__ = ["NOT_A_CHOICE", "SEED", "factors_of", "settings_of"]

SEED = "seed"
NOT_A_CHOICE = {SEED, "epochs", "steps", "train_loss"}  # seeds and outcomes, not settings


def factors_of(members: Sequence[Member], by: Sequence[str], within: Sequence[str]) -> list[str]:
    """The factors whose effect is asked for: `by`, or else the settings that vary.

    A key varies as a setting if its values are shared by two runs on average. One that another key
    determines, such as a learning rate that belongs to an optimizer, is not a factor of its own.
    """
    if by:
        return [key for key in by if len({_value(m, key) for m in members}) > 1]
    rows = [member.metadata for member in members]
    keys = [
        key
        for key in differing_metadata(rows)
        if key not in NOT_A_CHOICE
        and key not in within
        and 2 * len({_value(member, key) for member in members}) <= len(members)
    ]
    kept: list[str] = []
    for index, key in enumerate(keys):
        before, after = keys[:index], keys[index + 1 :]
        if not any(_determines(members, other, key) for other in before if other in kept) and not (
            any(
                _determines(members, other, key) and not _determines(members, key, other)
                for other in after
            )
        ):
            kept.append(key)
    return kept


def settings_of(members: Sequence[Member], keys: Sequence[str]) -> list[dict[str, Hashable]]:
    """The values of these keys of each member; None where it has none."""
    return [{key: _value(member, key) for key in keys} for member in members]


def _value(member: Member, key: str) -> Hashable:
    value: Any = member.metadata.get(key)
    return str(value) if isinstance(value, Mapping | list) else value


def _determines(members: Sequence[Member], one: str, other: str) -> bool:
    """Whether members with the same value of `one` have the same value of `other`."""
    known: dict[Hashable, Hashable] = {}
    return all(
        known.setdefault(_value(m, one), _value(m, other)) == _value(m, other) for m in members
    )
