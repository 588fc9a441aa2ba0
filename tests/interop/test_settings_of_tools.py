"""Settings in checkpoints that transformers, Lightning and accelerate write themselves."""

import pytest
import torch
from sharpcli.settings.exploring import DirectionSettings, GridSettings, LandscapeSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

from sharpcli.checkpoint import load_checkpoint
from sharpcli.documents.labels import common_metadata, differing_metadata
from sharpcli.runs.exploration import Beside
from sharpcli.runs.landscape import landscape_checkpoint
from sharpcli.runs.measure import measure_checkpoints

LOSS = MeasureSettings(measures=("loss",))
CPU = RunSettings(device="cpu")

PLAIN = """
import torch
from torch import nn
def model(width: int):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
def data(split):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 4, generator=generator), torch.arange(20) % 3
"""
BERT = """
import torch
from transformers import BertConfig, BertForSequenceClassification
def model(hidden_size: int, num_attention_heads: int = 2, intermediate_size: int = 8):
    return BertForSequenceClassification(BertConfig(
        vocab_size=30, hidden_size=hidden_size, num_hidden_layers=1, max_position_embeddings=8,
        num_attention_heads=num_attention_heads, intermediate_size=intermediate_size))
def data(split):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 30, (12, 6), generator=generator), torch.arange(12) % 2
def predict(model, batch):
    return model(batch[0]).logits
"""


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        torch.manual_seed(index)
        return {"input_ids": torch.randint(0, 30, (6,)), "labels": index % 2}


@pytest.fixture(scope="module")
def trainer_folders(tmp_path_factory):
    """Two checkpoints of each of two trainings by transformers' Trainer, one a width."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("trainer")
    for width, rate in ((8, 1e-3), (16, 3e-4)):
        config = transformers.BertConfig(
            vocab_size=30,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=8,
        )
        arguments = transformers.TrainingArguments(
            output_dir=str(folder / f"w{width}"),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=rate,
            weight_decay=0.01,
            lr_scheduler_type="linear",
            max_steps=10,
            save_steps=5,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            seed=width,
        )
        model = transformers.BertForSequenceClassification(config)
        transformers.Trainer(model, arguments, train_dataset=Rows()).train()
    return folder


def test_transformers_trainer(trainer_folders, tmp_path):
    task = tmp_path / "bert.py"
    task.write_text(BERT)
    paths = [trainer_folders / f"w{w}" / f"checkpoint-{s}" for w in (8, 16) for s in (5, 10)]
    report = measure_checkpoints(paths, task, run=CPU, settings=LOSS)
    assert not [each.error for each in report.results if each.error]
    assert [each.checkpoint["options"] for each in report.results] == [
        *[{"hidden_size": 8}] * 2,
        *[{"hidden_size": 16}] * 2,
    ]
    metadata = [each.checkpoint["metadata"] for each in report.results]
    shared = {
        "optimizer": "adamw",
        "batch_size": 4,
        "weight_decay": 0.01,
        "schedule": "linear",
        "max_steps": 10,
    }
    assert common_metadata(metadata).items() >= shared.items()
    assert {*differing_metadata(metadata)} == {
        *("lr", "lr_now", "seed", "steps", "epochs", "config.hidden_size"),
    }
    assert [(row["lr"], row["steps"]) for row in metadata] == [
        *((1e-3, 5), (1e-3, 10), (3e-4, 5), (3e-4, 10)),
    ]
    assert metadata[0]["lr_now"] == pytest.approx(5e-4)
    assert metadata[0]["batch_size_from"] == (
        "per_device_train_batch_size 2 × gradient_accumulation_steps 2"
    )


def test_a_path_of_the_trainers_checkpoints(trainer_folders, tmp_path):
    task = tmp_path / "bert.py"
    task.write_text(BERT)
    folder = trainer_folders / "w8"
    path = [folder / "checkpoint-10", folder / "checkpoint-5"]
    report = landscape_checkpoint(
        path[0],
        task,
        run=CPU,
        settings=LandscapeSettings(GridSettings((3,)), directions=DirectionSettings(dimensions=1)),
        beside=Beside(trajectories=[path]),
    )
    (trajectory,) = report.results[0].trajectories
    assert [each.path for each in trajectory.points] == [str(each) for each in reversed(path)]
    assert any("ordered by the steps in the metadata, 5 to 10" in note for note in report.notes)


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Net(lightning.LightningModule):
        def __init__(self, width, lr, batch_size):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)]

    data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.arange(16) % 3)
    paths = []
    for width, rate in ((5, 0.1), (7, 0.05)):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet
        )
        trainer.fit(Net(width, rate, 4), torch.utils.data.DataLoader(data, batch_size=4))
        paths.append(tmp_path / f"w{width}.ckpt")
        trainer.save_checkpoint(paths[-1])
    task = tmp_path / "task.py"
    task.write_text(PLAIN)
    report = measure_checkpoints(paths, task, run=CPU, settings=LOSS)
    assert not [each.error for each in report.results if each.error]
    assert [each.checkpoint["options"] for each in report.results] == [{"width": 5}, {"width": 7}]
    metadata = [each.checkpoint["metadata"] for each in report.results]
    assert differing_metadata(metadata) == ["width", "lr", "lr_now"]
    assert [(row["lr"], row["lr_now"]) for row in metadata] == [
        (0.1, pytest.approx(0.001)),
        (0.05, pytest.approx(0.0005)),
    ]
    common = common_metadata(metadata)
    assert (common["optimizer"], common["batch_size"], common["steps"]) == ("sgd", 4, 8)


def test_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    for _ in range(3):
        optimizer.zero_grad()
        accelerator.backward(model(torch.randn(5, 4)).square().mean())
        optimizer.step()
        schedule.step()
    accelerator.save_state(str(tmp_path / "state"))
    found = load_checkpoint(tmp_path / "state")
    assert found.optimizer is not None
    assert (found.metadata["optimizer"], found.metadata["lr"]) == ("adamw", 0.01)
    assert found.metadata["lr_now"] == pytest.approx(0.01 * 0.7938926)
