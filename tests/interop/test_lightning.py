"""Checkpoints that Lightning writes have the numbers of the live model."""

from __future__ import annotations

import pytest
import torch
from live_models import assert_equal, measured, module_of
from torch import nn

lightning = pytest.importorskip("lightning")

TASK = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))

def data(split):
    if split == "train":
        generator = torch.Generator().manual_seed(3)
        return (
            torch.randn(16, 3, generator=generator),
            torch.randint(0, 3, (16,), generator=generator),
        )
"""
LOSS = """
def loss(outputs, batch):
    return torch.nn.functional.cross_entropy(outputs, batch[1], reduction="none")

def predict(model, batch):
    return model(batch[0])
"""


class Module(lightning.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))

    def training_step(self, batch):
        return self.criterion(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), 0.5)


def trained(tmp_path, *callbacks):
    path = tmp_path / "task.py"
    path.write_text(TASK + LOSS)
    task = module_of(path)
    module = Module(task.model())
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*task.data("train")), batch_size=4
    )
    trainer = lightning.Trainer(
        max_steps=6,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return path, task, module.model


def test_the_losses_class_weights_are_left_out_and_said(tmp_path):
    path, task, model = trained(tmp_path)
    result = measured(path, tmp_path / "last.ckpt")
    assert_equal(result, task, model)
    assert "'criterion.weight' not in the model: left out" in result.checkpoint["notes"]
    assert "prefix 'model.' removed" in result.checkpoint["notes"]


def test_averaged_weights_and_those_of_the_last_step(tmp_path):
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(callbacks, "WeightAveraging"):
        pytest.skip("this Lightning averages no weights")
    path, task, _ = trained(tmp_path, callbacks.WeightAveraging())
    stored = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert "current_model_state" in stored
    for key, note in (("state_dict", "state_dict"), ("current_model_state", "current_model_state")):
        live = task.model()
        live.load_state_dict(
            {
                name.removeprefix("model."): tensor
                for name, tensor in stored[key].items()
                if name.startswith("model.")
            }
        )
        weights = None if key == "state_dict" else key
        result = measured(path, tmp_path / "last.ckpt", weights=weights)
        assert_equal(result, task, live)
        assert f"weights taken from '{note}'" in result.checkpoint["notes"]
        if weights is None:
            assert any("'current_model_state' fits too" in n for n in result.checkpoint["notes"])
