"""Sweeps that are killed or interrupted: what is finished is kept, and nothing is trained twice."""

import json
import os
import signal

import pytest
import sweep_kills
from tiny_sweeps import checkpoints

from sharpcli.runs.sweep import sweep

RUNS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sweep")
    sweep_kills.prepare(made, RUNS)
    return made


@pytest.fixture(scope="module")
def expected(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARP_TEST_LOG", str(folder / "undisturbed.log"))
        sweep(folder / "sweep.toml", folder / "undisturbed")
    return checkpoints(folder / "undisturbed")


def test_a_killed_sweep_goes_on_where_it_stopped(folder, expected):
    found = sweep_kills.killed(folder, 0.1, sleep=0.005, after=1)
    assert 0 < found.finished < RUNS
    assert found.again == 0
    assert found.checkpoints == expected


@pytest.mark.parametrize(
    ("number", "to_all", "on"),
    [
        (signal.SIGINT, True, ()),
        (signal.SIGTERM, False, ()),
        (signal.SIGINT, True, ("--on", "local")),
    ],
)
def test_signals_keep_what_is_finished_and_end_the_workers(folder, expected, number, to_all, on):
    name = "-".join([number.name, *on])
    arguments = ("--output", name, "--jobs", "2", "--json", *on)
    (folder / "stop").touch()
    process = sweep_kills.begin(folder, *arguments, sleep=0.02)
    sweep_kills.wait_for(folder / name, process, 1)
    (os.killpg if to_all else os.kill)(process.pid, number)
    stdout, stderr = process.communicate()  # the workers have its streams too
    (folder / "stop").unlink()
    assert process.returncode == 128 + number
    statuses = [result["status"] for result in json.loads(stdout)["results"]]
    assert statuses.count("ok") == len(checkpoints(folder / name)) >= 1
    assert "interrupted" in statuses
    assert json.loads((folder / name / "sweep.json").read_text("utf-8")) == json.loads(stdout)
    assert "trained and kept; the same command goes on from there" in stderr
    assert checkpoints(folder / name).items() <= expected.items()
