"""What the checks before and beside a measurement cost, in gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from paired import in_turns
from problem import Setting
from report import Bar, Section
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import RunSettings

from sharpcli.checkpoint import Checkpoint
from sharpcli.curvature import Rounding
from sharpcli.runs.preflight import ready
from sharpcli.runs.study import matched, prepare
from sharpcli.tasks import Task, defaults

NAME = "checks"
_MOST = 3.0  # gradients
_PAIRS = 3  # λ1, λmin and a mixture of λ2 … λ5, whose products are compared at this size
_TRACED = 2  # probes of the trace


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "What the checks cost",
        "All checks of `sharp measure` with default measures, beside one gradient of all examples, "
        "in turns: whether the network is the task's own, whether examples are coupled, whether "
        "evaluations agree; the self-check of second derivatives; and rounding, of loss, gradient, "
        "eigenvectors and trace. Reading the model and the data is not in.",
    )
    problem = setting.main_problem()
    task = Task(
        name="benchmark",
        options={},
        fingerprint="",
        model=lambda: problem.model,
        data={"train": (problem.inputs, problem.targets), "test": None}.__getitem__,
        predict=defaults.predict,
        loss=defaults.loss_for("benchmark"),
        metrics=defaults.metrics,
    )
    tensors = dict(problem.model.state_dict())

    def made() -> Any:
        study = prepare(task, RunSettings(), setting.device)
        return matched(Checkpoint(Path("benchmark"), dict(tensors), {}, ""), study)

    loaded = made()
    objective = ready(loaded, CurvatureSettings(), [], check=False)["train"]
    vectors = torch.randn(_PAIRS, objective.size, generator=torch.Generator().manual_seed(1))
    traced = torch.randn(_TRACED, objective.size, generator=torch.Generator().manual_seed(2))

    def rounding() -> None:
        found = Rounding(objective, loaded.theta, CurvatureSettings())
        found.loss  # noqa: B018  # computed when asked for
        found.gradient  # noqa: B018
        found.products(vectors.to(loaded.theta))
        found.products(traced.to(loaded.theta))

    checks: dict[str, Callable[[], Any]] = {
        "a gradient": lambda: objective.gradient(loaded.theta),
        "building the study, alone": made,
        "… and the checks of the network": lambda: ready(
            made(), CurvatureSettings(), [], check=False
        ),
        "… and the self-check": lambda: ready(made(), CurvatureSettings(), []),
        "rounding": rounding,
    }
    timed = in_turns(checks, max(setting.repeats, 3))
    gradient = timed["a gradient"].median
    rows = [(name, each.spread(), f"{each.median / gradient:.2f}") for name, each in timed.items()]
    section.tables.append(("Seconds", ("what", "median (least to most)", "gradients"), rows))
    spent = timed["… and the self-check"].median - timed["building the study, alone"].median
    cost = (spent + timed["rounding"].median) / gradient
    section.bars.append(
        Bar(
            "all checks, in gradients of 4,000 images",
            f"{cost:.2f}",
            f"at most {_MOST:g}",
            cost <= _MOST or setting.quick,
        )
    )
    return section
