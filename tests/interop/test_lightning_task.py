"""A task of a LightningModule: by class, or by a line that names it and its data module."""

import json
import sys

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("lightning")

import pathlib

from sharpcli.cli.main import sharp

LIT = """
import lightning, torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

def rows(seed, count=40):
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs[:, :3].argmax(1))

class Lit(lightning.LightningModule):
    def __init__(self, width: int = 3, smoothing: float = 0.0):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, index):
        inputs, classes = batch
        loss = functional.cross_entropy(
            self(inputs), classes, label_smoothing=self.hparams.smoothing
        )
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Data(lightning.LightningDataModule):
    def __init__(self, count: int = 40):
        super().__init__()
        self.count = count

    def setup(self, stage):
        self.train, self.held_out = rows(0, self.count), rows(1)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.held_out, batch_size=8)
"""
OWN = """
from lit import Lit, rows, DataLoader
class WithData(Lit):
    def train_dataloader(self):
        return DataLoader(rows(0), batch_size=8, shuffle=True)
    def val_dataloader(self):
        return DataLoader(rows(1), batch_size=8)
    def test_dataloader(self):
        return [DataLoader(rows(2), batch_size=8)]
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lit.py").write_text(LIT, "utf-8")
    (tmp_path / "own.py").write_text(OWN, "utf-8")
    for name in ("lit", "own"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("lit", "own"):
        sys.modules.pop(name, None)


def checkpoint(width=3):
    """A checkpoint as Lightning's Trainer writes it."""
    import lit

    torch.manual_seed(0)
    model = lit.Lit(width)
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": {"width": width, "smoothing": 0.0},
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(content, "last.ckpt")
    return model


def measured(*words):
    done = CliRunner().invoke(sharp, ["measure", "last.ckpt", *words, "-m", "loss", "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    return result["measures"]["loss"], " ".join(result["checkpoint"]["notes"])


def by_hand(model, seed):
    import lit

    inputs, classes = lit.rows(seed).tensors
    with torch.no_grad():
        outputs = model.double()(inputs.double())
    return pytest.approx(torch.nn.functional.cross_entropy(outputs, classes).item(), rel=1e-6)


def test_a_class_and_the_only_data_module_beside_it():
    model = checkpoint()
    loss, notes = measured("-t", "lit:Lit")
    assert loss["train"]["value"] == by_hand(model, 0)
    assert loss["test"]["value"] == by_hand(model, 1)
    assert "the data are those of the data module Data" in notes
    assert "test data: those of val_dataloader()" in notes
    assert "training_step" not in notes


def test_a_task_file_of_one_line(project):
    model = checkpoint(width=5)
    (project / "task.py").write_text("from lit import Lit as model, Data as datamodule\n", "utf-8")
    loss, _ = measured("-t", "task.py", "-O", "width=5")
    assert loss["train"]["value"] == by_hand(model, 0)
    few, _ = measured("-t", "task.py", "-O", "width=5", "-O", "count=20")
    assert few["train"]["value"] != loss["train"]["value"]


def test_a_class_with_loaders_of_its_own_and_an_object():
    model = checkpoint()
    for spec in ("own:WithData", "object_of:made"):
        with pathlib.Path("object_of.py").open("w", encoding="utf-8") as file:
            file.write("from own import WithData\nmade = WithData()\n")
        loss, notes = measured("-t", spec)
        assert loss["train"]["value"] == by_hand(model, 0)
        assert loss["test"]["value"] == by_hand(model, 2)
        assert "test data: those of test_dataloader()" in notes
        model = model.float()


def test_another_loss_in_training_step_is_noted():
    checkpoint()
    _, notes = measured("-t", "lit:Lit")
    assert "training_step has another loss" not in notes
    text = LIT.replace("smoothing: float = 0.0", "smoothing: float = 0.2")
    with pathlib.Path("smooth.py").open("w", encoding="utf-8") as file:
        file.write(text)
    _, notes = measured("-t", "smooth:Lit", "-O", "smoothing=0.2")
    assert "training_step has another loss than sharp takes" in notes
    with pathlib.Path("needy.py").open("w", encoding="utf-8") as file:
        file.write(LIT.replace("inputs, classes = batch\n", "self.trainer.world_size\n", 1))
    _, notes = measured("-t", "needy:Lit")
    assert "was not compared with the default loss: without a Trainer it raises" in notes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("class Data(", "class Data2("), None),
        (("class Data(lightning.LightningDataModule)", "class Data"), "has no train_dataloader"),
        (
            ("return DataLoader(self.train, batch_size=8, shuffle=True)", "return [1, 2]"),
            "train_dataloader() returned list, not one DataLoader",
        ),
    ],
)
def test_loaders_that_give_no_data(project, change, said):
    checkpoint()
    name = f"other_{abs(hash(change))}"  # Python keeps what it imported
    (project / f"{name}.py").write_text(LIT.replace(*change), "utf-8")
    done = CliRunner().invoke(sharp, ["measure", "last.ckpt", "-t", f"{name}:Lit", "-m", "loss"])
    if said is None:
        assert done.exit_code == 0, done.output
        return
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_two_data_modules_are_listed(project):
    checkpoint()
    (project / "two.py").write_text(LIT + "\nclass More(Data): pass\n", "utf-8")
    done = CliRunner().invoke(sharp, ["measure", "last.ckpt", "-t", "two:Lit", "-m", "loss"])
    assert done.exit_code in (1, 2)
    said = " ".join(done.output.split())
    assert "has 2 data modules: Data, More" in said
    assert "import MyModel as model, MyData as datamodule" in said


