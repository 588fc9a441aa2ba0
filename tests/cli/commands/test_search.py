"""`sharp search`: what the command prints, and how it ends."""

import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from safetensors.torch import load_file
from tiny_searches import FIVE, write

pytest.importorskip("optuna")

from sharpcli.cli.commands.search import _option
from sharpcli.cli.main import sharp
from sharpcli.cli.search_progress import search_progress
from sharpcli.render.pages.searches import ranked

SCHEMA_FILE = Path(__file__).parents[3] / "docs" / "schema.json"
SCHEMA = Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)


def run(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(sharp, ["search", *arguments])


def test_the_best_trials_come_first_and_the_last_line_trains_the_best_again():
    content = 'split = "test"\npruner = "none"\n' + FIVE
    Path("search.toml").write_text(content, "utf-8")
    done = run("search.toml", "--output", "out")
    assert done.exit_code == 0, done.output
    assert "5 trials for the lowest test loss" in done.stdout
    assert max(map(len, done.stdout.partition("to train it again:")[0].splitlines())) <= 80
    assert "(5 of 5)" in done.stderr
    results = ranked(json.loads(Path("out/search.json").read_text("utf-8")))
    assert [r["objective"] for r in results] == sorted(r["objective"] for r in results)
    names = re.findall(r"trial-\d{4}", done.stdout)
    assert names == [result["trial"] for result in results]

    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:3] == ["sharp", "train", "task.py"]
    again = CliRunner().invoke(sharp, words[1:])
    assert again.exit_code == 0, again.output
    measure = ["measure", "best.safetensors", "--task", "task.py", "-O", "width=3", "-m", "loss"]
    measured = CliRunner().invoke(sharp, [*measure, "--json"])
    loss = json.loads(measured.stdout)["results"][0]["measures"]["loss"]["test"]["value"]
    assert loss == pytest.approx(results[0]["objective"], rel=1e-6)


def test_the_line_has_every_setting_as_train_takes_it():
    Path("sub").mkdir()
    Path("sub/task.py").write_bytes(Path("task.py").read_bytes())
    start = ["train", "task.py", "-O", "width=3", "--steps", "2", "--output", "sub/start"]
    assert CliRunner().invoke(sharp, start).exit_code == 0
    Path("sub/s.toml").write_text(
        """
        task = "task.py"
        split = "train"
        trials = 1
        options = { width = 3 }
        [fixed]
        steps = 4
        init = "start"
        optimizer = "adam"
        betas = [0.8, 0.9]
        optimizer_options = { amsgrad = true }
        noise_scale = true
        save_every = "log"
        track = ["loss", "gradient"]
        every = 2
        [search]
        lr = { low = 0.01, high = 0.1 }
        """,
        "utf-8",
    )
    done = run("sub/s.toml", "--output", "out")
    assert done.exit_code == 0, done.output
    words = shlex.split(done.stdout.splitlines()[-1])
    again = CliRunner().invoke(sharp, words[1:])
    assert again.exit_code == 0, again.output
    first, second = (load_file(p) for p in ("out/trial-0000/model.safetensors", words[-1]))
    assert all(first[name].equal(second[name]) for name in first)
    curves = json.loads(Path(f"{words[-1]}.curves.json").read_text("utf-8"))
    assert {"loss", "gradient"} <= {*curves["results"][0]["tracked"][0]["measures"]}


def test_three_betas_are_an_option_of_the_optimizer():
    assert _option("betas", [0.9, 0.99, 0.999]) == ["-P", "betas=0.9,0.99,0.999"]


def test_json_is_what_search_json_holds_and_fits_the_schema():
    done = run("search.toml", "--output", "out", "--json", "--quiet", "--trials", "3")
    assert (done.exit_code, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    SCHEMA.validate(document)
    assert document == json.loads(Path("out/search.json").read_text("utf-8"))
    assert document["kind"] == "search"
    assert len(document["results"]) == 3


def test_csv_has_a_row_for_each_trial_with_what_was_chosen():
    done = run("search.toml", "--output", "out", "--format", "csv", "--quiet", "--trials", "2")
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    assert [row["trial"] for row in rows] == ["trial-0000", "trial-0001"]
    assert rows[0]["chosen.optimizer"] in ("sgd", "adam")
    assert float(rows[0]["objective"]) > 0


def test_the_task_may_be_on_the_command_line():
    content = FIVE.replace('task = "task.py"', "")
    Path("search.toml").write_text(content, "utf-8")
    done = run("task.py", "search.toml", "--output", "out", "--trials", "1", "--quiet")
    assert done.exit_code == 0, done.output
    assert run("a", "task.py", "search.toml", "--output", "out").exit_code == 2


def test_a_mistake_in_the_file_makes_no_folder():
    Path("search.toml").write_text(FIVE.replace("trials", "trails"), "utf-8")
    done = run("search.toml", "--output", "out")
    assert done.exit_code == 2
    assert "trails: did you mean 'trials'?" in done.stderr
    assert not Path("out").exists()


def test_a_diverged_trial_is_in_the_table_and_the_search_is_done():
    content = FIVE.replace("k0 = { low = 1e-3, high = 1,", "k0 = { low = 1e-3, high = 1e38,")
    content = 'sampler = "random"\npruner = "none"\n' + content
    Path("search.toml").write_text(content.replace('["sgd", "adam"]', '["sgd"]'), "utf-8")
    done = run("search.toml", "--output", "out", "--trials", "8")
    assert done.exit_code == 0, done.output
    assert re.search(r"trial-000\d +diverged", done.stdout)
    assert re.search(r"trial-000\d: diverged · optimizer=sgd", done.stderr)


def test_nothing_is_shown_in_silence():
    with search_progress(quiet=True) as watch:
        watch.planned(3, 0)
        watch.began("trial-0000")
