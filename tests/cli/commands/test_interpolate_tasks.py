"""`sharp interpolate` on tasks, models and grids of all kinds."""

import pytest
import torch
from explorations import (
    NAMES,
    combined,
    found_by,
    run,
    strict,
    write,
)
from minima import TASK, write_minima
from torch import nn

SMALL = ("sgd.safetensors", "adam.safetensors", "-t", "task.py")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SHARP_TASK", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


TIED = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 3)
        self.frozen.requires_grad_(False)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, inputs):
        return self.frozen(self.scale * self.second(torch.tanh(self.first(inputs))))

def model():
    return Tied()
""" + TASK[TASK.index("def data") :]


def test_tied_tensors_are_moved_once_and_frozen_ones_between_the_two(folder):
    (folder / "tied.py").write_text(TIED, "utf-8")
    scope = {}
    exec(TIED, scope)
    states = []
    for seed, name in enumerate(("one.safetensors", "two.safetensors")):
        torch.manual_seed(seed)
        model = scope["model"]()
        with torch.no_grad():
            model.scale.fill_(1.0 + seed)
            model.steps.fill_(3 + seed)
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        write(folder / name, states[-1])
    found = found_by(
        *("interpolate", "one.safetensors", "two.safetensors", "-t", "tied.py"),
        *("--points", "5", "--range", "0:1", "--dtype", "float64", "--quiet"),
    )
    assert found["checkpoints"][0]["parameters"] == 16
    assert found["batch_norm"] is None
    a, b = ({k: t.double() if t.is_floating_point() else t for k, t in s.items()} for s in states)
    inputs, classes = scope["data"]("train")
    for place, loss in zip(
        found["axes"][0]["values"], found["curves"]["train"]["loss"], strict=True
    ):
        model = scope["model"]().double()
        model.load_state_dict(combined((1 - place, a), (place, b)))
        with torch.no_grad():
            expected = nn.functional.cross_entropy(model(inputs.double()), classes)
        assert loss == pytest.approx(float(expected), rel=1e-10)


NO_TEST = TASK.replace("(split):\n", "(split):\n    if split == 'test': return None\n")
SUMS = TASK + (
    "\ndef loss(outputs, batch):\n"
    "    losses = nn.functional.cross_entropy(outputs, batch[1], reduction='none')\n"
    "    return losses.sum(), torch.tensor(float(len(losses)))\n"
)
NO_METRICS = TASK + "\nmetrics = None\n"


def test_without_test_data_there_are_training_curves_alone(folder):
    (folder / "task.py").write_text(NO_TEST, "utf-8")
    found = found_by("interpolate", *SMALL, "--points", "5")
    assert list(found["curves"]) == list(found["barrier"]) == ["train"]
    assert list(found["checkpoints"][0]["measures"]["loss"]) == ["train"]
    done = run("interpolate", *SMALL, "--points", "5")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "test" not in done.stdout.replace("latest", "")


def test_without_metrics_there_is_the_loss_alone(folder):
    (folder / "task.py").write_text(NO_METRICS, "utf-8")
    found = found_by("interpolate", *SMALL, "--points", "5")
    assert {name for curves in found["curves"].values() for name in curves} == {"loss"}
    done = run("interpolate", *SMALL, "--points", "5")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "accuracy" not in done.stdout


@pytest.mark.parametrize("more", [(), ("--samples", "20")])
def test_a_loss_may_be_a_sum_and_a_weight(folder, more):
    plainly = found_by("interpolate", *SMALL, "--points", "5", *more)
    (folder / "task.py").write_text(SUMS, "utf-8")
    found = found_by("interpolate", *SMALL, "--points", "5", *more)
    for split, curves in plainly["curves"].items():
        assert found["curves"][split]["loss"] == pytest.approx(curves["loss"], rel=1e-6)
    assert "loss" not in found.get("sampling_errors", {}).get("train", {})


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_split_is_drawn_where_one_is_asked_for(split):
    both = found_by("interpolate", *SMALL, "--points", "5")
    found = found_by("interpolate", *SMALL, "--points", "5", "--split", split)
    assert found["curves"] == {split: both["curves"][split]}
    assert list(found["barrier"]) == [split]


def test_samples_give_sampling_errors_and_other_numbers():
    whole = found_by("interpolate", *SMALL, "--points", "4")
    found = found_by("interpolate", *SMALL, "--points", "4", "--samples", "12")
    assert "sampling_errors" not in whole
    for split in ("train", "test"):
        for name in ("loss", "accuracy"):
            assert len(found["sampling_errors"][split][name]) == 4
        losses = zip(
            found["curves"][split]["loss"],
            whole["curves"][split]["loss"],
            found["sampling_errors"][split]["loss"],
            strict=True,
        )
        assert all(0 < abs(x - y) < 5 * error for x, y, error in losses)
        assert found["barrier"][split]["sampling_error"] is not None
    done = run("interpolate", *SMALL, "--points", "4", "--samples", "12")
    assert (done.exit_code, done.stderr) == (0, "")


def test_training_mode_uses_the_batch(cnns):
    paths = [str(cnns / name) for name in NAMES[:2]]
    given = ("--points", "2", "--range", "0:1", "--dtype", "float64")
    found = found_by("interpolate", *paths, *given, "--mode", "train", "--quiet")
    said = run("interpolate", *paths, *given, "--mode", "train").stderr
    assert said.count("--mode train: the loss is defined on batches of all ") == 1
    other = found_by("interpolate", *paths, *given, "--batch-norm", "batch")
    assert found["batch_norm"] == "batch"
    for split in ("train", "test"):
        assert found["curves"][split]["loss"] == pytest.approx(
            other["curves"][split]["loss"], rel=1e-10
        )


# Grids of unusual shape.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--points", "1", "--range", "0:0"), [0.0]),
        (("--points", "1"), [0.0]),
        (("--points", "1", "--range", "1:1"), [1.0]),
        (("--points", "1", "--range", "0.25:0.75"), [0.5]),
        (("--points", "2"), [0.0, 1.0]),
        (("--points", "3"), [0.0, 0.5, 1.0]),
        (("--points", "2", "--range", "0:1"), [0.0, 1.0]),
        (("--points", "5", "--range=-0.01:1.01"), [-0.01, 0.0, 0.5, 1.0, 1.01]),
        (("--points", "3", "--range", "0:0"), [0.0]),
        (("--points", "4"), [-1.0, 0.0, 1.0, 2.0]),
        (("--points", "4", "--range", "-1:2"), [-1.0, 0.0, 1.0, 2.0]),
    ],
)
def test_which_points_are_on_a_line(given, expected):
    done = run("interpolate", *SMALL, *given, "--json")
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)["results"][0]
    assert sorted(set(found["axes"][0]["values"])) == expected
    ends = {0.0, 1.0} <= set(expected)
    assert (found["barrier"] == {}) is not ends
    option, notes = given[2] if len(given) > 2 else given[0], ""
    if len(given) == 2 and len(expected) < 4:
        notes = (
            f"note: --points {given[1]} is too few for the line from α = -1 to 2, which takes 4: "
            f"drawn at {', '.join(f'{alpha:g}' for alpha in expected)}\n"
        )
    if not ends:
        notes += f"note: no barrier: 0 or 1 is not on the line ({option})\n"
    assert done.stderr == notes
    shown = run("interpolate", *SMALL, *given)
    assert (shown.exit_code, shown.stderr) == (0, done.stderr)


def test_identical_ends_are_a_flat_line():
    done = run("interpolate", "sgd.safetensors", *SMALL[:1], *SMALL[2:], "--json")
    assert done.exit_code == 0
    assert done.stderr == (
        "note: A and B hold the same parameters: the line between them is one point\n"
    )
    found = strict(done.stdout)["results"][0]
    losses = found["curves"]["train"]["loss"]
    assert losses == pytest.approx([losses[0]] * 25, rel=1e-6)
    assert found["axes"][0]["norm"] == 0
    assert found["barrier"]["train"]["value"] == pytest.approx(0, abs=1e-6)
    shown = run("interpolate", "sgd.safetensors", *SMALL[:1], *SMALL[2:])
    assert (shown.exit_code, shown.stderr) == (0, done.stderr)


def test_a_loss_that_overflows_is_null_and_said(folder):
    (folder / "task.py").write_text(
        TASK + "\ndef loss(outputs, batch): return outputs.exp().exp().sum(1)\n", "utf-8"
    )
    done = run("interpolate", *SMALL, "--points", "4", "--range", "-1:200", "--json")
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)["results"][0]
    assert found["curves"]["train"]["loss"][-1] is None
    assert "warning: the train loss is not finite at " in done.stderr
    assert "RuntimeWarning" not in done.stderr
    assert run("interpolate", *SMALL, "--points", "4", "--range", "-1:200").exit_code == 0


def test_ends_that_are_not_finite_have_no_barrier(folder):
    (folder / "task.py").write_text(
        TASK + "\ndef loss(outputs, batch): return outputs.sum(1) * float('nan')\n", "utf-8"
    )
    done = run("interpolate", *SMALL, "--points", "4", "--json")
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)["results"][0]
    assert found["barrier"] == {}
    assert found["curves"]["train"]["loss"] == [None] * 4
    assert found["curves"]["train"]["accuracy"] != [None] * 4
    assert "note: no barrier: the loss is not finite at A or B\n" in done.stderr
    assert "warning: the train loss is not finite at 4 of 4 points of the line: " in done.stderr
    assert run("interpolate", *SMALL, "--points", "4").exit_code == 0


NORMED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("scale", torch.ones(4))

    def train(self, mode=True):
        super().train(mode)
        FROZEN
        return self

    def forward(self, inputs):
        return self.last((self.norm(self.first(inputs)) - self.running_mean) * self.scale)

def model():
    return Net()
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_not_taken_anew_at_a_point_is_named(folder, frozen):
    text = NORMED.replace("FROZEN", "self.norm.eval()" if frozen else "")
    text += TASK[TASK.index("def data") :]
    (folder / "normed.py").write_text(text, "utf-8")
    scope = {}
    exec(text, scope)
    for seed, name in enumerate(("one.safetensors", "two.safetensors")):
        torch.manual_seed(seed)
        model = scope["model"]()
        with torch.no_grad():
            model.running_mean.fill_(seed)
            model.scale.fill_(1.0 + seed)
            model.norm.running_var.fill_(1.0 + seed)
        write(folder / name, model.state_dict())
    line = ("interpolate", "one.safetensors", "two.safetensors", "-t", "normed.py", "--points", "3")
    said = run(*line).stderr
    assert (
        "warning: running statistics that no batch_norm or instance_norm reads: running_mean"
        in (said)
    )
    assert "they are not re-estimated at the points but interpolated" in said
    assert "note: buffers that differ between the checkpoints are interpolated" in said
    assert "as weights are: scale\n" in said
    kept = "note: batch norm: the model keeps norm in evaluation mode when it trains"
    assert (kept in said) == frozen
    assert ("statistics re-estimated from" in said) != frozen


def test_statistics_that_the_checkpoints_share_are_said_to_be_taken_anew(folder):
    text = "import torch\nfrom torch import nn\n\ndef model():\n    return nn.Sequential("
    text += "nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))\n"
    text += TASK[TASK.index("def data") :]
    (folder / "normed.py").write_text(text, "utf-8")
    scope = {}
    exec(text, scope)
    for seed, name in enumerate(("one.safetensors", "two.safetensors")):
        torch.manual_seed(seed)
        write(folder / name, scope["model"]().state_dict())
    line = ("interpolate", "one.safetensors", "two.safetensors", "-t", "normed.py", "--points", "3")
    assert "note: batch norm: the checkpoints have the same running statistics" in run(*line).stderr
    alone = (*line[:2], "one.safetensors", *line[3:])
    assert "the same running statistics" not in run(*alone).stderr
