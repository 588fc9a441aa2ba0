"""What chromium says of the page of `sharp report`: its console, its requests, its width."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from problem import Setting
from report import Bar, Section

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import CHROMIUM, browser

NAME = "report"
_WIDTHS = (360, 1440)
_OUTSIDE = """[...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.wide, pre, svg'))
  .length"""
# One document of every kind that a report shows, and a sweep's folder.
_COMMANDS = (
    "train digits -O width=16 --epochs {epochs} --batch-size 16 --output a.safetensors",
    "train digits -O width=16 --epochs {epochs} --batch-size 256 --output b.safetensors",
    "measure a.safetensors b.safetensors -m loss -m hessian --json --output measure.json",
    "interpolate a.safetensors b.safetensors --json --output line.json",
    "landscape a.safetensors --points {points} --json --output plane.json",
    "spectrum a.safetensors b.safetensors --steps {steps} --json --output spectrum.json",
    "compare measure.json --by batch_size --json --output compare.json",
    "schedule cosine(0.1,steps=100) --steps 100 --json --output schedule.json",
    "inspect a.safetensors --json --output inspect.json",
    "sweep sweep.toml --output runs",
    "search search.toml --output found",
)
_SWEEP = """task = "digits"
options = { width = 16 }
[fixed]
epochs = 1
[grid]
optimizer = ["sgd", "adam"]
batch_size = [16, 256]
seed = [0, 1]
[measure]
measures = ["loss", "hessian"]
"""
_SEARCH = """task = "digits"
options = { width = 16 }
trials = 3
[fixed]
epochs = 1
[search]
lr = { low = 0.001, high = 0.1, scale = "log" }
"""
_SLOW = ("sweep", "search", "spectrum")  # left out where only the benchmark itself is tried
_PAGE = (
    "measure.json line.json plane.json spectrum.json compare.json schedule.json inspect.json "
    "a.safetensors.curves.json runs found"
)


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "The report page in a browser",
        "One page with a result of every kind, opened from its file by a headless chromium at the "
        "width of a phone and of a desk, light and dark.",
    )
    if CHROMIUM is None:
        section.notes.append("There is no chromium here: nothing was measured.")
        return section
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        page, kinds = _page(Path(folder), setting)
        rows, errors, requests, wide = [], 0, 0, 0
        for width in _WIDTHS:
            for dark in (False, True):
                seen = chromium.look(page, width, dark=dark, script=_OUTSIDE, wait=0.5)
                rows.append(
                    (
                        f"{width} px, {'dark' if dark else 'light'}",
                        str(len(seen.errors)),
                        str(len(seen.requests)),
                        f"{seen.width} px",
                        str(seen.value),
                    )
                )
                errors += len(seen.errors)
                requests += len(seen.requests)
                wide += (seen.width > width) + int(seen.value)
        size = page.stat().st_size / 1e6
    header = ("window", "errors on the console", "requests", "width needed", "elements beyond it")
    section.tables.append((f"{len(kinds)} results, {size:.1f} MB", header, rows))
    section.notes.append(f"Kinds on the page: {', '.join(sorted(set(kinds)))}.")
    section.bars += [
        Bar("errors on the console", str(errors), "0", errors == 0),
        Bar("requests", str(requests), "0", requests == 0),
        Bar("beyond 360 and 1,440 px", str(wide), "0", wide == 0),
    ]
    return section


def _page(folder: Path, setting: Setting) -> tuple[Path, list[str]]:
    """The page, and the kinds of the documents on it."""
    sharp = Path(sys.executable).with_name("sharp")
    (folder / "sweep.toml").write_text(_SWEEP, "utf-8")
    (folder / "search.toml").write_text(_SEARCH, "utf-8")
    sizes = (
        {"epochs": 1, "points": 5, "steps": 20}
        if setting.quick
        else {"epochs": 20, "points": 25, "steps": 80}
    )

    def call(words: list[str]) -> None:
        command = [str(sharp), *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"

    left_out = _SLOW if setting.quick else ()
    for command in _COMMANDS:
        if command.split()[0] not in left_out:
            call(command.format(**sizes).split())
    names = [name for name in _PAGE.split() if (folder / name).exists()]
    call(["report", *names, "-o", "page.html"])
    files = [Path(name) for name in names]
    found = [
        path
        for name in files
        for path in (
            sorted((folder / name).glob("*.json")) if (folder / name).is_dir() else [folder / name]
        )
    ]
    return folder / "page.html", [json.loads(path.read_text("utf-8"))["kind"] for path in found]
