"""`sharp inspect`: every checkpoint is shown, a broken one in its place."""

import csv
import json
from pathlib import Path

import jsonschema
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from sharpcli.checkpoint import save_checkpoint
from sharpcli.cli.main import sharp

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "schema.json").read_text("utf-8"))


def inspect(*arguments):
    return CliRunner(env={"COLUMNS": "100"}).invoke(sharp, ["inspect", *map(str, arguments)])


def document(*arguments):
    result = inspect(*arguments, "--json")
    parsed = json.loads(result.stdout)
    jsonschema.validate(parsed, SCHEMA)
    return parsed, result


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def saved(tmp_path, model):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model.state_dict(), {"lr": 0.1, "betas": (0.9, 0.99)})
    return path


@pytest.fixture
def trained(tmp_path, model):
    path = tmp_path / "b.ckpt"
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    return path


def test_the_document_of_a_checkpoint(saved, model):
    parsed, result = document(saved)
    assert result.exit_code == 0
    assert (parsed["schema"], parsed["kind"]) == ("sharpcli/1", "inspect")
    (found,) = parsed["results"]
    assert found["status"] == "ok"
    assert found["checkpoint"]["path"] == str(saved)
    assert len(found["checkpoint"]["sha256"]) == 64
    assert found["checkpoint"]["metadata"] == {"lr": 0.1, "betas": "0.9,0.99"}
    assert found["checkpoint"]["elements"] == sum(t.numel() for t in model.state_dict().values())
    assert found["checkpoint"]["bytes"] == 4 * (found["checkpoint"]["elements"] - 1) + 8
    assert found["optimizer"] is None
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    weight = model[0].weight.detach()
    assert by_name["0.weight"] == {
        "name": "0.weight",
        "shape": [4, 3],
        "dtype": "float32",
        "norm": pytest.approx(weight.norm().item()),
        "min": weight.min().item(),
        "max": weight.max().item(),
    }
    assert "norm" not in by_name["1.num_batches_tracked"]


def test_the_optimizer_and_what_was_undone(trained):
    parsed, result = document(trained)
    (found,) = parsed["results"]
    assert found["checkpoint"]["notes"] == ["weights taken from 'state_dict'"]
    assert found["checkpoint"]["metadata"]["epoch"] == 3
    optimizer = found["optimizer"]
    assert (optimizer["optimizer"], optimizer["lr"], optimizer["beta2"]) == ("adam", 0.01, 0.999)
    assert (optimizer["groups"], optimizer["tensors"]) == (1, 18)
    assert "weights taken from 'state_dict'" in result.stderr
    assert inspect(trained, "--quiet").stderr == ""


def test_the_table(saved, trained):
    result = inspect(saved, trained)
    assert result.exit_code == 0
    assert f"{saved}: 9 tensors, 43 elements, 176 bytes" in " ".join(result.stdout.split())
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "tensor shape dtype norm min max" in lines
    assert any(line.startswith("0.weight 4×3 float32 ") for line in lines)
    assert "1.num_batches_tracked scalar int64 – 0 0" in lines
    assert "betas 0.9,0.99" in lines
    assert "state exp_avg, exp_avg_sq, step" in lines
    assert lines.count("lr 0.01") == 1


def test_a_broken_file_fails_in_its_place_and_the_others_are_shown(tmp_path, saved, trained):
    broken = tmp_path / "broken.pt"
    broken.write_text("not a checkpoint")
    parsed, result = document(saved, broken, trained)
    assert result.exit_code == 1
    assert [each["status"] for each in parsed["results"]] == ["ok", "failed", "ok"]
    failed = parsed["results"][1]
    assert failed["checkpoint"] == {"path": str(broken)}
    assert failed["error"]["message"] == f"{broken}: is a text file, not a checkpoint"
    assert "safetensors" in failed["error"]["hint"]
    result = inspect(saved, broken, trained)
    assert result.exit_code == 1
    assert "is a text file, not a checkpoint" in result.stdout
    assert f"{broken}: is a text file, not a checkpoint" in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout.count("0.weight") == 2


def test_a_missing_file_alone(tmp_path):
    result = inspect(tmp_path / "none.pt")
    assert result.exit_code == 1
    assert "there is no such file" in result.stderr


def test_a_tensor_that_is_not_finite_is_warned_of(tmp_path):
    broken = torch.tensor([1.0, float("nan")])
    save_checkpoint(tmp_path / "a", {"fine": torch.ones(2), "w": broken}, {})
    parsed, result = document(tmp_path / "a")
    assert result.exit_code == 0
    (found,) = parsed["results"]
    assert found["warnings"] == ["tensor 'w' holds a NaN or an infinity"]
    assert found["tensors"][1]["norm"] is None
    assert "holds a NaN or an infinity" in result.stderr
    assert "not finite" in inspect(tmp_path / "a").stdout


def test_tied_tensors_are_counted_once(tmp_path):
    weight = torch.ones(5, 3)
    torch.save({"a": weight, "b": weight}, tmp_path / "a.pt")
    parsed, _ = document(tmp_path / "a.pt")
    assert parsed["results"][0]["checkpoint"]["elements"] == 15
    assert len(parsed["results"][0]["tensors"]) == 2


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.uint16, torch.int64, torch.complex64, torch.float8_e4m3fn],
)
def test_every_dtype_has_its_numbers(tmp_path, dtype):
    tensors = {"w": torch.tensor([0.0, 1.0]).to(dtype), "empty": torch.zeros(0).to(dtype)}
    save_checkpoint(tmp_path / "a", tensors, {})
    parsed, result = document(tmp_path / "a")
    assert result.exit_code == 0
    tensor = {each["name"]: each for each in parsed["results"][0]["tensors"]}["w"]
    assert tensor["dtype"] == str(dtype).removeprefix("torch.")
    assert tensor.get("max", 1) == 1
    assert tensor.get("norm", 1) == 1


def test_names_cannot_drive_the_terminal(tmp_path):
    save_checkpoint(tmp_path / "a", {"\x1b[2Jw": torch.ones(1)}, {"k\x1b": "v\x07"})
    result = inspect(tmp_path / "a")
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "\\x1b[2Jw" in result.stdout


def test_csv_and_markdown(saved, tmp_path):
    rows = list(csv.DictReader(inspect(saved, "--format", "csv").stdout.splitlines()))
    assert len(rows) == 9
    assert rows[0]["checkpoint"] == str(saved)
    markdown = inspect(saved, "--format", "markdown").stdout
    assert "| tensor | shape | dtype | norm | min | max |" in markdown
    assert inspect(saved, "--json", "--output", tmp_path / "out.json").stdout == ""
    assert json.loads((tmp_path / "out.json").read_text())["kind"] == "inspect"


def test_no_checkpoint_is_misuse():
    result = inspect()
    assert result.exit_code == 2
    assert "CKPT" in result.stderr
