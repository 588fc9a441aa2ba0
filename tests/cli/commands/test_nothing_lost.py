"""Interrupts, full disks and closed streams: what is finished is kept, and one line says where."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ending import ROOT, SIGNALS, ended, prepare, undisturbed
from explorations import run, spawn, strict
from minima import hear_interrupts, tensors, write_minima

QUICK = ("measure", "sgd.safetensors", "-t", "task.py", "-m", "loss", "--json")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SHARP_TASK", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    made = tmp_path_factory.mktemp("measured")
    prepare(made)
    undisturbed(made, "measure")
    return made


def shell(line, **options):
    """A line of bash in which `sharp` is this package's."""
    done = subprocess.run(
        ["bash", "-c", f'sharp() {{ "{sys.executable}" -m sharpcli "$@"; }}; {line}'],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        **options,
    )
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    return done


# Signals.


@pytest.mark.parametrize("name", ["SIGKILL", "Ctrl-C"])
def test_a_signal_during_the_write_leaves_the_output_old_or_complete(measured, name):
    found = ended(measured, "measure", SIGNALS[name], None)
    assert found.wrong == []


SLOW_SECOND = """
import os, time

def predict(model, batch):
    if model[0].weight.detach().abs().max() > LARGEST:
        open("second", "w").close()
        time.sleep(60)
    return model(batch[0])
"""


def test_an_interrupted_run_writes_beside_an_earlier_result(folder):
    largest = float(tensors()["0.weight"].abs().max()) * 1.2
    slow = SLOW_SECOND.replace("LARGEST", str(largest))
    Path("task.py").write_text(Path("task.py").read_text() + slow)
    Path("out.json").write_text("earlier")
    both = (QUICK[0], "sgd.safetensors", "adam.safetensors", *QUICK[2:])
    process = spawn(*both, "--output", "out.json", folder=folder)
    while not Path("second").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (143, "")
    assert "out.json is unchanged; this run's result is in out.interrupted.json\n" in stderr
    assert Path("out.json").read_text() == "earlier"
    results = strict(Path("out.interrupted.json").read_text("utf-8"))["results"]
    assert [result["status"] for result in results] == ["ok", "failed"]
    assert results[1]["error"]["message"].startswith("interrupted")
    assert not list(folder.glob(".*"))


# An import that turns an interrupt into its own error, as some packages do.

BRITTLE = """
import time
try:
    open("importing", "w").close()
    time.sleep(30)
except BaseException:
    raise ImportError("the installation is broken") from None
"""


def test_an_interrupt_within_an_import_is_an_interrupt(folder):
    Path("brittle.py").write_text(BRITTLE)
    Path("task.py").write_text("import brittle\n" + Path("task.py").read_text())
    process = spawn(*QUICK, "--output", "out.json", folder=folder)
    while not Path("importing").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (130, "", "Interrupted.\n")
    assert not [path for path in folder.iterdir() if "out.json" in path.name]


# Outputs and streams that take nothing.


