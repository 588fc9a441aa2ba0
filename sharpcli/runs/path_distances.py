"""How far the paths of runs are from each other, step by step, of the weights that they saved."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpcli.checkpoint.safetensors_file import read_safetensors
from sharpcli.documents.claims.runs import Trained, chosen, read_stage
from sharpcli.errors import UsageError
from sharpcli.runs.experiments import DISTANCES, SWEEP, read_finished
from sharpcli.runtime.files import save

__all__ = ["write_distances"]


def write_distances(name: str, plan: Mapping[str, Any], output: Path) -> None:
    """Write the distances of a stage into its folder, unless they are there.

    Each run of the sweep `plan["stage"]` is compared with the run that has the settings
    `plan["to"]` and all others alike, at every step at which both saved their weights.

    Args:
        name: the stage's.
        plan: `stage` and `to`.
        output: the experiment's folder.
    """
    target, home = output / name / DISTANCES, output / plan["stage"]
    if target.exists():
        return
    stage = read_stage(plan["stage"], read_finished(home / SWEEP), {}, None)
    references = {_alike(run, plan["to"]): run for run in chosen(stage, plan["to"])}
    found = {}
    for run in stage.runs:
        reference = references.get(_alike(run, plan["to"]))
        if reference is not None and reference is not run:
            own, other = (_path(home / each.run.name) for each in (run, reference))
            steps = sorted({*own} & {*other})
            found[run.run.name] = {
                "to": reference.run.name,
                "steps": steps,
                "distances": [_distance(own[step], other[step]) for step in steps],
            }
    target.parent.mkdir(exist_ok=True)
    save(target, json.dumps(found, indent=1) + "\n")


def _alike(run: Trained, settings: Mapping[str, Any]) -> str:
    """The settings of a run but for these, to compare with those of another."""
    kept = {key: value for key, value in run.run.settings.items() if key not in settings}
    return json.dumps(kept, sort_keys=True, default=str)


def _path(folder: Path) -> dict[int, Path]:
    """The saved weights of a run by step."""
    files = sorted(folder.glob("path/step-*.safetensors"))
    if not files:
        raise UsageError(
            f"{folder}: has no weights of its way", "let the sweep file say save_every = N"
        )
    return {int(file.stem.removeprefix("step-")): file for file in files}


def _distance(one: Path, other: Path) -> float:
    """The Euclidean distance between all weights of two checkpoints."""
    a, b = (read_safetensors(each).tensors for each in (one, other))
    return math.sqrt(
        math.fsum(float((a[name].double() - b[name].double()).square().sum()) for name in a)
    )
