"""What benchmarks write: a page of tables for each, and one summary of all pages."""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
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

BEGIN, END = "<!-- from the pages -->", "<!-- until here -->"
_BARS = ("bar", "seen", "asked", "")


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
        """The page: text, tables, bars, notes, and the command that wrote it."""
        parts = [f"# {self.title}", self.text]
        for title, header, rows in self.tables:
            parts += [*([f"**{title}**"] if title else []), _table(header, rows)]
        if self.bars:
            rows = [(b.what, b.seen, b.asked, "met" if b.met else "**missed**") for b in self.bars]
            parts.append(_table(_BARS, rows))
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        parts.append(f"`--only {self.name}`, {self.seconds:.0f} s.")
        return "\n\n".join(parts)


def write(section: Section, folder: Path, device: torch.device) -> None:
    """Write one benchmark's page, and the summary's table in the page beside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{section.name}.md"
    page.write_text(f"{section.markdown()}\n\n{machine(device)}\n", "utf-8")
    summary = folder.with_suffix(".md")
    if summary.exists():
        summary.write_text(summarised(summary.read_text("utf-8"), folder), "utf-8")


def summarised(text: str, folder: Path) -> str:
    """`text` with the table between its marks made anew from the pages' own tables of bars."""
    rows = []
    for page in sorted(folder.glob("*.md")):
        bars = _bars(page.read_text("utf-8"))
        missed = [f"{what}: {seen} ({asked})" for what, seen, asked, met in bars if met != "met"]
        link = f"[{page.stem}]({folder.name}/{page.name})"
        met = f"{len(bars) - len(missed)} of {len(bars)}" if bars else ""
        rows.append((link, met, "; ".join(missed)))
    table = _table(("page", "bars met", "missed: seen (asked)"), rows)
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def _bars(page: str) -> list[list[str]]:
    """The rows of a page's table of bars: what, seen, asked, "met" or not."""
    lines = iter(page.splitlines())
    head = "| " + " | ".join(_BARS) + " |"
    if head not in lines:
        return []
    next(lines)
    cells = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return list(itertools.takewhile(lambda row: len(row) == len(_BARS), cells))


def machine(device: torch.device) -> str:
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
