"""Checkpoints that timm writes: the weights, and their average beside them."""

from __future__ import annotations

import pytest
import torch
from live_models import assert_equal, measured, module_of, perturbed

timm = pytest.importorskip("timm", exc_type=ImportError)

TASK = """
import timm.models.vision_transformer
import torch

def model():
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=4, patch_size=2, embed_dim=4, depth=1, num_heads=2, num_classes=3
    )

def data(split):
    if split == "train":
        generator = torch.Generator().manual_seed(3)
        return (
            torch.randn(8, 3, 4, 4, generator=generator),
            torch.randint(0, 3, (8,), generator=generator),
        )

def predict(model, batch):
    return model(batch[0])

def loss(outputs, batch):
    return torch.nn.functional.cross_entropy(outputs, batch[1], reduction="none")
"""


def test_the_weights_and_their_average(tmp_path):
    from timm.utils import CheckpointSaver, ModelEmaV2

    path = tmp_path / "task.py"
    path.write_text(TASK)
    task = module_of(path)
    model = perturbed(task.model())
    average = ModelEmaV2(model, decay=0.5)
    perturbed(model, seed=2)
    average.update(model)
    saver = CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(epoch=1, metric=0.5)
    file = tmp_path / "last.pth.tar"
    result = measured(path, file)
    assert_equal(result, task, model)
    assert any("'state_dict_ema' fits too" in note for note in result.checkpoint["notes"])
    assert_equal(measured(path, file, weights="state_dict_ema"), task, average.module)
