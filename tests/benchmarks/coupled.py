"""Losses that couple the examples of a batch, and ordinary ones: which are refused."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from problem import Setting
from report import Bar, Section

from sharpcli.errors import SharpError

sys.path.append(str(Path(__file__).parents[1] / "support"))

from coupled_tasks import COUNT, COUPLED, FIXED, NOT_ROWWISE, ORDINARY, Problem

NAME = "coupled"
_NOT_DECLARED = {
    "a queue of the batch before",
    "a metric of the batch",
    "neighbours in the batch",
    "neighbours, few",
}
_FEW = 8  # of each kind with --quick
_BATCHES = (None, 40, 7, 1)
# What a loss may be off in the run's arithmetic, relative to the true one and 1e-6 at least.
_CLOSE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 0.05}


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Losses that couple examples",
        f"Small tasks of {COUNT} examples or fewer, made ready as `sharp measure` does. Coupled "
        "ones are to be refused, and with a declared batch to have the loss of these batches. "
        "Batches that no slice makes and ordinary tasks are to be measured, in batches of the "
        "default size, 40, 7 and 1, with the loss that plain PyTorch gives in float64.",
    )
    coupled, others, ordinary = (
        kind[:_FEW] if setting.quick else kind for kind in (COUPLED, NOT_ROWWISE, ORDINARY)
    )
    refused = [problem for problem in coupled if _refusal(problem)]
    _bar(section, "coupled losses refused", refused, coupled)
    # A queue is no function, a metric is no loss, and neighbours are all of the data.
    declared = [p for p in coupled if p.name not in _NOT_DECLARED]
    right = [p for p in declared if _is_right(p, FIXED, fixed_batch=FIXED)]
    _bar(
        section,
        f"right in declared batches of {FIXED}",
        right,
        declared,
    )
    right = [p for p in others if all(_is_right(p, 1, batch_size=size) for size in _BATCHES)]
    _bar(section, "batches that no slice makes, right", right, others)
    right = [p for p in ordinary if all(_is_right(p, None, batch_size=size) for size in _BATCHES)]
    _bar(section, "ordinary tasks measured, right", right, ordinary)
    rows = [(p.name, _refusal(p) or "**measured**") for p in coupled]
    section.tables.append(("Messages to coupled losses", ("task", "message"), rows))
    return section


def _bar(section: Section, what: str, met: Sequence[Problem], of: Sequence[Problem]) -> None:
    section.bars.append(Bar(what, f"{len(met)}", f"{len(of)}", len(met) == len(of)))
    missed = [problem.name for problem in of if problem not in met]
    if missed:
        section.notes.append(f"{what}: not {', '.join(missed)}")


def _refusal(problem: Problem) -> str:
    try:
        problem.made_ready()
    except SharpError as error:
        return error.message.removeprefix(f"{problem.name}: ")
    return ""


def _is_right(problem: Problem, size: int | None, **run: int | None) -> bool:
    try:
        study, objective, theta = problem.made_ready(**run)
    except SharpError:
        return False
    stated = "fixed_batch" in study.description()
    true = problem.true(size)
    off = abs(objective.loss(theta) - true)
    return stated == ("fixed_batch" in run) and off <= _CLOSE[problem.dtype] * abs(true) + 1e-6
