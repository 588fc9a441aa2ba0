"""`torchrun -m sharpcli`: the same numbers from two processes, one voice, and one end for both."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback

import pytest
import torch
from click.testing import CliRunner
from minima import tensors

from sharpcli.checkpoint import save_checkpoint
from sharpcli.cli.main import sharp

TASK = """
import os
import torch
from torch import nn

def model(norm: bool = False):
    between = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(4, 8), *between, nn.Tanh(), nn.Linear(8, 3))

def data(split, broken: bool = False):
    if broken and os.environ.get("RANK") == "1":
        raise OSError("disk 7 is gone")
    generator = torch.Generator().manual_seed(0 if split == "train" else 1)
    inputs = torch.randn(301 if split == "train" else 77, 4, generator=generator)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    for name, scale in (("a", 1.0), ("b", 0.6)):
        save_checkpoint(tmp_path / f"{name}.safetensors", tensors(scale), {"seed": "0"})
        torch.manual_seed(ord(name))
        normed = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        )
        save_checkpoint(tmp_path / f"norm-{name}.safetensors", normed.state_dict(), {})
    return tmp_path


def started(folder, processes, *words):
    """What `sharp` prints on that many processes, each with one thread."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "sharpcli", *words, "-t", "task.py"]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SHARP_", "TORCH"))},
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def forked(folder, *words):
    """What `sharp` prints on two processes, as torchrun would start them: forks with torch loaded.

    Returns:
        The exit codes, and what both wrote to stdout and stderr together.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(120)  # two that wait for each other end
                os.chdir(folder)
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
                for number, name in ((1, "stdout"), (2, "stderr")):
                    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                sharp.main([*words, "-t", "task.py"], prog_name="sharp")
            except SystemExit as end:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(int(end.code or 0))
            except BaseException:
                traceback.print_exc()
            os._exit(99)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return codes, (folder / "stdout").read_text("utf-8"), (folder / "stderr").read_text("utf-8")


def numbers(node, path=""):
    """Every float of a result but the times, by its place."""
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    else:
        return {path: node} if isinstance(node, float) and "seconds" not in path else {}
    return {k: v for key, value in items for k, v in numbers(value, f"{path}.{key}").items()}


def assert_same(one, two):
    one, two = (numbers(json.loads(text)["results"]) for text in (one, two))
    assert one.keys() == two.keys()
    scale = max(map(abs, one.values()))
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=1e-6, abs=1e-12 * scale), key


@pytest.mark.parametrize(
    "words",
    [
        ("measure", "a.safetensors", "--samples", "200"),
        ("measure", "a.safetensors", "-m", "loss", "-m", "hessian", "-m", "trace", "--by", "layer"),
        ("spectrum", "a.safetensors", "--samples", "200", "--probes", "2", "--steps", "8"),
        ("interpolate", "a.safetensors", "b.safetensors", "--points", "5"),
        ("landscape", "a.safetensors", "--points", "3"),
        (
            *("interpolate", "norm-a.safetensors", "norm-b.safetensors", "-O", "norm=true"),
            *("--points", "5", "--path", "bezier", "--path-steps", "20"),
        ),
        ("measure", "norm-a.safetensors", "-O", "norm=true", "-m", "loss", "--fixed-batch", "40"),
    ],
    ids=" ".join,
)
def test_two_processes_give_the_numbers_of_one_and_speak_once(folder, words):
    words = (*words, "--json", "--dtype", "float64")
    codes, stdout, stderr = forked(folder, *words)
    with contextlib.chdir(folder):
        one = CliRunner().invoke(sharp, [*words, "-t", "task.py"])
    assert (one.exit_code, *codes) == (0, 0, 0), stderr
    assert_same(one.stdout, stdout)
    said = [line for line in stderr.splitlines() if line.startswith(("note:", "warning:"))]
    expected = [line for line in one.stderr.splitlines() if line.startswith(("note:", "warning:"))]
    assert said == expected


def test_the_first_process_alone_writes_files(folder):
    done = started(
        folder, 2, "interpolate", "a.safetensors", "b.safetensors", "--points", "5",
        "--output", "line.json", "--json", "--plot", "line.npz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert json.loads((folder / "line.json").read_text())["kind"] == "interpolate"
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("line")) == [
        "line.json", "line.npz",
    ]  # fmt: skip


def test_a_process_that_fails_ends_all_with_its_message(folder):
    done = started(folder, 2, "measure", "a.safetensors", "-O", "broken=true")
    assert done.returncode != 0
    assert "process 1 of 2: " in done.stderr
    assert "disk 7 is gone" in done.stderr
    assert "This is a bug" not in done.stderr
    assert done.stdout == ""


def test_what_all_find_wrong_is_said_once(folder):
    done = started(folder, 2, "measure", "missing.safetensors", "--device", "cpu", "--top", "0")
    assert done.returncode != 0
    assert done.stderr.count("Invalid value for '--top'") == 1


def test_one_process_needs_no_torchrun():
    from sharpcli.runtime import processes

    assert (processes.rank(), processes.size(), processes.is_first()) == (0, 1, True)
    tensor = torch.ones(3)
    assert processes.add_up(tensor) is tensor
    assert processes.share({"a": 1}) == {"a": 1}
    assert processes.share_of(10) == (0, 10)


def test_shares_cover_all_examples_once(monkeypatch):
    from sharpcli.runtime import processes

    monkeypatch.setenv("WORLD_SIZE", "7")
    parts = []
    for rank in range(7):
        monkeypatch.setenv("RANK", str(rank))
        parts += range(*processes.share_of(301))
    assert parts == list(range(301))
