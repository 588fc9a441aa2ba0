"""Numbers of a live model, computed densely in float64, to compare with those of its checkpoint."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpcli.runs.measure import measure_checkpoints

_TOP = 2


def module_of(path: Path) -> ModuleType:
    """A task file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def perturbed(model: nn.Module, seed: int = 1) -> nn.Module:
    """The model with random numbers in its trained parameters, so that it is no fresh one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def dense(task: ModuleType, model: nn.Module) -> tuple[float, list[float]]:
    """The mean loss and the largest eigenvalues of the Hessian in the trained parameters."""
    model = copy.deepcopy(model).double().eval()
    batch = tuple(t.double() if t.is_floating_point() else t for t in task.data("train"))
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        loss = task.loss(task.predict(model, batch), batch).mean()
    trained = [each for each in model.parameters() if each.requires_grad]
    slopes = torch.autograd.grad(loss, trained, create_graph=True, materialize_grads=True)
    rows = [
        torch.cat(
            [
                each.reshape(-1)
                for each in torch.autograd.grad(
                    entry, trained, retain_graph=True, materialize_grads=True
                )
            ]
        )
        for entry in torch.cat([each.reshape(-1) for each in slopes])
    ]
    return loss.item(), torch.linalg.eigvalsh(torch.stack(rows))[-_TOP:].flip(0).tolist()


def measured(
    task: Path, checkpoint: Path, measures: Sequence[str] = ("loss", "hessian"), **run: Any
) -> Any:
    """The result of `sharp measure` in float64: the loss and the largest eigenvalues."""
    report = measure_checkpoints(
        [checkpoint],
        task,
        run=RunSettings(device="cpu", dtype="float64", **run),
        settings=MeasureSettings(measures=tuple(measures), top=_TOP, tol=1e-8),
    )
    return report.results[0]


def assert_equal(result: Any, task: ModuleType, model: nn.Module) -> None:
    """The checkpoint's numbers are those of the live model to 1e-6."""
    error = getattr(result, "error", None)
    assert error is None, error
    loss, eigenvalues = dense(task, model)
    assert abs(result.measures["loss"]["train"].value - loss) <= 1e-6 * abs(loss)
    found = [each.value for each in result.measures["hessian"]["eigenvalues"]]
    for one, other in zip(found, eigenvalues, strict=True):
        assert abs(one - other) <= 1e-6 * abs(eigenvalues[0])
