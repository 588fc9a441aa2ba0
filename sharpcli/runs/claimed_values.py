"""Are the numbers that an experiment's claims are about measured by any of its sweep files?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sharpcli.documents.claims.experiment import FILE, Experiment
from sharpcli.errors import UsageError, did_you_mean
from sharpcli.measures import choose
from sharpcli.runs.sweep_measures import read_measure
from sharpcli.training.sweep_file import Sweep

__all__ = ["check_values"]

_NOT_MEASURED = ("train", "test", "gap", "updates", "setting", "distance")
_ARGUMENTS = ("value", "to_value", "other", "than", "tuned_by")
_ENDS = (".train", ".test", ".gap")  # of the task's own metrics, which `loss` measures too


def check_values(experiment: Experiment, sweeps: Sequence[Sweep]) -> None:
    """Find measures that a claim names and no sweep file measures, before anything is trained.

    Keys within a measure, such as `eigenvalues[0]`, and names of metrics are known only after it.

    Raises:
        UsageError: names the claim, the number, and what is measured.
    """
    measured, rescaled, tracked = _keys(sweeps)
    for claim in experiment.claims:
        given = [claim.arguments.get(key, []) for key in _ARGUMENTS]
        for value in (each for one in given for each in ([one] if isinstance(one, str) else one)):
            head, _, rest = value.partition(".")
            known, key, where = measured, value, "[measure] measures"
            lacks = "no sweep file measures"
            if head in _NOT_MEASURED:
                continue
            if head == "tracked":
                known, key, where = tracked, rest, "[fixed] track"
                lacks = "no sweep file tracks"
            elif head == "rescaled":
                known, key, where = rescaled, rest, "[measure] rescale_check = true, and measures"
                lacks = "no sweep file with rescale_check measures"
            name = re.split(r"[./\[]", key)[0]
            if name in known or ("loss" in known and key.endswith(_ENDS)):
                continue
            raise UsageError(
                f"{experiment.folder / FILE}: claim {claim.name}: {value}: {lacks} {name}: "
                f"{did_you_mean(name, known)}",
                f"correct the value, or add what it needs to a sweep file: {where}",
            )


def _keys(sweeps: Sequence[Sweep]) -> tuple[list[str], list[str], list[str]]:
    """The keys that are measured at the end, those before and after rescaling, those tracked."""
    measured: list[str] = []
    rescaled: list[str] = []
    tracked: list[str] = []
    for swept in sweeps:
        settings = read_measure(swept)
        if settings is not None:
            keys = [each.key for each in choose(settings[1].measures)]
            measured += keys
            rescaled += keys if settings[1].rescale_check else []
        for run in swept.runs:
            tracked += [name.replace("-", "_") for name in run.settings.track]
    return [*dict.fromkeys(measured)], [*dict.fromkeys(rescaled)], [*dict.fromkeys(tracked)]
