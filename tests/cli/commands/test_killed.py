"""Runs that are killed or interrupted: nothing that was finished is lost or computed again."""

import random
import signal
import socket
import time

import pytest
from explorations import run, spawn, strict
from killing import SIDE, killed, prepare, whole
from minima import TASK, write_minima


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("killed")
    prepare(made)
    return made


@pytest.fixture(scope="module")
def expected(folder):
    return whole(folder)


def test_an_undisturbed_run_computes_every_point_once(expected):
    assert len(expected.points) == len(set(expected.points)) == SIDE**2 - 1
    (result,) = strict(expected.result.decode())["results"]
    assert result["shape"] == [SIDE, SIDE]


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_run_goes_on_where_it_stopped(folder, expected, seed):
    chosen = random.Random(seed)
    kills = [chosen.uniform(0, expected.seconds / (2 + seed)) for _ in range(1 + seed)]
    found = killed(folder, kills, expected)
    assert found.again == 0
    assert found.in_flight <= len(kills)
    assert found.same
    assert found.finished == sorted(found.finished)
    if 0 < found.finished[-1] < SIDE**2 - 1:
        assert "points were finished by a former run" in found.stderr


# Ctrl-C.

# With a file `stop` it waits once so many lines are written, so that it never ends too early.
SLOW = (
    TASK
    + """
import os, pathlib, time

LINES = int(os.environ.get("SHARP_TEST_LINES", "0"))

def stops():
    partial = next(pathlib.Path().rglob("*.partial"), None)
    lines = 0 if partial is None else partial.read_bytes().count(b"\\n")
    return lines >= LINES and os.path.exists("stop")

def predict(model, batch):
    while LINES and stops():
        time.sleep(0.01)
    return model(batch[0])
"""
)
LINE = ("interpolate", "sgd.safetensors", "adam.safetensors", "-t", "task.py", "--points", "24")
STOPS = {"SHARP_TEST_LINES": "20"}


@pytest.fixture
def slow(tmp_path, monkeypatch):
    write_slow(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What an undisturbed run prints."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_slow(folder)
    stdout, stderr = finished(folder, "--json")
    assert stderr == ""
    return stdout


def write_slow(folder):
    write_minima(folder)
    (folder / "task.py").write_text(SLOW, "utf-8")


def finished(folder, *arguments):
    """What is on stdout and stderr of a run that ends by itself."""
    process = spawn(*LINE, *arguments, folder=folder)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stdout, stderr


def interrupted(folder, *arguments, lines=6, **environment):
    """Send Ctrl-C once the file has some lines; what is on stdout and stderr, and the file."""
    (folder / "stop").touch()
    process = spawn(*arguments, folder=folder, **environment)
    partial = None
    while process.poll() is None and (partial is None or partial.read_bytes().count(b"\n") < lines):
        time.sleep(0.01)
        partial = next(folder.rglob("*.partial"), None)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    (folder / "stop").unlink()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    return stdout, stderr, partial


def test_ctrl_c_writes_what_is_finished_and_the_same_command_goes_on(slow, undisturbed):
    output = ("--json", "--output", "out.json")
    stdout, stderr, partial = interrupted(slow, *LINE, *output, **STOPS)
    assert stdout == ""
    assert partial == slow / "out.json.partial"
    (found,) = strict((slow / "out.json").read_text("utf-8"))["results"]
    assert found["status"] == "interrupted"
    losses = found["curves"]["train"]["loss"]
    done = sum(loss is not None for loss in losses)
    assert 3 <= done < 24
    assert losses[done:] == [None] * (24 - done)
    assert stderr == (
        "wrote out.json\n"
        f"warning: interrupted after {done} of 24 points of the line; the same command goes on "
        "from there\n"
    )
    stdout, stderr = finished(slow, *output)
    said = f"note: {done} of 24 points were finished by a former run\nwrote out.json\n"
    assert (stdout, stderr) == ("", said)
    assert (slow / "out.json").read_text("utf-8") == undisturbed
    assert not partial.exists()


def test_ctrl_c_shows_what_is_finished_and_keeps_it_in_the_cache(slow, undisturbed):
    stdout, stderr, partial = interrupted(slow, *LINE, **STOPS)
    assert partial.parent == slow / "cache" / "sharpcli"
    assert "line from A to B · 24 points" in stdout
    assert "warning: interrupted after " in stderr
    stdout, stderr = finished(slow, "--json")
    assert "points were finished by a former run" in stderr
    assert stdout == undisturbed
    assert not partial.exists()


def test_ctrl_c_while_a_path_is_trained_keeps_the_line(slow):
    path = ("--path", "bezier", "--path-steps", "100000", "--json")
    stdout, stderr, _ = interrupted(slow, *LINE[:-1], "4", *path, lines=6)
    (found,) = strict(stdout)["results"]
    assert found["status"] == "interrupted"
    assert None not in found["curves"]["train"]["loss"]
    assert "path" not in found
    assert stderr == (
        "warning: interrupted before the path's training was finished; the same command goes on "
        "from there\n"
    )


def test_two_runs_at_once_on_one_output(slow):
    output = ("--json", "--output", "out.json")
    (slow / "stop").touch()
    first = spawn(*LINE, *output, folder=slow, **STOPS)
    while not (slow / "out.json.partial").exists() and first.poll() is None:
        time.sleep(0.01)
    done = run(*LINE, *output)
    (slow / "stop").unlink()
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: out.json: another run is writing to it "
        f"(process {first.pid} on {socket.gethostname()})\n"
        "  hint: wait for it to end, or write to another --output\n"
    )
    _, stderr = first.communicate()
    assert first.returncode == 0, stderr
    assert len(strict((slow / "out.json").read_text("utf-8"))["results"]) == 1
    assert not (slow / "out.json.partial").exists()
