"""Groups of runs that share all settings but the seed, and families that share all but rates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpcli.documents.labels import clean, natural_order
from sharpcli.documents.scoring.runs import Run
from sharpcli.errors import UsageError, did_you_mean, setting
from sharpcli.runtime.text import visible

__all__ = ["RunGroup", "as_label", "families", "grouped", "unequal_settings"]

# Settings that do not change the weights, or that runs of one group differ in.
_LEFT_OUT = (
    "seed",
    "evaluate_every",
    "noise_scale",
    "save_every",
    "save_optimizer",
    "track",
    "every",
    "track_samples",
    "track_tol",
)
_LAST = {"schedule": 1, "lr": 2}  # so that the groups of a family are neighbours


@dataclass(frozen=True)
class RunGroup:
    """Runs with one value of each setting in `values`; `family` is what it shares with others."""

    label: str
    values: Mapping[str, Any]
    runs: Sequence[Run]
    family: str


def grouped(runs: Sequence[Run], by: Sequence[str] = ()) -> list[RunGroup]:
    """The groups, in the order of their settings.

    Args:
        runs: all runs.
        by: settings that define the groups. Default: all that differ, but the seed.

    Raises:
        UsageError: for a setting in `by` that no run has.
    """
    names = dict.fromkeys(key for run in runs for key in run.settings)
    short = _short(names)
    full = {shown: key for key, shown in short.items()} | {key: key for key in names}
    for key in by:
        if key not in full:
            known = [shown for shown in short.values() if shown not in _LEFT_OUT]
            raise UsageError(
                f"{setting('by', key)}: the runs have no such setting: {did_you_mean(key, known)}",
                f"settings that differ: {', '.join(short[k] for k in _varying(runs)) or 'none'}",
            )
    keys = [full[key] for key in by] or sorted(_varying(runs), key=lambda k: _LAST.get(k, 0))
    together: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        together.setdefault(tuple(run.settings.get(key) for key in keys), []).append(run)
    shared = [key for key in keys if key != "lr"]
    groups = []
    for own in sorted(together, key=lambda each: [natural_order(value) for value in each]):
        values = dict(zip(keys, own, strict=True))
        shown = {short[key]: value for key, value in values.items()}
        family = {short[k]: _policy(values[k]) if k == "schedule" else values[k] for k in shared}
        groups.append(
            RunGroup(
                _label(shown),
                {k: _plain(v) for k, v in shown.items()},
                together[own],
                _label(family),
            )
        )
    return groups


def families(groups: Sequence[RunGroup]) -> dict[str, list[RunGroup]]:
    """The groups of each family; groups of one differ in the rate or in a policy's parameters."""
    found: dict[str, list[RunGroup]] = {}
    for group in groups:
        found.setdefault(group.family, []).append(group)
    return found


def unequal_settings(groups: Sequence[RunGroup]) -> list[str]:
    """The settings, other than the seed, in which the runs of some group differ."""
    found = dict.fromkeys(key for group in groups for key in _varying(group.runs))
    return list(_short(found).values())


def _varying(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in _LEFT_OUT)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def _short(of: Iterable[str]) -> dict[str, str]:
    """`width` for `options.width`, where no other setting has that name."""
    keys = [*of]
    last = [key.rpartition(".")[2] for key in keys]
    return {key: own if last.count(own) == 1 else key for key, own in zip(keys, last, strict=True)}


def _label(values: Mapping[str, Any]) -> str:
    """`optimizer=sgd, lr=0.1`; what is not given is left out."""
    given = [f"{clean(k)}={as_label(_plain(v))}" for k, v in values.items() if v is not None]
    return ", ".join(given) or ("defaults" if values else "all runs")


def as_label(value: Any) -> str:
    """A value as one line of plain text. It is not cut: two groups may differ in the last digit."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)
    return visible(str(value)).strip()


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _policy(spec: Any) -> Any:
    """The policies of a schedule without their numbers: `warmup, EXP`; `constant` for a number."""
    if not isinstance(spec, str):
        return spec
    parts = re.sub(r"\([^()]*\)", "()", spec).split(",")
    names = [re.match(r"\s*([A-Za-z][\w-]*)", part) for part in parts]
    return ", ".join(name[1] if name else "constant" for name in names)