SAMPLED = """
from torch.utils.data import SubsetRandomSampler, WeightedRandomSampler
from lit import Lit, rows, DataLoader
class Parts(Lit):
    def train_dataloader(self):
        return DataLoader(rows(0), batch_size=8, sampler=SubsetRandomSampler(range(25)))
    def val_dataloader(self):
        return DataLoader(rows(0), batch_size=8, sampler=SubsetRandomSampler(range(25, 40)))
class Weighted(Lit):
    def train_dataloader(self):
        return DataLoader(rows(0), sampler=WeightedRandomSampler([1.0] * 40, 40))
class Hooked(Parts):
    def on_after_batch_transfer(self, batch, index):
        return batch[0] * 5, batch[1]
"""


def losses_by_hand(model, times=1):
    import lit

    inputs, classes = lit.rows(0).tensors
    with torch.no_grad():
        outputs = model.double()(times * inputs.double())
    return torch.nn.functional.cross_entropy(outputs, classes, reduction="none")


def test_the_rows_of_a_split_are_those_that_its_loader_draws_from(project):
    (project / "own.py").write_text(SAMPLED, "utf-8")
    each = losses_by_hand(checkpoint())
    loss, notes = measured("-t", "own:Parts")
    assert loss["train"]["value"] == pytest.approx(each[:25].mean().item(), rel=1e-6)
    assert loss["test"]["value"] == pytest.approx(each[25:].mean().item(), rel=1e-6)
    assert "train data: the 25 of 40 rows that the loader draws from" in notes
    loss, notes = measured("-t", "own:Weighted")
    assert loss["train"]["value"] == pytest.approx(each.mean().item(), rel=1e-6)
    assert "WeightedRandomSampler is left aside" in notes


def test_a_hook_that_changes_batches_is_refused_without_a_predict(project):
    (project / "own.py").write_text(SAMPLED, "utf-8")
    model = checkpoint()
    done = CliRunner().invoke(sharp, ["measure", "last.ckpt", "-t", "own:Hooked"])
    assert done.exit_code == 1
    said = " ".join(done.stderr.split())
    assert "on_after_batch_transfer() of Hooked changes the batches" in said
    assert "predict(model, batch)" in said
    (project / "task.py").write_text(
        "from own import Hooked as model\n"
        "def predict(model, batch):\n"
        "    return model(model.on_after_batch_transfer(batch, 0)[0])\n",
        "utf-8",
    )
    loss, _ = measured("-t", "task.py")
    expected = losses_by_hand(model, times=5)[:25].mean().item()
    assert loss["train"]["value"] == pytest.approx(expected, rel=1e-6)
