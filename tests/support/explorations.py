"""Checkpoints to explore, runners of the two commands, and plain PyTorch to hold them against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator
from minima import hear_interrupts
from torch import Tensor, nn

from sharpcli.checkpoint import load_checkpoint, save_checkpoint
from sharpcli.cli.main import sharp
from sharpcli.tasks import Task, load_task

ROOT = Path(__file__).parents[2]
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "schema.json").read_text("utf-8")))
NAMES = ("a.safetensors", "b.safetensors", "c.safetensors")
MLP = {"width": "8", "depth": "2"}
CNN = {"model": "cnn", "batch_norm": "true", "width": "4", "depth": "2"}


def run(*arguments: str, width: int = 100, **environment: str) -> Result:
    """Run `sharp` in this process, on a screen of `width` columns."""
    runner = CliRunner(env={"COLUMNS": str(width), **environment})
    return runner.invoke(sharp, list(arguments))


def found_by(*arguments: str) -> dict[str, Any]:
    """The one result of a command that succeeds, from strict JSON and with nothing on stderr."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    document = strict(done.stdout)
    (result,) = document["results"]
    return result


def strict(text: str) -> dict[str, Any]:
    """Parse a document: JSON that has no NaN and no Infinity, and that fits the schema."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(text, parse_constant=refuse)
    SCHEMA.validate(document)
    return document


def spawn(
    *arguments: str, folder: Path, limit_bytes: int | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Start `sharp` as a process of its own, on one thread; files may be limited in size."""
    limited = f"ulimit -f {limit_bytes // 1024}; " if limit_bytes else ""
    return subprocess.Popen(
        ["bash", "-c", f'{limited}exec "$@"', "", sys.executable, "-m", "sharpcli", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )


def train(folder: Path, options: Mapping[str, str]) -> None:
    """Train `NAMES` on digits for two epochs: three minima of one network, of three seeds."""
    pairs = [word for name, value in options.items() for word in ("-O", f"{name}={value}")]
    for seed, name in enumerate(NAMES):
        chosen = ("--epochs", "2", "--seed", str(seed), "--output", str(folder / name))
        done = run("train", "digits", *pairs, *chosen, "--quiet")
        assert done.exit_code == 0, done.output


def digits(options: Mapping[str, str]) -> Task:
    return load_task("digits", options)


def state(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors in float64."""
    tensors = load_checkpoint(path).tensors
    return {k: t.double() if t.is_floating_point() else t for k, t in tensors.items()}


def combined(*weighted: tuple[float, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weighted sum of state dicts: floats summed, integers the first one's."""
    (_, first), *_ = weighted
    return {
        name: sum((w * s[name] for w, s in weighted), torch.zeros_like(tensor))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


def plain(task: Task, tensors: Mapping[str, Tensor], split: str) -> tuple[float, float]:
    """Loss and accuracy by PyTorch alone, in float64 and evaluation mode."""
    model = task.model().double().eval()
    model.load_state_dict(tensors)
    return _evaluated(model, task, split)


def recalibrated(task: Task, tensors: Mapping[str, Tensor], split: str) -> tuple[float, float]:
    """As `plain`, with running statistics of one training pass over all training data."""
    model = task.model().double().train()
    model.load_state_dict(tensors)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model(_data(task, "train")[0])
    return _evaluated(model.eval(), task, split)


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_checkpoint(path, dict(tensors), {})


def _data(task: Task, split: str) -> tuple[Tensor, Tensor]:
    inputs, classes = task.data(split)
    return inputs.double(), classes


def _evaluated(model: nn.Module, task: Task, split: str) -> tuple[float, float]:
    inputs, classes = _data(task, split)
    with torch.no_grad():
        outputs = model(inputs)
    right = (outputs.argmax(1) == classes).double().mean()
    return float(nn.functional.cross_entropy(outputs, classes)), float(right)


Reference = Callable[[Task, Mapping[str, Tensor], str], tuple[float, float]]
