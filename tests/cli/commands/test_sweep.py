"""`sharp sweep`: what the command prints, and how it ends."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from tiny_sweeps import FOUR, NAMES, write

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
    adam = FOUR.replace('"sgd", ', "").replace("epochs = 1", "epochs = 1\nbetas = [0.8, 0.9]")
    Path("sweep.toml").write_text(adam, "utf-8")
    done = run("--output", "out", "--format", "csv", "--quiet")
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    assert [row["run"] for row in rows] == ["optimizer=adam,seed=0", "optimizer=adam,seed=1"]
    assert rows[-1]["settings.optimizer"] == "adam"
    assert rows[-1]["settings.betas"] == "0.8 0.9"
    assert rows[-1]["options.width"] == "3"
    assert float(rows[-1]["loss.train"]) > 0


def test_a_diverged_run_is_said_and_the_exit_code_is_1():
    Path("sweep.toml").write_text(FOUR + '[[list]]\nname = "wild"\nlr = 1e30\n', "utf-8")
    done = run("--output", "out", "--json")
    assert done.exit_code == 1
    assert "wild: diverged (" in done.stderr
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


MEASURE = FOUR + '[measure]\nmeasures = ["loss", "gradient"]\ndtype = "float64"\n'


def test_runs_are_measured_at_the_end_and_compared():
    Path("sweep.toml").write_text(MEASURE, "utf-8")
    done = run("--output", "out")
    assert done.exit_code == 0, done.output
    assert "wrote out/measures.json" in done.stderr
    measures = json.loads(Path("out/measures.json").read_text("utf-8"))
    SCHEMA.validate(measures)
    paths = [result["checkpoint"]["path"] for result in measures["results"]]
    assert paths == [f"out/{name}/model.safetensors" for name in NAMES]
    assert set(measures["results"][0]["measures"]) == {"loss", "accuracy", "gradient"}
    assert measures["settings"]["run"]["dtype"] == "float64"
    written = Path("out/measures.json").stat().st_mtime_ns
    assert run("--output", "out").exit_code == 0
    assert Path("out/measures.json").stat().st_mtime_ns == written
    compared = CliRunner().invoke(sharp, ["compare", "out", "--by", "optimizer", "--json"])
    assert compared.exit_code == 0, compared.output
    groups = [(r["group"]["optimizer"], r["n"]) for r in json.loads(compared.stdout)["results"]]
    assert sorted(groups) == [("adam", 2), ("sgd", 2)]


def test_other_measures_are_measured_anew_without_training():
    Path("sweep.toml").write_text(MEASURE, "utf-8")
    run("--output", "out")
    Path("sweep.toml").write_text(MEASURE.replace(', "gradient"', ""), "utf-8")
    done = run("--output", "out")
    assert "4 runs of 4 finished before" in done.stderr
    measures = json.loads(Path("out/measures.json").read_text("utf-8"))
    assert set(measures["results"][0]["measures"]) == {"loss", "accuracy"}


def test_the_last_shard_measures_and_each_run_on_its_own_task():
    content = 'task = "task.py"\n[grid]\noptions.width = [3, 5]\n[measure]\nmeasures = ["loss"]\n'
    Path("sweep.toml").write_text(content, "utf-8")
    run("--output", "out", "--shard", "1/2")
    assert not Path("out/measures.json").exists()
    run("--output", "out", "--shard", "2/2")
    measures = json.loads(Path("out/measures.json").read_text("utf-8"))
    counts = [result["checkpoint"]["parameters"] for result in measures["results"]]
    assert counts == [3 * 3 + 3 + 3 * 2 + 2, 3 * 5 + 5 + 5 * 2 + 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("measure = 1", "did you mean 'measures'?"),
        ('measures = ["los"]', "los"),
        ('measures = "loss"', "is not a list"),
        ("top = 0", "top = 0: is out of range"),
        ("tol = 2.0", "tol = 2.0: is out of range"),
        ("samples = 0", "samples = 0: is out of range"),
        ('dtype = "float16"', "is not one of float32, float64, bfloat16"),
        ('split = "both"', "a measure is of one split"),
    ],
)
def test_a_mistake_in_what_to_measure_is_found_before_training(line, message):
    Path("sweep.toml").write_text(f"{FOUR}[measure]\n{line}\n", "utf-8")
    done = run("--output", "out")
    assert done.exit_code == 2
    assert "sweep.toml: [measure]" in done.stderr
    assert message in done.stderr
    assert not Path("out").exists()


def test_a_folder_that_was_not_measured_cannot_be_compared():
    run("--output", "out")
    done = CliRunner().invoke(sharp, ["compare", "out"])
    assert done.exit_code == 1
    assert "out: is a folder without measures.json" in done.stderr
