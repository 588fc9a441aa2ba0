"""Critical sharpness of a GPT-2 of 124 million parameters, beside one exact Hessian product."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gpt2
import torch
from problem import Setting
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

from sharpcli.checkpoint import Checkpoint
from sharpcli.measures import Context, choose, options_of
from sharpcli.measures.critical import critical_sharpness
from sharpcli.objective.objective import Objective
from sharpcli.runs.study import prepare
from sharpcli.tasks import Task, defaults

NAME = "critical"
_PASSES, _WITHIN = 12, 0.1


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Critical sharpness by forward passes alone",
        "GPT-2 with 124 million parameters, built from its configuration, after some steps of "
        "AdamW on a few rows of text in bytes, with a rate that falls to 0. 2/η_c and ΔᵀHΔ/Δᵀg "
        "along AdamW's last update (its state is at hand: no backward pass) and along the "
        "gradient, beside ΔᵀHΔ/Δᵀg by one exact Hessian product. The two numbers are equal where "
        "the loss is a parabola up to η_c. "
        "Passes are counted by wrapping the objective.",
    )
    rows, steps = (2, 3) if setting.quick else (4, 60)
    inputs = gpt2._tokens(rows, 32).to(setting.device)
    model = (gpt2._model() if setting.quick else _full()).to(setting.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4 if not setting.quick else 2e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, total_iters=steps - 1)
    for _ in range(steps):
        optimizer.zero_grad()
        sums, weights = gpt2._loss(model(input_ids=inputs), {"input_ids": inputs})
        (sums.sum() / weights.sum()).backward()
        optimizer.step()
        falling.step()
    optimizer.zero_grad(set_to_none=True)
    table, met, slopes, counts = [], [], [], []
    for name, state in (("AdamW's update", optimizer.state_dict()), ("gradient", None)):
        found, passes, seconds = _measured(model, inputs, state, exact=False)
        exact = _measured(model, inputs, state, exact=True)[0]["directional_exact"]
        off = abs(found["value"] / exact.value - 1)
        ratio = found["directional"]
        table.append(
            (
                name,
                f"{found['value']:.4g} ± {found['error'] or 0:.2g} ({found['status']})",
                "–" if ratio.error is None else f"{ratio.value:.4g} ± {ratio.error:.2g}",
                f"{exact.value:.4g}",
                f"{100 * off:.1f} %",
                str(passes),
                f"{seconds:.1f}",
            )
        )
        met.append(off)
        slopes.append(abs(ratio.value / exact.value - 1))
        counts.append(passes)
    size = sum(parameter.numel() for parameter in model.parameters())
    title = f"{size:,} parameters, {rows} rows of {inputs.shape[1]} bytes, {steps} steps"
    header = ("Δ", "2/η_c", "ΔᵀHΔ/Δᵀg", "by a product", "2/η_c is off by", "passes", "seconds")
    section.tables.append((title, header, table))
    section.bars += [
        Bar("forward passes", str(max(counts)), f"≤ {_PASSES}", max(counts) <= _PASSES),
        Bar(
            "ΔᵀHΔ/Δᵀg by forward passes beside one product, worst",
            f"{100 * max(slopes):.1f} %",
            f"≤ {100 * _WITHIN:.0f} %",
            max(slopes) <= _WITHIN,
        ),
        Bar(
            "2/η_c beside ΔᵀHΔ/Δᵀg by a product, AdamW's update",
            f"{100 * met[0]:.1f} %",
            f"≤ {100 * _WITHIN:.0f} %",
            met[0] <= _WITHIN,
        ),
        Bar(
            "the same, gradient",
            f"{100 * met[1]:.1f} %",
            f"≤ {100 * _WITHIN:.0f} %",
            met[1] <= _WITHIN,
        ),
    ]
    return section


def _full() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    return GPT2LMHeadModel(GPT2Config(**plain))


def _measured(
    model: nn.Module, inputs: torch.Tensor, state: Any, *, exact: bool
) -> tuple[dict[str, Any], int, float]:
    """The numbers, the passes over the data by `Objective.loss`, and the seconds."""
    data = {"train": gpt2._Rows(inputs), "test": None}
    task = Task("gpt2", {}, "", lambda: model, data.__getitem__, defaults.predict, gpt2._loss, None)
    study = prepare(task, RunSettings(device=str(inputs.device)), inputs.device)
    tensors = model.state_dict()
    objective = study.objectives(tensors)["train"]
    options = options_of(choose(["critical-sharpness"]), {"exact_directional": exact})
    context = Context(
        objective,
        {"train": objective},
        study.network.flatten(tensors),
        MeasureSettings(options=options),
        checkpoint=Checkpoint(Path("gpt2"), {}, {}, "", (), state),
    )
    passes, plain = [], Objective.loss

    def counted(self: Objective, theta: torch.Tensor) -> float:
        passes.append(0)
        return plain(self, theta)

    Objective.loss = counted  # type: ignore[method-assign]
    started = time.perf_counter()
    try:
        found = critical_sharpness(context)["critical_sharpness"]
    finally:
        Objective.loss = plain  # type: ignore[method-assign]
    return found, len(passes), time.perf_counter() - started
