"""The written report: what the benchmarks ran on, and one section of tables for each."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

_PACKAGES = {
    "sharpcli": "sharpcli",
    "torch": "torch",
    "NumPy": "numpy",
    "SciPy": "scipy",
    "PyHessian": "PyHessian",
    "hessian-eigenthings": "hessian-eigenthings",
    "curvlinops": "curvlinops-for-pytorch",
    "loss-landscapes": "loss-landscapes",
    "scikit-learn": "scikit-learn",
    "mlxtend": "mlxtend",
    "click": "click",
    "rich": "rich",
}

_INTRODUCTION = """\
# Benchmarks

How fast and how right `sharp` is beside other ways to the same numbers. Everything here was written
by one command, run in a checkout:

    python tests/benchmarks/run.py --output docs/benchmarks.md

It needs the peers, which are on PyPI:

    pip install '.[bench]'

That brings torchvision along, through PyHessian. It has to be the build that belongs to the torch
that is installed: beside a CPU build of torch the one from PyPI does not load. Nothing here uses
it, so `pip uninstall torchvision` is the short way out. `--only NAME` runs one benchmark, `--quick`
shrinks them to see that they run, `--threads N` fixes the threads, `--device cuda` runs them on a
GPU, `--width N` widens the large network.

Rivals run in turns in one process, on the same model and data, so a ratio compares the same minutes
of the same machine. A ratio is the median over the rounds, with the least and the most in brackets;
so are seconds. Every peer runs in whichever batch layout a pilot found fastest for it. A bar that
is missed says so.
"""


@dataclass(frozen=True)
class Bar:
    """A figure that was promised: what was seen, what is asked, and whether it is met."""

    what: str
    seen: str
    asked: str
    met: bool


@dataclass
class Section:
    """One benchmark: `text` before and `notes` after its tables of (title, header, rows)."""

    name: str
    title: str
    text: str
    tables: list[tuple[str, Sequence[str], list[Sequence[str]]]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def markdown(self) -> str:
        parts = [f"## {self.title}", self.text]
        for title, header, rows in self.tables:
            parts += [f"**{title}**", _table(header, rows)]
        if self.bars:
            rows = [(b.what, b.seen, b.asked, "met" if b.met else "**missed**") for b in self.bars]
            parts.append(_table(("bar", "seen", "asked", ""), rows))
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        parts.append(f"`--only {self.name}`, {self.seconds:.0f} s.")
        return "\n\n".join(parts)


def document(sections: Sequence[Section], device: torch.device) -> str:
    """The whole report in Markdown."""
    bars = [(s.name, b.what, b.seen, b.asked, b.met) for s in sections for b in s.bars]
    rows = [(n, w, s, a, "met" if met else "**missed**") for n, w, s, a, met in bars]
    parts = [
        _INTRODUCTION.strip(),
        _machine(device),
        "## Summary\n\n" + _table(("benchmark", "bar", "seen", "asked", ""), rows),
        *(section.markdown() for section in sections),
    ]
    return "\n\n".join(parts) + "\n"


def _machine(device: torch.device) -> str:
    versions = {"Python": platform.python_version()}
    for name, package in _PACKAGES.items():
        try:
            versions[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    gpu = [("GPU", torch.cuda.get_device_name(device))] if device.type == "cuda" else []
    rows = [
        ("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("threads", str(torch.get_num_threads())),
        *gpu,
        ("load at the end, over 1, 5 and 15 minutes", load),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return "## Machine\n\n" + _table(("", ""), rows)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
