"""Read the course of a training from a document: panels over steps, for charts and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpcli.documents.labels import clean
from sharpcli.documents.results import Document
from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.stability import PRECONDITIONED, Threshold, of_settings
from sharpcli.documents.statuses import NOT_CONVERGED, Outcome
from sharpcli.errors import SharpError, UsageError
from sharpcli.measures.columns import column_titles
from sharpcli.settings.training_names import OUTCOMES, is_choice, step_of
from sharpcli.training.schedules import parse_schedule

__all__ = ["Course", "Line", "Panel", "read_course", "read_measured_course"]

_LOSS = "loss"
_CURVES = {"lr": "learning rate", "batch_size": "batch size", "gradient_norm": "gradient norm"}
_DECADES = 100.0  # from the lowest to the highest value, beyond which a log scale shows more
_MARGIN = 0.08  # around the values of an axis with errors, as a share of their range
# Errors worth a band: those above this share of the values' range.
_VISIBLE = 0.003


@dataclass(frozen=True)
class Line:
    """Values over steps; None where there is no finite one.

    `errors` are what is not known of each. Those at `doubtful` places did not converge. A `dashed`
    line is a limit, a `stepped` one stays until the next update.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float | None]
    errors: Sequence[float] = ()
    doubtful: Sequence[int] = ()
    dashed: bool = False
    stepped: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines over one axis of steps; a `minor` one is drawn lower."""

    title: str
    lines: Sequence[Line]
    minor: bool = False

    @property
    def wide(self) -> bool:
        """Whether the values span decades, so that a log scale shows more."""
        values = [
            value
            for line in self.lines
            for value in line.values
            if value is not None and math.isfinite(value)
        ]
        return bool(values) and min(values) > 0 and max(values) > _DECADES * min(values)

    @property
    def extent(self) -> tuple[float, float] | None:
        """The axis's ends where lines have errors: of the values, so that no error dwarfs them."""
        values = [v for line in self.lines for v in line.values if v is not None]
        values = [v for v in values if math.isfinite(v)]
        if not values or not any(line.errors for line in self.lines):
            return None
        low, high = min(values), max(values)
        if self.wide:
            room = (high / low) ** _MARGIN
            return low / room, high * room
        room = _MARGIN * ((high - low) or abs(high) or 1.0)
        return low - room, high + room


@dataclass(frozen=True)
class Course:
    """The panels of one training from above to below."""

    name: str
    panels: Sequence[Panel]


def read_course(document: Document) -> Course:
    """The course of a `train` document: what was tracked, the loss, and what else varies.

    Raises:
        SharpError: if it has no curves.
    """
    result = document["results"][0] if document["results"] else {}
    curves = result.get("curves")
    if not curves or not curves["step"]:
        raise SharpError(
            "this train result has no curves: there is nothing to draw",
            "draw FILE.curves.json, which sharp train writes beside the checkpoint",
        )
    tracked = [
        (each["step"], flat_scalars(each["measures"]), each.get("threshold"))
        for each in result.get("tracked", ())
    ]
    batch = Line("loss of the batch", curves["step"], curves[_LOSS])
    above, loss, below = _tracked_panels(tracked)
    evaluated = _evaluated(result.get("evaluations"))
    panels = [*above, Panel(_LOSS, [batch, *evaluated.pop(_LOSS, ()), *loss])]
    panels += [Panel(clean(name), lines, minor=True) for name, lines in evaluated.items()]
    panels += below
    for key, title in _CURVES.items():
        line = _noted(curves, key, title)
        known = [value for value in line.values if value is not None]
        if known and min(known) < max(known):
            panels.append(Panel(title, [line], minor=True))
    return Course(clean(result["checkpoint"]["path"]), panels)


def _noted(curves: Mapping[str, Any], key: str, title: str) -> Line:
    """What a training noted of its steps, without the gaps between: not each has a gradient norm.

    The last batch of an epoch has what is left of the data. It is smaller than those before and
    after it, which says nothing of the batch size, and is left out.
    """
    known = [(s, v) for s, v in zip(curves["step"], curves[key], strict=True) if v is not None]
    if key == "batch_size":
        sizes = [size for _, size in known]
        before, after = [*sizes[:1], *sizes], [*sizes[1:], math.inf]
        known = [
            point
            for point, earlier, later in zip(known, before, after, strict=False)
            if not point[1] < min(earlier, later)
        ]
    steps, values = [step for step, _ in known], [value for _, value in known]
    return Line(title, steps, values, stepped=key != "gradient_norm")


def _evaluated(evaluations: Mapping[str, Any] | None) -> dict[str, list[Line]]:
    """Lines of the loss and of each metric on training and test data, where they were computed."""
    found: dict[str, list[Line]] = {}
    for split in ("train", "test"):
        for name, values in ((evaluations or {}).get(split) or {}).items():
            assert evaluations is not None
            line = Line(f"{split} data", evaluations["step"], values)
            found.setdefault(name, []).append(line)
    return found


