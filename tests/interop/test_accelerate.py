"""Folders that accelerate writes have the numbers of the live model."""

from __future__ import annotations

import pytest
import torch
from live_models import assert_equal, measured, module_of, perturbed

accelerate = pytest.importorskip("accelerate")

TASK = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))

def data(split):
    if split == "train":
        generator = torch.Generator().manual_seed(3)
        return (
            torch.randn(16, 3, generator=generator),
            torch.randint(0, 3, (16,), generator=generator),
        )

def predict(model, batch):
    return model(batch[0])

def loss(outputs, batch):
    return torch.nn.functional.cross_entropy(outputs, batch[1], reduction="none")
"""


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("what", ["state", "model"])
def test_a_saved_state_and_a_saved_model(tmp_path, what, safe):
    path = tmp_path / "task.py"
    path.write_text(TASK)
    task = module_of(path)
    model = perturbed(task.model())
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    inputs, targets = task.data("train")
    accelerator.backward(torch.nn.functional.cross_entropy(prepared(inputs), targets))
    optimizer.step()
    if what == "state":
        accelerator.save_state(str(tmp_path / "run"), safe_serialization=safe)
    else:
        accelerator.save_model(prepared, str(tmp_path / "run"), safe_serialization=safe)
    accelerator.free_memory()
    assert_equal(measured(path, tmp_path / "run"), task, model)
