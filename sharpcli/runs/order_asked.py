"""By which number the checkpoints are ordered, and whether it can be decided."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharpcli.documents.labels import short_labels
from sharpcli.errors import UsageError, counted, did_you_mean, setting
from sharpcli.measures import Measure, known_measures, measure_of
from sharpcli.measures.columns import leading_names
from sharpcli.settings.measuring import MeasureSettings, RunSettings

__all__ = ["Asked", "asked_for", "baseline_of", "check", "unmeasured"]

_TOP = MeasureSettings().top  # where nobody asked for a number of eigenvalues


@dataclass(frozen=True)
class Asked:
    """What the order goes by: a measure, and the flat key of its number (None: its leading one)."""

    measure: Measure
    key: str | None

    def light(self, settings: MeasureSettings, tolerance: float) -> MeasureSettings:
        """The settings that give this number and no more, to a relative `tolerance`."""
        if self.measure.name != "hessian":
            return settings
        eigenvalue = re.fullmatch(r"hessian\.eigenvalues\[(\d+)\]", self.key or "")
        top = int(eigenvalue[1]) + 1 if eigenvalue else 1
        top = 5 if self.key == "hessian.ratio_1_5" else top
        return replace(settings, top=top, tol=max(settings.tol, tolerance))

    @property
    def lowest(self) -> bool:
        """Whether the smallest eigenvalue is needed."""
        return self.key == "hessian.smallest"

    def found_in(self, scalars: Mapping[str, Any], split: str) -> str:
        """The flat key of the number; raises `UsageError` if the measure has none of that name."""
        others = tuple(f".{other}" for other in ("train", "test") if other != split)
        if self.key is None:
            leading = [each for each in leading_names(scalars) if not each.endswith(others)]
            return next(iter([*leading, *scalars]))
        if self.key not in scalars:
            raise UsageError(
                f"{setting('decide', self.key)}: {self.measure.name} gives no such number",
                did_you_mean(self.key, scalars),
            )
        return self.key


def asked_for(text: str) -> Asked:
    """The measure and the number called `text`: a measure's name, or a flat key.

    Raises:
        UsageError: if there is no such measure.
    """
    measure = measure_of(text)
    if measure is None:
        raise UsageError(
            f"{setting('decide', text)}: there is no such measure or number",
            f"{did_you_mean(text, known_measures())}; a number is given by its key, such as "
            "loss.gap or hessian.eigenvalues[1]",
        )
    if text not in (measure.name, measure.key):
        return Asked(measure, text)
    return Asked(measure, "hessian.eigenvalues[0]" if measure.name == "hessian" else None)


def baseline_of(text: str | None, paths: Sequence[str | Path]) -> int | None:
    """The index of the checkpoint with this path or short label.

    Raises:
        UsageError: if there is none, or more than one.
    """
    if text is None:
        return None
    given = [str(path) for path in paths]
    labels = short_labels(given)
    matching = [index for index, path in enumerate(given) if text in (path, labels[index])]
    if len(matching) == 1:
        return matching[0]
    found = f"matches {len(matching)} checkpoints" if matching else "matches no checkpoint"
    raise UsageError(
        f"{setting('baseline', text)}: {found}", f"name one of them: {', '.join(labels)}"
    )


def check(paths: Sequence[str | Path], run: RunSettings, settings: MeasureSettings) -> None:
    """Refuse what no order can be decided for; raises `UsageError`."""
    if settings.decide is None:
        return
    asked = setting("decide", settings.decide)
    if len(paths) < 2:
        raise UsageError(
            f"{asked}: there is one checkpoint only", "name the checkpoints to compare it with"
        )
    if run.split == "both":
        raise UsageError(
            f"{asked} and {setting('split', run.split)}: one split decides",
            f"give {setting('split', 'train')} or {setting('split', 'test')}",
        )
    if run.fixed_batch is not None:
        raise UsageError(
            f"{asked} and {setting('fixed_batch', run.fixed_batch)}: the sampling error of a loss "
            "that couples the examples of a batch is not known",
            f"leave out {setting('decide')}: all examples are measured then",
        )


def unmeasured(asked: Asked, settings: MeasureSettings) -> list[str]:
    """Says which eigenvalues were asked for and take no part in the order, so are not measured."""
    own = asked.light(settings, 0.0).top
    if asked.measure.name != "hessian" or settings.measures or settings.top in (_TOP, own):
        return []
    what = "λ1 alone" if own == 1 else counted(own, "eigenvalue")
    return [
        f"{setting('decide', settings.decide)} measures {what}, so {setting('top', settings.top)} "
        f"has no effect; with {setting('measures', ['hessian'])} too, all are measured on the "
        "sample that decides"
    ]
