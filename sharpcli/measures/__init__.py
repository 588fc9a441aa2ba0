"""The measures: one file each, described in `catalogue`, and the registry that finds them.

A package adds its own through the entry point group `sharpcli.measures`: the entry's name is the
measure's name, its object is a `Measure`. Importing this module does not import torch: the
functions are loaded when called.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, UsageError, did_you_mean, setting
from sharpcli.measures.catalogue.defaults import DEFAULTS
from sharpcli.measures.catalogue.optimization import OPTIMIZATION
from sharpcli.measures.catalogue.parameter_norms import PARAMETER_NORMS
from sharpcli.measures.catalogue.perturbations import PERTURBATIONS
from sharpcli.measures.measure import Column, Measure, Option

if TYPE_CHECKING:
    from sharpcli.measures.computing import compute
    from sharpcli.measures.context import Context

__all__ = [
    "Column",
    "Context",
    "Measure",
    "Option",
    "choose",
    "compute",
    "entries_of",
    "known_measures",
    "measure_of",
    "options_of",
    "readers",
]


BUILT_IN: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (*DEFAULTS, *PERTURBATIONS, *OPTIMIZATION, *PARAMETER_NORMS)
}


def known_measures(
    among: Collection[str] | None = None, *, strict: bool = True
) -> dict[str, Measure]:
    """Every measure by name: the built-in ones, then those of installed packages.

    `among` restricts the latter to those whose name, with underscores, is one of these JSON keys.
    Unless `strict`, packages that cannot be used are left out.

    Raises:
        SharpError: if a package's entry point cannot be imported or is not a `Measure`.
    """
    known = dict(BUILT_IN)
    for entry in entry_points(group="sharpcli.measures") if among is None or among else ():
        if among is not None and entry.name.replace("-", "_") not in among:
            continue
        try:
            known.setdefault(entry.name, _loaded(entry))
        except SharpError:
            if strict:
                raise
    return known


def entries_of(names: Collection[str]) -> list[EntryPoint]:
    """The entry points of the measures among `names` that packages bring."""
    chosen = {name for name in names if name not in BUILT_IN}
    every = entry_points(group="sharpcli.measures") if chosen else ()
    return [entry for entry in every if entry.name in chosen]


def _loaded(entry: EntryPoint) -> Measure:
    """The measure of a package's entry point; raises `SharpError` if there is none."""
    where = f"the entry point '{entry.name}' of sharpcli.measures ({entry.value})"
    hint = "fix or uninstall the package that brings it"
    try:
        found = entry.load()
    except Exception as error:  # whatever the package's own code raises
        raise SharpError(
            f"{where} cannot be imported: {type(error).__name__}: {error}", hint
        ) from error
    if not isinstance(found, Measure):
        raise SharpError(f"{where} is not a sharpcli.measures.Measure", hint)
    return found


def choose(names: Sequence[str]) -> list[Measure]:
    """The measures called `names` in the registry's order, or the default set if there are none.

    "all" selects every measure.

    Raises:
        UsageError: if a name is unknown.
    """
    known = known_measures()
    for name in names:
        if name != "all" and name not in known:
            parts = [part.strip() for part in name.split(",")]
            hint = (
                f"give each its own option: {setting('measures', parts)}"
                if all(part in known for part in parts)
                else did_you_mean(name, [*known, "all"])
            )
            raise UsageError(f"{setting('measures', [name])}: there is no such measure", hint)
    if "all" in names:
        return list(known.values())
    return [m for m in known.values() if (m.name in names if names else m.default)]


def measure_of(text: str) -> Measure | None:
    """The measure with this name, or whose numbers have flat keys like this one; None if none."""
    known = known_measures()
    first = re.split(r"[.\[]", text, maxsplit=1)[0]
    return known.get(text) or next((each for each in known.values() if each.key == first), None)


def readers(measures: Sequence[Measure]) -> dict[str, list[str]]:
    """The measures that would read command parameters which none of `measures` reads."""
    if any(measure.reads is None for measure in measures):
        return {}
    read = {name for measure in measures for name in _read_by(measure)}
    unread: dict[str, list[str]] = {}
    for known in known_measures(strict=False).values():
        for name in _read_by(known):
            if name not in read:
                unread.setdefault(name, []).append(known.name)
    return unread


def _read_by(measure: Measure) -> list[str]:
    return [*(measure.reads or ()), *(option.name for option in measure.options)]


def options_of(measures: Sequence[Measure], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the options that these measures bring: as `given`, else their defaults.

    Raises:
        UsageError: if no measure has an option of that name, and for a value out of its range.
    """
    every = known_measures(strict=False).values()
    known = {option.name: option for measure in every for option in measure.options}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{name}: no measure has this option", did_you_mean(name, known))
        known[name].check(value)
    options = [option for measure in measures for option in measure.options]
    return {option.name: given.get(option.name, option.default) for option in options}


def __getattr__(name: str) -> Any:
    """Import what loads torch only on request."""
    homes = {"Context": "context", "compute": "computing"}
    if name not in homes:
        raise AttributeError(f"module 'sharpcli.measures' has no attribute '{name}'")
    return getattr(import_module(f"sharpcli.measures.{homes[name]}"), name)
