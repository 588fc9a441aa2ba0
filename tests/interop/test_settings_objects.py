"""Settings that OmegaConf and Lightning keep in a checkpoint, as they write them."""

import warnings
from enum import Enum
from pathlib import PosixPath

import pytest
import torch
from torch import nn

from sharpcli.checkpoint import load_checkpoint

NET = nn.Linear(2, 3)


class Kind(Enum):
    ONE = 1


@pytest.mark.parametrize("zipped", [True, False])
def test_omegaconf(tmp_path, zipped):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(
        {
            "lr": 0.5,
            "name": "run",
            "betas": [0.9, 0.99],
            "deep": True,
            "inner": {"width": 3, "out": PosixPath("a")},
            "several": [{"a": 1}],
            "same": "${lr}",
            "kind": Kind.ONE,
        }
    )
    content = {"state_dict": NET.state_dict(), "hyper_parameters": config}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    # Python 3.11 writes a member of an enum by its name, others by its value
    assert checkpoint.metadata.pop("kind") in (1, "one")
    assert checkpoint.metadata == {
        "lr": 0.5, "name": "run", "betas": "0.9,0.99", "deep": True, "same": "${lr}",
        "inner.width": 3, "inner.out": "a",
    }  # fmt: skip
    assert checkpoint.notes[-1] == (
        f"classes left aside: hyper_parameters.kind ({__name__}.Kind), "
        "hyper_parameters.inner.out (pathlib.PosixPath)"
    )


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self, lr, loss, act, kind, width=3):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Linear(2, width)
            self.loss = loss

        def training_step(self, batch):
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), self.hparams.lr)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = Module(0.125, nn.CrossEntropyLoss(), nn.functional.relu, nn.GELU)
        trainer = lightning.Trainer(
            max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
            callbacks=[lightning.pytorch.callbacks.ModelCheckpoint(tmp_path / "c")],
        )  # fmt: skip
        trainer.fit(module, rows)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(checkpoint.tensors["net.weight"], module.net.weight)
    facts = checkpoint.metadata
    assert (facts["lr"], facts["width"], facts["global_step"]) == (0.125, 3, 2)
    (note,) = (each for each in checkpoint.notes if each.startswith("classes left aside"))
    for key, name in {
        "hyper_parameters.loss": "torch.nn.modules.loss.CrossEntropyLoss",
        "hyper_parameters.act": "torch.nn.functional.relu",
        "hyper_parameters.kind": "torch.nn.modules.activation.GELU",
    }.items():
        assert f"{key} ({name})" in note
    assert load_checkpoint(tmp_path / "a.ckpt").optimizer is not None
