"""`sharp train`: a checkpoint with the settings that made it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from sharpcli import __version__
from sharpcli.checkpoint import load_checkpoint
from sharpcli.cli.main import sharp
from sharpcli.tasks import load_task, task_from_metadata

SCHEMA_FILE = Path(__file__).parents[3] / "docs" / "schema.json"
SCHEMA = Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))

TASK = """
import torch
def model(width: int = 4):
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 2))
def data(split):
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()
"""


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(TASK)


def run(*arguments):
    return CliRunner().invoke(sharp, ["train", *arguments])


def test_a_checkpoint_of_digits_names_all_that_made_it():
    done = run(
        *(
            "digits",
            "-O",
            "width=8",
            "--optimizer",
            "adam",
            "--lr",
            "0.01",
            "--betas",
            "0.8",
            "0.9",
        ),
        *("--batch-size", "500", "--epochs", "2", "--seed", "3", "--output", "a.safetensors"),
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("a.safetensors: train loss ")
    assert done.stderr == ""
    checkpoint = load_checkpoint("a.safetensors")
    stored = dict(checkpoint.metadata)
    assert stored.pop("train_loss") > 0
    assert stored.pop("task_options") == (
        "model=mlp,batch_norm=false,width=8,depth=2,activation=relu"
    )
    assert {name: str(value) for name, value in stored.items()} == {
        "optimizer": "adam",
        "lr": "0.01",
        "batch_size": "500",
        "beta1": "0.8",
        "beta2": "0.9",
        "weight_decay": "0.0",
        "epochs": "2",
        "steps": "6",
        "seed": "3",
        "task": "digits",
        "sharpcli": __version__,
    }
    task = load_task(*task_from_metadata(checkpoint.metadata))
    task.model().load_state_dict(checkpoint.tensors)


def test_sgd_has_momentum_and_no_betas():
    run("task.py", "--momentum", "0.9", "--epochs", "1")
    stored = load_checkpoint("model.safetensors").metadata
    assert stored["momentum"] == 0.9
    assert "beta1" not in stored
    assert stored["lr"] == 0.1


def test_same_seed_same_tensors():
    tensors = []
    for file, seed in (("a.safetensors", "1"), ("b.safetensors", "1"), ("c.safetensors", "2")):
        run("task.py", "--epochs", "2", "--batch-size", "3", "--seed", seed, "--output", file)
        tensors.append(load_checkpoint(file).tensors)
    first, again, other = tensors
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_loss_that_is_not_reached_is_said():
    done = run("task.py", "--epochs", "1", "--until-loss", "1e-9")
    assert done.exit_code == 0
    assert "note: the loss did not reach 1e-09 in 1 epoch" in done.stderr
    assert run("task.py", "--epochs", "1", "--until-loss", "1e-9", "--quiet").stderr == ""


def test_the_task_may_come_from_sharp_toml(tmp_path):
    (tmp_path / "sharp.toml").write_text('task = "task.py"\nepochs = 1\n[options]\nwidth = 6\n')
    assert run().exit_code == 0
    assert load_checkpoint("model.safetensors").tensors["0.weight"].shape == (6, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "no task is named"),
        (["digitz"], 2, "did you mean 'digits'?"),
        (["task.py", "-O", "widht=3"], 2, "has no option 'widht': did you mean 'width'?"),
        (["task.py", "--lr", "0"], 2, "--lr 0.0: is out of range"),
        (["task.py", "--betas", "0.9", "1"], 2, "--betas (0.9, 1.0): is out of range"),
        (["task.py", "--optimizer", "sdg"], 2, "no optimizer 'sdg': did you mean 'sgd'?"),
        (["task.py", "--betas", "0.9", "0.9"], 2, "--betas (0.9, 0.9): sgd has no such argument"),
        (["task.py", "-P", "nesterow=true"], 2, "no option 'nesterow': did you mean 'nesterov'?"),
        (["task.py", "-P", "nesterov=perhaps"], 2, "-P nesterov=perhaps: is not of its type"),
        (["task.py", "-P", "nesterov=true"], 2, "Nesterov momentum requires a momentum"),
        (["task.py", "-P", "a=1", "-P", "a=2"], 2, "-P a is given twice"),
        (["task.py", "--lr", "1e30", "--batch-size", "4"], 1, "the training loss is "),
        (["task.py", "--epochs", "1", "--output", "none/m.safetensors"], 1, "none"),
    ],
)
def test_bad_requests(arguments, code, said):
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_diverging_loss_names_step_and_rate():
    done = run("task.py", "--lr", "1e30", "--batch-size", "4")
    assert " at step " in done.stderr
    assert "lower the learning rate (--lr is 1e+30)" in done.stderr


def test_json_is_the_document_of_a_training():
    done = run("task.py", "--epochs", "1", "--until-loss", "1e-9", "--json", "--output", "a.st")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    SCHEMA.validate(document)
    (result,) = document["results"]
    assert document["kind"] == "train"
    assert result["checkpoint"]["path"] == "a.st"
    assert result["checkpoint"]["metadata"]["optimizer"] == "sgd"
    assert result["loss"]["train"]["value"] == pytest.approx(
        result["checkpoint"]["metadata"]["train_loss"], rel=1e-5
    )
    assert document["environment"]["torch"] == torch.__version__
    assert document["notes"][0].startswith("the loss did not reach 1e-09 in 1 epoch")
    assert done.stderr.startswith("note: the loss did not reach")


def test_a_folder_that_is_not_there_is_said_before_the_training():
    done = run("task.py", "--epochs", "1000000", "--output", "none/model.safetensors")
    assert done.exit_code == 1
    assert "none/model.safetensors: cannot be written: there is no folder " in done.stderr


SMOOTHED = (
    TASK
    + """
