"""Peak memory of five eigenvalues and of a density, and how well a bound on it is held."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from problem import Setting
from report import Bar, Section

NAME = "memory"
_TOP = 5
_EXAMPLES = 16
_COPIES_BESIDE = 6
_OFF = 0.1
_MEGABYTE = 10**6
# A density of two probes: so many steps in so many copies of the parameters.
_STEPS, _DENSITY_COPIES = 16, 32

_PROGRAM = """
import json, sys
from pathlib import Path

from sharpcli import measuring, spectra
from sharpcli.progress import Notes
from sharpcli.settings.curvature import CurvatureSettings, SpectrumSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings

checkpoint, task, memory, steps, top = *sys.argv[1:3], *map(int, sys.argv[3:])


def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])


seen = {}


def detail(text):
    if "basis" in text:
        seen["said"] = text
        seen["loaded"], seen["peak_loading"] = status("VmRSS"), status("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here


curvature = CurvatureSettings(memory=memory or None)
run, notes = RunSettings(device="cpu"), Notes(detail=detail)
seen["imported"] = status("VmRSS")
if steps:
    settings = SpectrumSettings(probes=2, steps=steps, curvature=curvature)
    report = spectra.spectra_of_checkpoints(
        [checkpoint], task, {}, run, settings, notes=notes
    )
    found = vars(report.results[0])
else:
    settings = MeasureSettings(("hessian",), top=top, curvature=curvature)
    report = measuring.measure_checkpoints([checkpoint], task, {}, run, settings, notes=notes)
    (result,) = report.results
    found = {"error": result.error} if result.error else result.measures["hessian"]
seen["peak"] = status("VmHWM")
if found.get("error"):
    sys.exit(str(found["error"]))
seen |= {key: found[key] for key in ("products", "seconds")}
print(json.dumps(seen))
"""

_TASK = """
import torch
from torch import nn


def model():
    sizes = [784, *[{width}] * 5, 10]
    layers = []
    for left, right in zip(sizes[:-1], sizes[1:]):
        layers += [nn.utils.skip_init(nn.Linear, left, right), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def data(split):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand({examples}, 784, generator=generator)
    return inputs, torch.randint(10, ({examples},), generator=generator)
"""


def run(setting: Setting) -> Section:
    width = 500 if setting.quick else 4900
    section = Section(
        NAME,
        "Memory",
        f"The {_TOP} largest eigenvalues and the smallest of a 784-{width}×5-10 network with "
        f"{_EXAMPLES} examples, `sharp measure -m hessian` on a CPU, float32, at its random start, "
        f"and its spectral density, `sharp spectrum --probes 2 --steps {_STEPS}`: peak resident "
        "memory, from the kernel. A copy is as many bytes as the parameters have. "
        "In all: from before the checkpoint is read, so with the checkpoint, the model and θ. "
        "Solving: from where all is loaded and checked, which is what `--memory` bounds.",
    )
    rows = []
    bars = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, task, copy = _prepare(Path(folder), width)
        for steps, copies in ((0, None), (0, 27), (_STEPS, _DENSITY_COPIES)):
            memory = 0 if copies is None else copies * copy
            seen = _measured(checkpoint, task, memory, steps)
            basis = int(seen["said"].split("a basis of ")[1].split()[0])
            held = min(basis, seen["products"])
            whole = (seen["peak"] - seen["imported"]) / copy
            loading = (seen["peak_loading"] - seen["imported"]) / copy
            solving = (seen["peak"] - seen["loaded"]) / copy
            name = "what is free" if copies is None else f"{memory / _MEGABYTE:.0f} MB"
            what = "density" if steps else "eigenvalues"
            rows.append(
                (
                    what,
                    name,
                    "" if copies is None else copies,
                    held,
                    seen["products"],
                    f"{seen['seconds']:.0f}",
                    f"{whole:.1f}",
                    f"{solving:.1f}",
                    f"{loading:.1f}",
                )
            )
            limit = held + (1 if steps else 2) + _COPIES_BESIDE
            bars.append(
                Bar(
                    f"copies in all, {what}, --memory {name}",
                    f"{whole:.1f}",
                    f"≤ {limit} (basis + {_COPIES_BESIDE})",
                    whole <= limit,
                )
            )
            if copies is not None:
                over = solving / copies
                bars.append(
                    Bar(f"{what}, of --memory {name}", f"{over:.2f}", "≤ 1.10", over <= 1 + _OFF)
                )
    header = (
        "",
        "--memory",
        "copies",
        "rows of the basis",
        "products",
        "seconds",
        "copies in all",
        "copies solving",
        "copies at most before",
    )
    title = f"{copy // 4:,} parameters, {copy / _MEGABYTE:.0f} MB a copy"
    section.tables.append((title, header, rows))
    section.bars += bars
    return section


def _prepare(folder: Path, width: int) -> tuple[Path, Path, int]:
    import torch

    from sharpcli.checkpoint import save_checkpoint

    task = folder / "task.py"
    task.write_text(_TASK.format(width=width, examples=_EXAMPLES))
    sizes = [784, *[width] * 5, 10]
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index, (left, right) in enumerate(itertools.pairwise(sizes)):
        weight = torch.randn(right, left, generator=generator) * (2 / left) ** 0.5
        tensors[f"{2 * index}.weight"], tensors[f"{2 * index}.bias"] = weight, torch.zeros(right)
    path = folder / "large.safetensors"
    save_checkpoint(path, tensors, {})
    return path, task, 4 * sum(tensor.numel() for tensor in tensors.values())


def _measured(checkpoint: Path, task: Path, memory: int, steps: int) -> dict[str, Any]:
    numbers = (str(memory), str(steps), str(_TOP))
    program = [sys.executable, "-c", _PROGRAM, str(checkpoint), str(task), *numbers]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
