"""`sharp init`: every template is a task that works as it is written."""

import sys
import types

import pytest
import torch
from click.testing import CliRunner
from torch.utils.data import DataLoader

from sharpcli.cli.commands.init import TEMPLATES
from sharpcli.cli.main import sharp
from sharpcli.objective.reading import read_rows
from sharpcli.tasks import load_task


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lightning(monkeypatch):
    """A stand-in for Lightning: as far as a task goes, its module is one of torch's."""
    module = types.ModuleType("lightning")
    module.LightningModule = torch.nn.Module
    monkeypatch.setitem(sys.modules, "lightning", module)


def run(*arguments):
    return CliRunner().invoke(sharp, ["init", *arguments])


def mean_loss(task, model, batch):
    losses = task.loss(task.predict(model, batch), batch)
    total, weight = losses if isinstance(losses, tuple) else (losses, torch.ones_like(losses))
    return total.sum() / weight.sum()


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_a_task(template, lightning):
    done = run("task.py", "--template", template)
    assert done.exit_code == 0, done.output
    assert "sharp measure CHECKPOINT --task task.py" in done.stdout
    task = load_task("task.py", {"width": "8"})
    model = task.model().eval()
    for split in ("train", "test"):
        rows = read_rows(task.data(split), name=split, collate=task.collate)
        assert rows.count > 10
        losses = task.loss(task.predict(model, rows.batch), rows.batch)
        first = losses[0] if isinstance(losses, tuple) else losses
        assert first.shape == (rows.count,)
        for values in task.metrics(task.predict(model, rows.batch), rows.batch).values():
            assert len(values[0] if isinstance(values, tuple) else values) == rows.count
    # It can be trained, and has second derivatives.
    loss = mean_loss(task, model, rows.batch)
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    size = sum(g.square().sum() for g in gradient)
    products = torch.autograd.grad(size, parameters, allow_unused=True)
    assert any(p is not None and p.abs().sum() > 0 for p in products)


def test_the_language_model_ignores_padding():
    run("task.py", "--template", "causal-lm")
    task = load_task("task.py", {})
    model = task.model()
    batch = next(iter(DataLoader(task.data("train"), batch_size=2)))
    before = mean_loss(task, model, batch)
    padded = dict(batch, labels=batch["labels"].clone())
    padded["labels"][0, 5:] = -100
    _, weight = task.loss(task.predict(model, padded), padded)
    assert weight.tolist() == [4, 31]
    assert mean_loss(task, model, padded) != before


def test_a_file_is_not_overwritten(tmp_path):
    (tmp_path / "task.py").write_text("mine")
    done = run()
    assert done.exit_code == 2
    assert "task.py: is there already" in done.stderr
    assert "--force" in done.stderr
    assert (tmp_path / "task.py").read_text() == "mine"
    assert run("--force").exit_code == 0
    assert "def model" in (tmp_path / "task.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["task"], 2, "task: a task file must end in .py\n  hint: write to task.py"),
        (["none/task.py"], 1, "none/task.py: cannot be written: there is no folder "),
        (["--template", "imagee"], 2, "'plain', 'image', 'causal-lm', 'lightning'"),
    ],
)
def test_bad_requests(arguments, code, said):
    done = run(*arguments)
    assert done.exit_code == code
    assert said in done.stderr
