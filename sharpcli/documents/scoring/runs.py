"""The runs of train and sweep documents: their settings, how they ended, and their curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharpcli.documents.results import Document
from sharpcli.documents.statuses import Outcome

__all__ = ["Run", "runs_of_sweep", "trained_run"]

Numbers = Sequence[float | None]
ByMetric = Mapping[str, Numbers]


@dataclass(frozen=True)
class Run:
    """One training.

    `settings` are flat: `optimizer_options.rho`, `options.width`, and the task's name as `task`.
    `status` is ok, diverged, failed or waiting. `evaluations` has step, epochs, seconds and, by
    split, the metrics; `steps` the loss of single steps; `finals` single numbers at the end, by
    split and metric.
    """

    name: str
    path: str
    settings: Mapping[str, Any]
    seed: Any
    status: str
    sha256: str | None = None
    evaluations: Mapping[str, Any] | None = None
    steps: Mapping[str, Numbers] | None = None
    finals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def curve(self, split: str, metric: str) -> Numbers | None:
        """The metric at each evaluation; None where it was not evaluated."""
        found: ByMetric = (self.evaluations or {}).get(split) or {}
        return found.get(metric)

    def final(self, split: str, metric: str) -> float | None:
        """The metric at the end; None where it is not known or not finite."""
        curve = self.curve(split, metric)
        if curve:
            return curve[-1]
        return self.finals.get(split, {}).get(metric)

    def knows(self, split: str, metric: str) -> bool:
        """Whether the metric was computed, finite or not."""
        return bool(self.curve(split, metric)) or metric in self.finals.get(split, {})

    def metrics(self, split: str) -> list[str]:
        """The metrics that are known at the end, the loss first."""
        evaluated = (self.evaluations or {}).get(split) or {}
        found = dict.fromkeys([*evaluated, *self.finals.get(split, {})])
        return sorted(found, key=lambda name: name != "loss")


def trained_run(name: str, document: Document) -> list[Run]:
    """The run of a document of `sharp train`, which `MODEL.curves.json` is too."""
    asked, task = document["settings"].get("train", {}), document["task"]
    runs = []
    for result in document["results"]:
        checkpoint = result["checkpoint"]
        runs.append(
            Run(
                name=name,
                path=str(checkpoint["path"]),
                settings=_flat(asked, task.get("options", {}), task.get("name")),
                seed=asked.get("seed"),
                status=_status(result),
                sha256=checkpoint.get("sha256"),
                evaluations=result.get("evaluations"),
                steps=result.get("curves"),
                finals=_finals(result),
            )
        )
    return runs


def runs_of_sweep(
    document: Document, curves: Mapping[str, Document], measured: Document | None = None
) -> list[Run]:
    """The runs of a sweep.

    Args:
        document: `sweep.json`.
        curves: the document of each training, by the run's name, as far as there are any.
        measured: `measures.json`, if there is one.
    """
    by_sha = {
        each["checkpoint"].get("sha256"): each
        for each in (measured or {"results": ()})["results"]
        if each["status"] == Outcome.OK
    }
    options = document["task"].get("options", {})  # those that all runs share
    runs = []
    for result in document["results"]:
        checkpoint = result["checkpoint"]
        sha256 = checkpoint.get("sha256")
        own = curves.get(result["run"])
        trained = own["results"][0] if own is not None and own["results"] else {}
        if trained.get("checkpoint", {}).get("sha256") != sha256:
            trained = {}  # of an earlier training
        finals = _finals(result)
        for key, scalars in by_sha.get(sha256, {}).get("measures", {}).items():
            for split in ("train", "test"):
                value = _value(scalars, split)
                if value is not None:
                    finals.setdefault(split, {})[key] = value
        runs.append(
            Run(
                name=result["run"],
                path=str(checkpoint["path"]),
                settings=_flat(
                    result["settings"], options | result["options"], document["settings"]["task"]
                ),
                seed=result["settings"].get("seed"),
                status=_status(result),
                sha256=sha256,
                evaluations=trained.get("evaluations"),
                steps=trained.get("curves"),
                finals=finals,
            )
        )
    return runs


def _status(result: Mapping[str, Any]) -> str:
    """How a run ended: ok, diverged, failed, or waiting."""
    if result["status"] == Outcome.OK:
        return "ok"
    if result["status"] != Outcome.FAILED:
        return "waiting"
    return "diverged" if result["error"].get("kind") == Outcome.DIVERGED else "failed"


def _finals(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    loss = _value(result.get("loss") or {}, "train")
    return {} if loss is None else {"train": {"loss": loss}}


def _value(scalars: Any, split: str) -> float | None:
    """The value of a split's scalar, where there is a finite one."""
    found = scalars.get(split) if isinstance(scalars, Mapping) else None
    value = found.get("value") if isinstance(found, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _flat(settings: Mapping[str, Any], options: Mapping[str, Any], task: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {"task": task}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": _hashable(each) for name, each in value.items()}
        else:
            flat[key] = _hashable(value)
    return flat | {f"options.{name}": _text(value) for name, value in options.items()}


def _text(value: Any) -> str:
    """An option as a sweep file has it; documents of trainings have numbers and booleans."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hashable(value: Any) -> Any:
    """Lists as tuples, and what else cannot be compared as text."""
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return str(value) if isinstance(value, Mapping) else value
