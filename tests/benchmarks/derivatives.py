"""Whether the self-check sees wrong second derivatives, and nothing where they are right."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from faults import Network, faulty, ordinary
from problem import Setting
from report import Bar, Section
from sharpcli.documents.scalars import flat_scalars
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import Tensor
from torch.nn.functional import cross_entropy

from sharpcli.errors import SharpError
from sharpcli.runs.measure import measure_model

NAME = "derivatives"
# Of the reference: central differences of gradients in float64, at a step that few kinks are near.
_STEP = 1e-6
# A trace is a random estimate: inside three of its standard errors.
_TRACE = 3.0
# An error that the check has made larger than this share of λ1 would be in the way.
_IN_THE_WAY = 1e-3


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Wrong second derivatives",
        "Small networks with an operation whose gradient is right (or is what the network is "
        "trained with) and whose second derivative is wrong or missing, ten operations in six "
        "places each, measured with the default options in float32. λ1 to λ5, λmin and the trace "
        "are compared with eigenvalues of a dense matrix of central differences of gradients in "
        "float64. *Marked*: every number that is off says suspect. *Covered*: no number is off by "
        "more than its error (the trace: three). *Silent*: a number is off, and says converged. "
        "Below them, ordinary networks: a number there that says suspect is a false alarm.",
    )
    wrong, right = (faulty()[::7], ordinary()[::4]) if setting.quick else (faulty(), ordinary())
    rows: list[tuple[str, ...]] = []
    verdicts: list[str] = []
    for network in wrong:
        try:
            measures = _measured(network)
        except SharpError as error:  # a gradient that is not the loss's slope
            verdict, worst = "refused", error.message
        else:
            verdict, worst = _verdict(measures, _dense(network))
        verdicts.append(verdict)
        rows.append((network.name, verdict, worst))
        print(f"  {network.name}: {verdict} {worst}", file=sys.stderr)
    section.tables.append(
        ("Wrong operations", ("operation: where", "verdict", "furthest off, in errors"), rows)
    )
    seen = sum(verdict != "silent" for verdict in verdicts)
    section.bars.append(
        Bar("refused, marked or covered", f"{seen} of {len(wrong)}", "all", seen == len(wrong))
    )
    alarms, rows = 0, []
    for network in right:
        for operator in ("hessian", "ggn"):
            if operator == "ggn" and network.name == "absolute values":
                continue  # a loss that is linear in the outputs has no such matrix
            measures = _measured(network, operator)
            marked = sorted({s["status"] for s in measures.values()} - {"converged", "upper_bound"})
            first = measures["hessian.eigenvalues[0]"]
            share = first["error"] / abs(first["value"])
            alarm = "suspect" in marked or share > _IN_THE_WAY
            alarms += alarm
            rows.append((network.name, operator, ", ".join(marked) or "none", f"{share:.0e}"))
            print(f"  {rows[-1]}", file=sys.stderr)
    section.tables.append(
        ("Ordinary networks", ("network", "matrix", "marks", "error of λ1, relative"), rows)
    )
    section.bars.append(Bar("false alarms", f"{alarms} of {len(rows)}", "none", alarms == 0))
    return section


def _measured(network: Network, operator: Any = "hessian") -> Mapping[str, Mapping[str, Any]]:
    settings = MeasureSettings(measures=("hessian", "trace"), curvature=CurvatureSettings(operator))
    report = measure_model(
        network.model,
        (network.inputs, network.targets),
        loss=network.loss,
        run=RunSettings(device="cpu"),
        settings=settings,
    )
    return flat_scalars(report.results[0].measures)


def _dense(network: Network) -> Tensor:
    """Eigenvalues of the symmetric part of the gradient's derivative, largest first."""
    model = network.model.double()
    inputs, targets = network.inputs.double(), network.targets
    if targets.is_floating_point():
        targets = targets.double()
    parameters = list(model.parameters())
    start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(theta: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(theta, parameters)
        outputs = model(inputs)
        losses = network.loss(outputs, (inputs, targets)) if network.loss else None
        mean = cross_entropy(outputs, targets) if losses is None else losses.mean()
        parts = torch.autograd.grad(mean, parameters)
        return torch.cat([part.reshape(-1) for part in parts])

    columns = []
    for unit in torch.eye(len(start), dtype=torch.float64):
        columns.append(gradient(start + _STEP * unit) - gradient(start - _STEP * unit))
    matrix = torch.stack(columns) / (2 * _STEP)
    model.float()
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).flip(0)


def _verdict(measures: Mapping[str, Mapping[str, Any]], true: Tensor) -> tuple[str, str]:
    """What became of the numbers, and how far the furthest of those that say converged is off."""
    values = {
        **{f"hessian.eigenvalues[{i}]": float(true[i]) for i in range(5)},
        "hessian.smallest": float(true[-1]),
        "trace": float(true.sum()),
    }
    furthest, marked = 0.0, 0
    for key, value in values.items():
        found = measures[key]
        off = abs(found["value"] - value)
        if found["status"] == "upper_bound":
            off = max(0.0, value - found["value"])
        if found["status"] in ("suspect", "precision", "max_products"):
            marked += 1
            continue
        # Eigenvalues of the reference are good to about 1e-7 of the largest.
        error = (_TRACE if key == "trace" else 1.0) * (found["error"] or 0.0)
        furthest = max(furthest, off / (error + 1e-6 * float(true.abs().max())))
    if furthest > 1:
        return "silent", f"{furthest:.1f}"
    return ("marked", "–") if marked else ("covered", f"{furthest:.2f}")
