"""Lightning's Trainer with and without the callback: equal weights, and numbers in its loggers."""

import csv

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own

COUNT = 256


class Data(TensorDataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(COUNT, 6, generator=generator)
        super().__init__(inputs, (inputs[:, :2].prod(1) > 0).long())


def trained(folder, callbacks, module="lightning.pytorch", compiled=False, **settings):
    pl = pytest.importorskip(module)
    loggers = pytest.importorskip(f"{module}.loggers")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2))

        def forward(self, inputs):
            return self.net(inputs)

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            if not compiled:  # dynamo cannot trace it
                self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    pl.seed_everything(0, verbose=False)
    model, logger = Module(), loggers.CSVLogger(folder, name=None, version="")
    trainer = pl.Trainer(
        max_steps=40,
        max_epochs=-1,
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=5,
        **settings,
    )
    fitted = torch.compile(model, backend="eager") if compiled else model
    trainer.fit(fitted, DataLoader(Data(), batch_size=16, shuffle=True))
    return trainer, model, list(csv.DictReader((folder / "metrics.csv").open()))


def test_the_training_is_the_same_and_the_logger_has_the_numbers(tmp_path):
    from sharpcli import LightningCallback

    _, plain, without = trained(tmp_path / "plain", [])
    callback = LightningCallback(measures=("hessian", "loss"), every=10, share=None)
    trainer, watched, rows = trained(tmp_path / "watched", [callback])
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name
    state = trainer.optimizers[0].state
    assert all(each.device.type == "cpu" for each in watched.parameters())
    assert len(state) == 4
    losses = [row["loss"] for row in without]
    assert [row["loss"] for row in rows if row["loss"]] == losses
    numbers = [row for row in rows if row["sharpness/hessian.eigenvalues[0]"]]
    assert [int(row["step"]) for row in numbers] == [10, 20, 30, 40]
    inputs, classes = Data().tensors
    true = float(nn.functional.cross_entropy(watched.eval()(inputs), classes).detach())
    assert abs(float(numbers[-1]["sharpness/loss.train"]) - true) <= 1e-5 * true


def test_steps_count_with_accumulated_batches(tmp_path):
    from sharpcli import LightningCallback

    callback = LightningCallback(measures="loss", every=5, share=None)
    _, _, rows = trained(tmp_path, [callback], accumulate_grad_batches=3)
    numbers = [row for row in rows if row["sharpness/loss.train"]]
    assert [int(row["step"]) for row in numbers] == [*range(5, 41, 5)]


def test_a_compiled_module_has_the_same_numbers(tmp_path):
    from sharpcli import LightningCallback

    found = {}
    for compiled in (False, True):
        callback = LightningCallback(every=20, share=None, samples=COUNT)
        folder = tmp_path / f"compiled-{compiled}"
        _, _, rows = trained(folder, [callback], compiled=compiled)
        values = [row["sharpness/hessian.eigenvalues[0]"] for row in rows]
        found[compiled] = [float(each) for each in values if each]
    assert len(found[True]) == 2
    assert min(found[True]) > 0.01
    assert found[True] == pytest.approx(found[False], rel=1e-4)


def test_a_data_set_without_rows_is_refused_before_the_training(tmp_path):
    from sharpcli import LightningCallback
    from sharpcli.errors import UsageError

    pl = pytest.importorskip("lightning.pytorch")

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from (Data()[index] for index in range(64))

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 2)

        def training_step(self, batch, _):
            raise AssertionError("the training has begun")

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    trainer = pl.Trainer(
        max_steps=3, accelerator="cpu", logger=False, callbacks=[LightningCallback()],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(UsageError, match="one after the other and not by number"):
        trainer.fit(Module(), DataLoader(Stream(), batch_size=8))