def test_an_interrupt_that_python_drops_comes_again():
    code = """
import signal, time
from sharpcli.runtime import interruption
interruption.install()
interruption.begin()
class Loud:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
try:
    Loud()
    time.sleep(10)
except KeyboardInterrupt:
    print("came", interruption.exit_code())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("came 143\n", "")


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_a_result_that_cannot_be_printed_is_kept(folder, where):
    assert run(*QUICK, "--output", "r.json").exit_code == 0
    done = shell(f"sharp compare r.json --quiet --json {where}", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 2
    assert "standard output: cannot be written" in done.stderr
    kept = Path("cache/sharpcli/rescued/compare.json")
    assert str(kept) in done.stderr
    assert strict(kept.read_text("utf-8"))["kind"] == "compare"


def test_what_took_work_is_kept_when_the_reader_has_left(folder):
    done = shell(f"set -o pipefail; sharp {' '.join(QUICK)} | true", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 2
    kept = Path("cache/sharpcli/rescued/measure.json")
    assert str(kept) in done.stderr
    assert strict(kept.read_text("utf-8"))["results"][0]["status"] == "ok"


@pytest.mark.parametrize("command", ["--help", "measure --help", "tasks"])
def test_a_full_stdout_is_one_line(folder, command):
    """Also of what is larger than a block, which Python writes at once and does not keep."""
    done = shell(f"unset PYTHONUNBUFFERED; sharp {command} >/dev/full", cwd=folder)
    assert (done.returncode, done.stderr) == (
        1,
        "Error: standard output: cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize(
    "command",
    [
        " ".join(QUICK),
        "train task.py --epochs 1 --json",
        "interpolate sgd.safetensors adam.safetensors -t task.py --points 4 --json",
        "spectrum sgd.safetensors -t task.py --json",
    ],
)
def test_what_a_task_prints_is_no_part_of_the_result(folder, command):
    printing = (
        "\nprint('imported')\n_data = data\ndef data(split): print('read'); return _data(split)"
    )
    Path("task.py").write_text(Path("task.py").read_text() + printing)
    done = run(*command.split())
    assert done.exit_code == 0
    assert strict(done.stdout)["schema"] == "sharpcli/1"
    assert done.stderr.startswith("imported\nread\n")


def test_a_stderr_that_takes_nothing_ends_no_run(folder):
    assert run(*QUICK, "nothing.safetensors", "--output", "r.json").exit_code == 1
    done = shell("sharp compare r.json --json 2>/dev/full", cwd=folder)
    assert done.returncode == 0
    assert strict(done.stdout)["kind"] == "compare"


def test_an_output_that_the_command_reads_is_refused(folder):
    for arguments in (
        (*QUICK, "--output", "sgd.safetensors"),
        (*QUICK, "--output", "./task.py"),
        ("compare", "task.py", "--output", "task.py"),
        ("train", "task.py", "--output", "task.py"),
    ):
        before = Path(arguments[-1]).read_bytes()
        done = run(*arguments)
        assert done.exit_code == 2
        assert "which is read here" in done.stderr
        assert Path(arguments[-1]).read_bytes() == before
    done = run("spectrum", "sgd.safetensors", "--output", "a.png", "--plot", "a.png")
    assert "--plot a.png: would overwrite the file of --output" in done.stderr


@pytest.mark.parametrize("output", ["/dev/null", "/dev/stdout", "pipe"])
def test_a_checkpoint_goes_to_a_file(folder, output):
    os.mkfifo("pipe")
    done = run("train", "task.py", "--output", output)
    assert done.exit_code == 1
    assert done.stderr.startswith(
        f"Error: {output}: a checkpoint is a file, not a device or a pipe"
    )


# A sign of life.


def on_a_terminal(folder, *arguments):
    """What a run writes to a terminal first, after what share of its time, and all of it."""
    ours, theirs = pty.openpty()
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "sharpcli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=hear_interrupts,
    )
    os.close(theirs)
    parts, seconds = [], None
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        seconds = seconds or time.monotonic() - started
        parts.append(part.decode())
    process.wait()
    os.close(ours)
    return parts[0], seconds / (time.monotonic() - started), "".join(parts)


def test_a_command_that_loads_pytorch_says_so_at_once_and_takes_it_back(folder):
    first, share, everything = on_a_terminal(folder, "inspect", "sgd.safetensors")
    assert first == "sharp inspect: loading PyTorch …"
    assert share < 0.5
    assert everything.startswith(f"{first}\r\x1b[K\r\n")
    assert everything.count("\x1b[K") == 1


@pytest.mark.parametrize("arguments", [("inspect", "--help"), ("tasks",)])
def test_a_command_without_pytorch_says_nothing_of_it(folder, arguments):
    assert "PyTorch …" not in on_a_terminal(folder, *arguments)[2]