def loss(outputs, batch, smoothing: float = 0.0):
    return torch.nn.functional.cross_entropy(
        outputs, batch[1], label_smoothing=smoothing, reduction="none")
"""
)


def test_training_and_measuring_take_the_options_of_the_loss(tmp_path):
    (tmp_path / "task.py").write_text(SMOOTHED)
    done = run(
        "task.py",
        "-O",
        "smoothing=0.5",
        "--epochs",
        "40",
        "--lr",
        "0.5",
        "--output",
        "a.safetensors",
    )
    assert done.exit_code == 0, done.output
    task = load_task("task.py", {})
    model = task.model()
    model.load_state_dict(load_checkpoint("a.safetensors").tensors)
    inputs, targets = task.data("train")
    expected = torch.nn.functional.cross_entropy(model(inputs), targets, label_smoothing=0.5)
    assert load_checkpoint("a.safetensors").metadata["train_loss"] == pytest.approx(
        expected.item(), 1e-5
    )
    arguments = [
        "measure",
        "a.safetensors",
        "-t",
        "task.py",
        "-O",
        "smoothing=0.5",
        "-m",
        "loss",
        "--json",
    ]
    document = json.loads(CliRunner().invoke(sharp, arguments).stdout)
    assert document["task"]["options"] == {"width": 4, "smoothing": 0.5}
    measured = document["results"][0]["measures"]["loss"]["train"]["value"]
    assert measured == pytest.approx(expected.item(), rel=1e-6)


def test_options_of_any_optimizer_are_its_own_fields():
    arguments = ("--optimizer", "rmsPROP", "-P", "alpha=0.9", "--momentum", "0.5", "--epochs", "1")
    done = run("task.py", *arguments)
    assert done.exit_code == 0, done.output
    stored = load_checkpoint("model.safetensors").metadata
    made_by = {name: stored[name] for name in ("optimizer", "lr", "alpha", "momentum", "eps")}
    expected = {"optimizer": "RMSprop", "lr": 0.01, "alpha": 0.9, "momentum": 0.5, "eps": 1e-8}
    assert made_by == expected
    assert not {"foreach", "capturable", "beta1"} & stored.keys()


def test_help_needs_no_torch():
    code = "import sys; from sharpcli.cli.commands import train; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_single_example_left_for_batch_norm_names_the_batch_size(tmp_path):
    file = tmp_path / "task.py"
    file.write_text(
        "import torch\n"
        "def model(): return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))\n"
        "def data(split): return torch.eye(2).repeat(3, 1), torch.tensor([0, 1] * 3)\n",
        "utf-8",
    )
    arguments = ["train", str(file), "--batch-size", "5", "--output", str(tmp_path / "a")]
    done = CliRunner().invoke(sharp, arguments)
    assert done.exit_code == 1
    assert "choose a batch size that leaves none over" in done.stderr


def test_several_numbers_in_one_are_said_to_be_that():
    done = CliRunner().invoke(sharp, ["train", "digits", "--betas", "0.9,0.99", "x"])
    assert done.exit_code == 2
    assert "'0.9,0.99' is not one number: separate several by blanks" in done.stderr
