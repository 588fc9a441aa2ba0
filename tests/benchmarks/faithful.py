"""Whether the network that is measured is the user's, however its forward pass reaches weights."""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from problem import Setting
from report import Bar, Section
from sharpcli.settings.measuring import RunSettings

from sharpcli.runs.preflight import check_fidelity, check_reach
from sharpcli.runs.study import prepare
from sharpcli.tasks import Task, defaults

sys.path.append(str(Path(__file__).parents[1] / "support"))
import strays

NAME = "faithful"
_TOLERANCE = 1e-6
_ROUNDS = 9
_AFFORDABLE = 0.5  # of the three gradients that all checks together may cost


def run(setting: Setting) -> Section:
    names = list(strays.ZOO)[:6] if setting.quick else list(strays.ZOO)
    section = Section(
        NAME,
        "The network that is measured",
        f"{len(names)} small models whose forward pass reaches weights by closures, lists, hooks, "
        "recomputation, compiled code, shared modules and more. Loss, gradient and the largest "
        "eigenvalues of the Hessian and of the Gauss-Newton matrix of a checkpoint, in float64 and "
        "through the operators of `measure`, against dense matrices of the same model in plain "
        "PyTorch: right to 1e-6, or refused with the parameter or the cause named.",
    )
    rows, kinds = [], Counter[str]()
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = strays.judge(name, Path(folder))
        kinds[found.kind] += 1
        said = f"{found.error:.1e}" if found.kind in ("right", "wrong") else found.said
        rows.append((name, found.kind, said.partition(". ")[0][:120]))
    section.tables.append(("Models", ("model", "", "relative error, or what is said"), rows))
    settled = kinds["right"] + kinds["refused"]
    section.bars.append(
        Bar(
            f"right to {_TOLERANCE:g}, or refused with the cause named",
            f"{settled} of {len(names)} ({kinds['right']} right)",
            "all",
            settled == len(names),
        )
    )
    cost = _cost(setting)
    section.bars.append(
        Bar(
            "time of the check, in gradients of the large network",
            f"{cost:.2f}",
            f"{_AFFORDABLE:g}",
            cost <= _AFFORDABLE or setting.quick,
        )
    )
    return section


def _cost(setting: Setting) -> float:
    """The check on the large network over one gradient of it, the median of rounds in turn."""
    problem = setting.main_problem()
    tensors = copy.deepcopy(problem.model.state_dict())
    task = Task(
        NAME,
        {},
        "",
        lambda: problem.model,
        lambda split: (problem.inputs, problem.targets) if split == "train" else None,
        defaults.predict,
        defaults.loss_for(NAME),
        None,
    )
    shares = []
    for _ in range(2 if setting.quick else _ROUNDS):
        study = prepare(task, RunSettings(device=str(problem.device)), problem.device)
        objective = study.objectives(tensors)["train"]
        theta = study.network.flatten(tensors)
        objective.gradient(theta)  # sizes the batches
        started = time.perf_counter()
        float(objective.gradient(theta)[1].sum())
        between = time.perf_counter()
        check_reach(study, tensors)
        check_fidelity(study, tensors, [])
        shares.append((time.perf_counter() - between) / (between - started))
    return statistics.median(shares)