def read_measured_course(document: Document) -> Course:
    """The course of a `measure` document whose checkpoints are those of one training.

    Raises:
        SharpError: if they are not: their metadata lack `steps`, or differ in a setting.
    """
    found = [r for r in document["results"] if r.get("status") != Outcome.FAILED]
    metadata = [r["checkpoint"].get("metadata") or {} for r in found]
    steps: list[Any] = [step_of(m) for m in metadata]
    settings = [
        {k: v for k, v in m.items() if k not in OUTCOMES and is_choice(k, m)} for m in metadata
    ]
    if len(found) < 2 or None in steps:
        raise SharpError(
            "a figure of measures is one over steps, and these checkpoints do not say theirs",
            "measure two or more checkpoints of one training, whose metadata have steps",
        )
    differing = sorted({k for m in settings for k in m if m[k] != settings[0].get(k)})
    if differing or any(m.keys() != settings[0].keys() for m in settings):
        raise SharpError(
            "a figure of measures is one over the steps of one training, and these checkpoints "
            f"differ in {', '.join(differing) or 'their metadata'}",
            "measure the checkpoints of one training",
        )
    if len(set(steps)) < len(steps):
        raise SharpError(
            "two of these checkpoints have the same number of steps", "name each one once"
        )
    points = [
        (step, flat_scalars(result["measures"]), _threshold_of(own, step))
        for step, result, own in sorted(zip(steps, found, metadata, strict=True), key=_first)
    ]
    above, loss, below = _tracked_panels(points)
    panels = [*above, *([Panel(_LOSS, loss)] if loss else []), *below]
    return Course(clean(found[0]["checkpoint"]["path"]), panels)


def _first(entry: tuple[Any, ...]) -> float:
    return float(entry[0])


def _threshold_of(metadata: Mapping[str, Any], steps: float) -> Mapping[str, Any] | None:
    """The threshold at a checkpoint's last step, from the settings in its metadata."""
    rate = metadata.get("lr_now", metadata.get("lr"))
    if metadata.get("schedule") is not None:
        try:
            rate = parse_schedule(str(metadata["schedule"])).at(max(0, int(steps) - 1))
        except UsageError:  # another tool's name of a schedule, such as `cosine`
            rate = metadata.get("lr_now")
    found: Threshold | None = of_settings(metadata, rate if isinstance(rate, int | float) else None)
    return None if found is None else {"value": found.value, "rule": found.rule, "of": found.of}


Point = tuple[float, Mapping[str, Mapping[str, Any]], Mapping[str, Any] | None]


def _tracked_panels(points: Sequence[Point]) -> tuple[list[Panel], list[Line], list[Panel]]:
    """The numbers that tables show: panels of eigenvalues, lines of the loss, panels of the rest.

    Numbers with the same first word, such as φ of two boxes, share a panel.
    """
    titles = column_titles(key for _, scalars, _ in points for key in scalars)
    titles |= {key: title for key, title in _TITLES.items() if key in titles}
    above, loss, rest = list[Panel](), list[Line](), dict[str, list[Line]]()
    for key, title in titles.items():
        line = _line(points, key, title)
        if key in _OF.values():
            above.append(Panel(title, [line, *_limit(points, key)]))
        elif key.startswith(f"{_LOSS}."):
            loss.append(line)
        else:
            rest.setdefault(title.split()[0], []).append(line)
    below = [
        Panel(name if len(lines) > 1 else lines[0].name, lines, minor=True)
        for name, lines in rest.items()
    ]
    return above, loss, below


_TITLES = {f"{PRECONDITIONED}.eigenvalues[0]": "λ1, preconditioned"}
_OF = {"hessian": "hessian.eigenvalues[0]", PRECONDITIONED: f"{PRECONDITIONED}.eigenvalues[0]"}


def _line(points: Iterable[Point], key: str, title: str) -> Line:
    known = [(step, scalars[key]) for step, scalars, _ in points if key in scalars]
    values = [scalar["value"] for _, scalar in known]
    errors = [math.hypot(s.get("error") or 0.0, s.get("sampling_error") or 0.0) for _, s in known]
    finite = [value for value in values if value is not None]
    spread = max(finite) - min(finite) if finite else 0.0
    doubtful = [i for i, (_, s) in enumerate(known) if s["status"] in NOT_CONVERGED]
    visible = max(errors, default=0.0) > _VISIBLE * spread
    steps = [step for step, _ in known]
    return Line(title, steps, values, errors if visible else (), doubtful)


def _limit(points: Sequence[Point], key: str) -> Iterator[Line]:
    """The threshold as a line, where it is one of this number."""
    limits = [(step, limit) for step, _, limit in points if limit and _OF[limit["of"]] == key]
    if limits:
        steps, found = zip(*limits, strict=True)
        values = [limit["value"] for limit in found]
        yield Line(found[-1]["rule"], steps, values, dashed=True)
