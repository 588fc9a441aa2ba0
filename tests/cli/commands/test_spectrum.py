"""`sharp spectrum`, run as a person runs it."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from minima import write_minima

from sharpcli.cli.main import sharp

QUICK = ("--probes", "2", "--steps", "10")


@pytest.fixture
def minima(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_minima(tmp_path)
    return tmp_path


def spectrum(*arguments, width=100):
    runner = CliRunner(env={"COLUMNS": str(width)})
    return runner.invoke(sharp, ["spectrum", "-t", "task.py", *arguments])


def test_chart_and_table(minima):
    done = spectrum("sgd.safetensors", "adam.safetensors")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    for said in ("spectral density", "all eigenvalues", "bulk", "λmin", "⟨λ⁴⟩"):
        assert said in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_json_is_one_document_with_the_quadrature(minima):
    done = spectrum("sgd.safetensors", "--json", *QUICK)
    document = json.loads(done.stdout)
    assert document["kind"] == "spectrum"
    assert document["settings"]["spectrum"]["probes"] == 2
    (result,) = document["results"]
    assert result["products"] == 20
    assert sum(result["weights"]) == pytest.approx(1)
    assert np.trapezoid(result["density"], result["grid"]) == pytest.approx(1)
    assert len(result["moments"]) == 4


def test_a_row_a_checkpoint_as_csv_without_the_curves(minima):
    done = spectrum("sgd.safetensors", "adam.safetensors", "--format", "csv")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["checkpoint"] for row in rows] == ["sgd.safetensors", "adam.safetensors"]
    assert float(rows[0]["moments[1]"]) > 0
    assert not any(key.startswith(("nodes", "grid")) for key in rows[0])


def test_markdown(minima):
    done = spectrum("sgd.safetensors", "--format", "markdown")
    assert "| checkpoint | λ1 |" in done.stdout


def test_the_figure_and_the_same_from_the_saved_result(minima):
    done = spectrum("sgd.safetensors", "--json", "--output", "a.json", "--plot", "a.svg")
    assert (done.exit_code, done.stdout) == (0, "")
    again = CliRunner().invoke(sharp, ["plot", "a.json", "--plot", "b.svg", "--plot", "b.npz"])
    assert again.exit_code == 0, again.output
    assert (minima / "a.svg").read_bytes() == (minima / "b.svg").read_bytes()
    assert "0_nodes" in np.load(minima / "b.npz")
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(sharp, ["plot", "a.json"])
    assert "spectral density" in shown.stdout


def test_a_saved_spectrum_has_neither_split_nor_metric(minima):
    spectrum("sgd.safetensors", "--json", "--output", "a.json")
    done = CliRunner().invoke(sharp, ["plot", "a.json", "--split", "train"])
    assert done.exit_code == 2
    assert "a spectrum has no --split" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no checkpoint: nothing to draw"),
        (("",), "a checkpoint's path is empty"),
        (("sgd.safetensors", "--probes", "1"), "--probes"),
        (("sgd.safetensors", "--steps", "4"), "--steps"),
        (("sgd.safetensors", "--plot", "a.html"), "a spectrum is not drawn as .html"),
        (("sgd.safetensors", "--operator", "hesian"), "--operator"),
    ],
)
def test_misuse_is_said_and_exits_with_2(minima, arguments, said):
    done = spectrum(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_failed_checkpoint_exits_with_1_and_the_rest_is_printed(minima):
    (minima / "bad.safetensors").write_bytes(b"nonsense")
    done = spectrum("bad.safetensors", "sgd.safetensors")
    assert done.exit_code == 1
    assert "failed: " in done.stdout
    assert "spectral density" in done.stdout
    assert "bad.safetensors" in done.stderr


def test_strict_exits_with_3_where_an_end_was_not_found(minima, monkeypatch):
    monkeypatch.setattr("sharpcli.runs.spectrum._END", 0.0)
    arguments = ("sgd.safetensors", "--probes", "2", "--steps", "5")
    assert spectrum(*arguments).exit_code == 0
    done = spectrum(*arguments, "--strict")
    assert done.exit_code == 3
    assert "raise --steps" in " ".join(done.stdout.split())
