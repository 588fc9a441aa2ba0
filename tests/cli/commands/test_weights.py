"""--weights and --partial of the commands that read checkpoints."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from sharpcli.cli.main import sharp

TASK = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

def data(split):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(8, 3, generator=generator), torch.randint(0, 2, (8,), generator=generator)
"""


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(TASK)
    plain, average = net(1).state_dict(), net(2).state_dict()
    torch.save({"model": plain, "ema": average}, "run.pt")
    torch.save(plain, "plain.pt")
    torch.save(average, "average.pt")
    for seed, name in ((1, "head.pt"), (2, "other.pt")):
        torch.save({k: t for k, t in net(seed).state_dict().items() if k[0] == "2"}, name)
    torch.save({k: t for k, t in net(1).state_dict().items() if k[0] == "0"}, "body.pt")
    return tmp_path


def run(*words, code=0):
    result = CliRunner().invoke(sharp, [*words])
    assert result.exit_code == code, result.output
    return result


def document(*words, code=0):
    return json.loads(run(*words, "--json", code=code).stdout)


def loss(*words):
    (result,) = document("measure", *words, "-t", "task.py", "-m", "loss")["results"]
    return result["measures"]["loss"]["train"]["value"], result["checkpoint"]["notes"]


def test_measure_takes_the_plain_weights_and_names_the_average(folder):
    value, notes = loss("run.pt")
    assert value == loss("plain.pt")[0]
    assert "'ema' fits too: --weights ema measures it" in notes
    value, notes = loss("run.pt", "--weights", "ema")
    assert value == loss("average.pt")[0]
    assert notes == ["weights taken from 'ema'"]


def test_a_key_that_is_not_there_is_a_failure_with_the_keys(folder):
    result = run("measure", "run.pt", "-t", "task.py", "-m", "loss", "--weights", "eam", code=1)
    assert "has no weights 'eam' (--weights); it has 'ema'" in result.stderr.replace("\n", " ")
    assert "did you mean 'ema'?" in result.stderr


def test_every_command_takes_the_option(folder):
    line = document("interpolate", "run.pt", "plain.pt", "-t", "task.py", "--points", "3")
    assert len(line["results"]) == 1
    words = ("-t", "task.py", "--weights", "ema")
    shown = document("spectrum", "run.pt", *words, "--probes", "2", "--steps", "5")
    assert shown["settings"]["run"]["weights"] == "ema"
    plane = document("landscape", "run.pt", *words, "--points", "3")
    assert plane["settings"]["run"]["weights"] == "ema"
    (inspected,) = document("inspect", "run.pt")["results"]
    assert (
        "also holds 'ema' (4 tensors): --weights ema shows it" in inspected["checkpoint"]["notes"]
    )
    (inspected,) = document("inspect", "run.pt", "--weights", "ema")["results"]
    assert inspected["checkpoint"]["notes"] == ["weights taken from 'ema'"]


def test_partial_measures_the_parameters_of_the_file(folder):
    words = ("-t", "task.py", "-m", "loss", "-m", "gradient", "--dtype", "float64")
    (refused,) = document("measure", "head.pt", *words, code=1)["results"]
    assert "--partial takes the rest from model()" in refused["error"]["hint"]
    (result,) = document("measure", "head.pt", *words, "--partial")["results"]
    about = result["checkpoint"]
    assert (about["parameters"], about["parameters_in_all"]) == (10, 26)
    assert any("the file has 2 of the model's 4 tensors (10 of 26" in n for n in about["notes"])
    whole = {**net(0).state_dict(), **torch.load("head.pt")}
    torch.save(whole, "whole.pt")
    (same,) = document("measure", "whole.pt", *words, "--parameters", "2.*")["results"]
    values = [each["measures"]["gradient"]["norm"]["value"] for each in (same, result)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    (chosen,) = document("measure", "head.pt", *words, "--partial", "--parameters", "*")["results"]
    assert chosen["checkpoint"]["parameters"] == 26


def test_a_line_between_two_parts(folder):
    line = document(
        "interpolate", "head.pt", "other.pt", "-t", "task.py", "--partial", "--points", "3"
    )
    assert [c["parameters"] for c in line["results"][0]["checkpoints"]] == [10, 10]
    refused = run("interpolate", "head.pt", "body.pt", "-t", "task.py", "--partial", code=2)
    assert "hold different parts of the model" in refused.stderr.replace("\n", " ")
    refused = run("interpolate", "plain.pt", "body.pt", "-t", "task.py", "--partial", code=2)
    assert "hold different parts of the model" in refused.stderr.replace("\n", " ")


def test_a_whole_file_with_partial_is_measured_as_without(folder):
    assert loss("plain.pt", "--partial") == loss("plain.pt")
