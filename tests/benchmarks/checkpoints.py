"""Hundreds of small checkpoints: time for each beyond its measures, and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from problem import Setting
from report import Bar, Section

from sharpcli import MeasureSettings, measure_checkpoints
from sharpcli.checkpoint import load_checkpoint, save_checkpoint
from sharpcli.documents.results import dumps, to_document
from sharpcli.render.formats import format_of

NAME = "checkpoints"
_ROOT = Path(__file__).parents[2]
_MEASURES = ("loss", "hessian")
_KILLED = ("loss", "gradient")  # fast ones, so that many are finished in a short time
_NOISE = 1e-3  # of each tensor's standard deviation
_MOST_SECONDS = 0.10
_KILLS = 5


@dataclass(frozen=True)
class _Killed:
    kept: int  # checkpoints in the file when the run was killed
    again: int  # of these, those that the next run measured again
    right: bool  # the result holds all checkpoints, and nothing is left behind


def run(setting: Setting) -> Section:
    count, kills = (6, 1) if setting.quick else (200, _KILLS)
    section = Section(
        NAME,
        "Hundreds of checkpoints",
        f"`sharp measure -m loss -m hessian` of {count} checkpoints of digits: one training, and "
        "copies with a little noise. Beyond the measures is the wall time of all (reading task, "
        "data and checkpoints, checks, pairs, table and JSON) less the sum of the measures' own "
        "`seconds`, in which the products are. Killed runs (`-m loss -m gradient`) end by SIGKILL "
        "at a random moment and are repeated; a checkpoint was measured again if its `seconds` are "
        "not those that the killed run wrote.",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder, count)
        beyond, measuring = _beyond(folder)
        found = [_killed(folder, count, random.Random(seed)) for seed in range(kills)]
    again, right = sum(each.again for each in found), sum(each.right for each in found)
    kept = ", ".join(str(each.kept) for each in found)
    section.tables.append(
        (
            "",
            ("checkpoints", "s each in measures", "s each beyond", "finished at the kills"),
            [(str(count), f"{measuring:.3f}", f"{beyond:.3f}", kept)],
        )
    )
    section.bars += [
        Bar(
            "seconds for each checkpoint beyond its measures",
            f"{beyond:.3f}",
            f"≤ {_MOST_SECONDS}",
            beyond <= _MOST_SECONDS,
        ),
        Bar("finished checkpoints measured again", str(again), "0", again == 0),
        Bar(
            "killed runs that the same command completed",
            f"{right} of {kills}",
            f"{kills} of {kills}",
            right == kills,
        ),
    ]
    return section


def _make(folder: Path, count: int) -> None:
    """Train one checkpoint, and save copies with noise."""
    _sharp(folder, "train", "digits", "--steps", "200", "--output", "base.safetensors").wait()
    base = load_checkpoint(folder / "base.safetensors")
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        noisy = {
            name: tensor
            + _NOISE * float(tensor.std()) * torch.randn(tensor.shape, generator=generator)
            for name, tensor in base.tensors.items()
        }
        save_checkpoint(folder / f"run-{index:03}.safetensors", noisy, base.metadata)


def _beyond(folder: Path) -> tuple[float, float]:
    """Seconds for each checkpoint beyond its measures, and in them."""
    paths = sorted(folder.glob("run-*.safetensors"))
    started = time.perf_counter()
    report = measure_checkpoints(paths, settings=MeasureSettings(measures=_MEASURES))
    document = to_document(report)
    format_of("table").text(document, None, False)
    dumps(document)
    whole = time.perf_counter() - started
    measuring = sum(sum(_seconds(result).values()) for result in document["results"])
    return (whole - measuring) / len(paths), measuring / len(paths)


def _killed(folder: Path, count: int, chosen: random.Random) -> _Killed:
    """Kill a run at a random moment after a random number of checkpoints, and repeat it."""
    output, partial = folder / "result.json", folder / "result.json.partial"
    output.unlink(missing_ok=True)
    command = (
        "measure",
        *(f"run-{index:03}.safetensors" for index in range(count)),
        *(part for name in _KILLED for part in ("-m", name)),
        *("--output", output.name),
    )
    wanted = chosen.randrange(1, count - 1)
    process = _sharp(folder, *command)
    while process.poll() is None and len(_recorded(partial)) < wanted:
        time.sleep(0.01)
    time.sleep(chosen.uniform(0, 0.5))
    process.kill()
    process.wait()
    kept = _recorded(partial)
    ended = _sharp(folder, *command).wait()
    results = json.loads(output.read_text("utf-8"))["results"]
    now = {result["checkpoint"]["path"]: _seconds(result) for result in results}
    again = sum(now[path] != seconds for path, seconds in kept.items())
    sound = [result["status"] == "ok" for result in results]
    right = ended == 0 and len(sound) == count and all(sound) and not partial.exists()
    return _Killed(len(kept), again, right)


def _recorded(partial: Path) -> dict[str, dict[str, float]]:
    """The checkpoints that the file holds, with the seconds of their measures."""
    if not partial.exists():
        return {}
    records = [json.loads(line) for line in partial.read_bytes().split(b"\n")[:-1]]
    return {each["path"]: _seconds(each["result"]) for each in records if "result" in each}


def _seconds(result: dict[str, Any]) -> dict[str, float]:
    measures = result["measures"]
    return {name: each["seconds"] for name, each in measures.items() if "seconds" in each}


def _sharp(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sharpcli", *arguments, "--quiet"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
