"""`sharp sweep`: what the command prints, and how it ends."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from sweeps import FOUR, NAMES, write

from sharpcli.cli.main import sharp

SCHEMA_FILE = Path(__file__).parents[3] / "docs" / "schema.json"
SCHEMA = Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)


def run(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(sharp, ["sweep", "sweep.toml", *arguments])


def test_a_table_on_stdout_and_a_line_for_each_run_on_stderr():
    done = run("--output", "out")
    assert done.exit_code == 0, done.output
    assert "4 runs, 4 trained" in done.stdout
    for number, name in enumerate(NAMES, start=1):
        assert name in done.stdout
        assert f"{name}: train loss " in done.stderr
        assert f"({number} of 4)" in done.stderr
    again = run("--output", "out")
    assert again.stderr == "4 runs of 4 finished before\n"
    assert again.stdout == done.stdout


def test_json_is_what_sweep_json_holds_and_fits_the_schema():
    done = run("--output", "out", "--json", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    SCHEMA.validate(document)
    assert document == json.loads(Path("out/sweep.json").read_text("utf-8"))
    assert document["kind"] == "sweep"


def test_csv_has_a_row_for_each_run_with_its_settings():
    done = run("--output", "out", "--format", "csv", "--quiet")
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    assert [row["run"] for row in rows] == NAMES
    assert rows[-1]["settings.optimizer"] == "adam"
    assert rows[-1]["settings.betas"] == "0.9 0.999"
    assert rows[-1]["options.width"] == "3"
    assert float(rows[-1]["loss.train"]) > 0


def test_a_diverged_run_is_said_and_the_exit_code_is_1():
    Path("sweep.toml").write_text(FOUR + '[[list]]\nname = "wild"\nlr = 1e30\n', "utf-8")
    done = run("--output", "out", "--json")
    assert done.exit_code == 1
    assert "wild: diverged (5 of 5)" in done.stderr
    assert "lower the learning rate (lr is 1e+30)" in done.stderr
    document = json.loads(done.stdout)
    SCHEMA.validate(document)
    assert [r["status"] for r in document["results"]] == ["ok"] * 4 + ["failed"]
    assert "diverged: task.py: the training loss is " in run("--output", "out").stdout


def test_a_shard_ends_by_what_became_of_its_own_runs():
    Path("sweep.toml").write_text(FOUR + '[[list]]\nname = "wild"\nlr = 1e30\n', "utf-8")
    assert run("--output", "out", "--shard", "1/2").exit_code == 1
    done = run("--output", "out", "--shard", "2/2")
    assert done.exit_code == 0
    assert "5 runs, 4 trained" in done.stdout


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3"])
def test_a_shard_that_does_not_exist(shard):
    done = run("--output", "out", "--shard", shard)
    assert done.exit_code == 2
    assert f"'{shard}' is no part such as 1/4" in done.stderr


def test_a_changed_file_is_misuse():
    run("--output", "out")
    Path("sweep.toml").write_text(FOUR.replace("epochs = 1", "epochs = 2"), "utf-8")
    done = run("--output", "out")
    assert done.exit_code == 2
    assert "epochs was 1, is 2 (4 runs)" in done.stderr
    assert "another --output" in done.stderr
