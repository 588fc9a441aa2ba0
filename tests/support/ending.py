"""Commands that are ended at chosen moments, and what they leave: their output old or complete.

The task writes a line to a log for every forward pass, with a digest of the parameters, so that it
can be told from outside which checkpoints a run had finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpcli.checkpoint import load_checkpoint, save_checkpoint
from sharpcli.runtime import interruption

ROOT = Path(__file__).parents[2]
TASK = """
import hashlib
import os
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

def data(split):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 4, generator=generator)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()

def predict(model, batch):
    seen = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        seen.update(parameter.detach().numpy().tobytes())
    with open(os.environ["SHARP_TEST_LOG"], "a") as file:
        file.write(seen.hexdigest() + "\\n")
    return model(batch[0])
"""
_MODELS = ("a.safetensors", "b.safetensors")
COMMANDS: dict[str, tuple[str, ...]] = {
    "measure": ("measure", *_MODELS, "-m", "loss", "-m", "hessian", "-k", "2"),
    "train": ("train", "--epochs", "20"),
    "interpolate": ("interpolate", *_MODELS, "--points", "41"),
    "landscape": ("landscape", _MODELS[0], "--points", "7"),
    "spectrum": ("spectrum", *_MODELS, "--probes", "2", "--steps", "10"),
}
PART = ".sharp.part"
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}
# What a signal does to the interpreter before `sharp` has been imported.
_BARE = {signal.SIGTERM: -15, signal.SIGINT: -2}


@dataclass
class Ended:
    """What came of one run that was sent a signal: `wrong` holds all that should not be."""

    code: int
    stderr: str
    wrong: list[str] = field(default_factory=list)
    replaced: bool = False  # the output is the run's own, complete
    finished: bool = False  # a checkpoint was finished and the output was not written yet
    kept: int = 0  # finished checkpoints in the interrupted result


def prepare(folder: Path) -> None:
    """Write the task and two checkpoints."""
    (folder / "task.py").write_text(TASK, "utf-8")
    for seed, name in enumerate(_MODELS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        save_checkpoint(folder / name, model.state_dict(), {})


def output_of(name: str) -> str:
    return "out.safetensors" if name == "train" else "out.json"


def command_of(name: str) -> list[str]:
    form = [] if name == "train" else ["--json"]
    return [*COMMANDS[name], "-t", "task.py", *form, "--output", output_of(name)]


def complete(path: Path) -> bool:
    """Whether a file is a whole checkpoint, or a document of a run that was not interrupted."""
    if path.suffix == ".safetensors":
        return bool(load_checkpoint(path).tensors)
    document = json.loads(path.read_text("utf-8"))
    return all(result["status"] == "ok" for result in document["results"])


def spawned(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start `sharp` in an interpreter of its own."""
    with (folder / "stderr").open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "sharpcli", *arguments],
            cwd=folder,
            env=_environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


class Forked:
    """`sharp` in a fork of this process, which has PyTorch loaded: a run then takes half a second.

    As much of `subprocess.Popen` as is needed.
    """

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.returncode: int | None = None
        # The handlers come with the first import of `sharp`: a signal before it waits for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BARE)
        self.pid = os.fork()
        if self.pid != 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BARE)
        else:
            try:
                self._run(folder, arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)

    def _run(self, folder: Path, arguments: list[str]) -> None:
        os.chdir(folder)
        os.environ.update(_environment(folder))
        for number, path in ((1, os.devnull), (2, "stderr")):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["sharp", *arguments]
        # A command that ended in this process before the fork has left its marks.
        interruption._installed = interruption._begun = interruption._finished = False
        interruption._deferring = interruption._holding = False
        code: Any = 0
        try:
            from sharpcli.cli.start import main

            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BARE)
            main()
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.001)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


Start = Callable[[Path, list[str]], Any]


def undisturbed(folder: Path, name: str, start: Start = spawned) -> float:
    """Run a command to its end, so that its output is there; the seconds it took."""
    (folder / "log").write_text("")
    started = time.monotonic()
    code = start(folder, command_of(name)).wait()
    assert code == 0, (folder / "stderr").read_text()
    assert complete(folder / output_of(name))
    return time.monotonic() - started


def ended(
    folder: Path,
    name: str,
    number: signal.Signals,
    moment: float | None,
    start: Start = spawned,
) -> Ended:
    """Start a command and send it a signal: after `moment` seconds, or, None, while it writes."""
    target = folder / output_of(name)
    old = target.read_bytes()
    (folder / "log").write_text("")
    before = {path.name for path in folder.iterdir()}
    process = start(folder, command_of(name))
    if moment is None:
        _wait_for_write(process, folder / f".{target.name}.new{PART}")
    else:
        time.sleep(moment)
    process.send_signal(number)
    found = Ended(process.wait(), (folder / "stderr").read_text("utf-8", "replace"))
    found.replaced = target.read_bytes() != old
    if not complete(target):
        found.wrong.append(f"{target.name} is not complete")
    allowed = {0, 128 + number, _BARE.get(number, -9)} if number != signal.SIGKILL else {0, -9}
    if found.code not in allowed:
        found.wrong.append(f"exit code {found.code}: {found.stderr[-300:]}")
    bare = found.code == _BARE.get(number)
    for bad in () if bare else ("Traceback", "correct the task", "bug in sharp"):
        if bad in found.stderr:
            found.wrong.append(f"stderr: {found.stderr[-300:]}")
    new = sorted({path.name for path in folder.iterdir()} - before)
    interrupted = [each for each in new if ".interrupted" in each]
    if name in ("measure", "spectrum") and found.code == 128 + number:
        _check_kept(folder, interrupted, found)
    for each in interrupted:
        if each not in found.stderr:
            found.wrong.append(f"{each} is not named")
        (folder / each).unlink()
    journal = {f"{target.name}.partial"}  # the same command goes on from it, and removes it
    parts = {f".{target.name}{PART}", f".{target.name}.new{PART}"}
    allowed_new = journal | (parts if number == signal.SIGKILL else set())
    if left := set(new) - set(interrupted) - allowed_new:
        found.wrong.append(f"left behind: {sorted(left)}")
    return found


def next_start(folder: Path) -> list[str]:
    """Start another short run in the folder; the parts that are there after it."""
    arguments = ["inspect", "a.safetensors", "--json", "--output", "next.json"]
    assert Forked(folder, arguments).wait() == 0, (folder / "stderr").read_text()
    (folder / "next.json").unlink()
    return [path.name for path in folder.iterdir() if path.name.endswith(PART)]


def _check_kept(folder: Path, interrupted: list[str], found: Ended) -> None:
    """A checkpoint was finished if passes with the next one's parameters were logged."""
    digest = hashlib.sha256()
    for _, tensor in sorted(load_checkpoint(folder / _MODELS[1]).tensors.items()):
        digest.update(tensor.numpy().tobytes())
    logged = digest.hexdigest() in (folder / "log").read_text()
    found.finished = logged and not found.replaced
    if not found.finished:
        return
    if not interrupted:
        found.wrong.append("a finished checkpoint is lost")
        return
    results = json.loads((folder / interrupted[0]).read_text("utf-8"))["results"]
    found.kept = sum(result["status"] == "ok" for result in results)
    if not found.kept:
        found.wrong.append("a finished checkpoint is not in the interrupted result")


def _wait_for_write(process: Any, part: Path) -> None:
    """Until the file with the new content has some of it."""
    while process.poll() is None:
        try:
            if part.stat().st_size > 0:
                return
        except FileNotFoundError:
            pass


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SHARP_TEST_LOG": str(folder / "log"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
