"""Every option that writes, where it cannot: said before the work, or the result kept elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from problem import Setting
from report import Bar, Section

sys.path.append(str(Path(__file__).parents[1] / "support"))

from ending import ROOT, prepare

NAME = "unwritable"
_PAIR = ("a.safetensors", "b.safetensors", "-t", "task.py")
_LINE = ("interpolate", *_PAIR, "--points", "7", "--json")
# Each command's writing options, the place for the file left open.
_WRITERS: dict[str, tuple[str, ...]] = {
    "measure --output": ("measure", *_PAIR, "-m", "loss", "--json", "--output", "{}.json"),
    "spectrum --output": ("spectrum", *_PAIR, "--json", "--output", "{}.json"),
    "spectrum --plot": ("spectrum", *_PAIR, "--json", "--plot", "{}.png"),
    "interpolate --output": (*_LINE, "--output", "{}.json"),
    "interpolate --plot": (*_LINE, "--plot", "{}.svg"),
    "landscape --output": ("landscape", _PAIR[0], *_LINE[3:], "--output", "{}.json"),
    "landscape --plot": ("landscape", _PAIR[0], *_LINE[3:], "--plot", "{}.html"),
    "compare --output": ("compare", "measured.json", "--json", "--output", "{}.json"),
    "plot --output": ("plot", "line.json", "--json", "--output", "{}.json"),
    "plot --plot": ("plot", "line.json", "--plot", "{}.pdf"),
    "inspect --output": ("inspect", *_PAIR[:2], "--json", "--output", "{}.json"),
    "train --output": ("train", "digits", "--epochs", "1", "--output", "{}.safetensors"),
    "init FILE": ("init", "{}.py"),
    "demo --folder": ("demo", "--folder", "{}"),
}
_OUTCOMES = ("before", "kept", "written", "lost")
# It makes its folder; and it trains for a minute before it writes as `train` does.
_NOT_FOR_THE_DEMO = ("a folder that is missing", "a disk that fills up")
_QUICK = ("measure --output", "interpolate --plot", "train --output", "init FILE")


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Outputs that cannot be written",
        "Each option that writes, at places that cannot be written to. Before: refused before the "
        "task's model was run once or a file was read. Kept: the work was done, and its whole "
        "result is in a file that the message names, or on standard output. Written: there was "
        "room for it. A full disk is a tmpfs with no page left, one that fills up has a single "
        "page left; where none may be mounted, files are limited to 64 bytes instead.",
    )
    rows, lost = [], list[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for writer, output in (("measure --output", "measured"), ("interpolate --output", "line")):
            done = _sharp(folder, writer, output)
            assert done.returncode == 0, done.stderr
        for obstacle, made in _OBSTACLES.items():
            found = Counter[str]()
            for writer in _QUICK if setting.quick else _WRITERS:
                if writer.startswith("demo") and obstacle in _NOT_FOR_THE_DEMO:
                    continue
                with made(folder) as (place, limited):
                    done = _sharp(folder, writer, place, limited=limited)
                    came = _outcome(folder, writer, place, done)
                found[came] += 1
                if came == "lost":
                    lost.append(f"{writer}, {obstacle}: {done.returncode} {done.stderr[-300:]}")
            rows.append((obstacle, *(found[each] for each in _OUTCOMES)))
            print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    header = ("where", *_OUTCOMES)
    section.tables.append(("", header, rows))
    section.notes += lost
    section.bars.append(Bar("results lost, or misreported", str(len(lost)), "0", not lost))
    return section


_Place = Iterator[tuple[str, bool]]


@contextlib.contextmanager
def _missing(folder: Path) -> _Place:
    yield "none/out", False


@contextlib.contextmanager
def _in_a_file(folder: Path) -> _Place:
    yield "task.py/out", False


@contextlib.contextmanager
def _no_files_there(folder: Path) -> _Place:
    yield "/proc/sys/out", False


@contextlib.contextmanager
def _tmpfs(folder: Path, options: str, pages_left: int | None) -> _Place:
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    mounted = _mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk))
    try:
        if mounted and pages_left is not None:
            (disk / "filler").write_bytes(bytes((16 - pages_left) * 4096))
        if mounted and options:
            _mount("-o", f"remount,{options}", str(disk))
        yield ("disk/out" if mounted else "out"), not mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)
        else:
            for path in folder.glob("out.*"):
                path.unlink()


def _mount(*arguments: str) -> bool:
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    return done.returncode == 0


_OBSTACLES: dict[str, Callable[[Path], contextlib.AbstractContextManager[tuple[str, bool]]]] = {
    "a folder that is missing": _missing,
    "a file in the folder's place": _in_a_file,
    "a folder that takes no files": _no_files_there,
    "a read-only disk": lambda folder: _tmpfs(folder, "ro", None),
    "a full disk": lambda folder: _tmpfs(folder, "", 0),
    "a disk that fills up": lambda folder: _tmpfs(folder, "", 1),
}


def _sharp(
    folder: Path, writer: str, place: str, *, limited: bool = False
) -> subprocess.CompletedProcess[str]:
    (folder / "log").write_text("")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    arguments = [each.replace("{}", place) for each in _WRITERS[writer]]
    return subprocess.run(
        [sys.executable, "-m", "sharpcli", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "SHARP_TEST_LOG": str(folder / "log"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_limit_files if limited else None,
    )


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))


def _outcome(folder: Path, writer: str, place: str, done: subprocess.CompletedProcess[str]) -> str:
    """What became of the result: "before", "kept", "written" or "lost"."""
    (template,) = [each for each in _WRITERS[writer] if "{}" in each]
    target = folder / template.replace("{}", place)
    if done.returncode == 0:
        return "written" if _whole(target) else "lost"
    told = any(said in done.stderr for said in ("cannot be", "--plot", "on disk ("))
    if "Traceback" in done.stderr or not told or done.returncode not in (1, 2):
        return "lost"
    named = re.search(r"the result is in (\S+)", done.stderr)
    if named:
        return "kept" if _whole(Path(named[1])) else "lost"
    if "on standard output" in done.stderr:
        json.loads(done.stdout)
        return "kept"
    if "on disk (" in done.stderr:  # a grid that there is no room for, after one point of it
        return "before"
    worked = (folder / "log").stat().st_size > 0 or done.stdout
    return "lost" if worked else "before"


def _whole(path: Path) -> bool:
    """Whether a file is what its suffix says, to its end."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return bool(json.loads(data)["results"])
    if path.suffix == ".safetensors":
        from sharpcli.checkpoint import load_checkpoint

        return bool(load_checkpoint(path).tensors)
    ends = {".png": b"IEND\xaeB`\x82", ".svg": b"</svg>\n", ".pdf": b"%%EOF\n", ".html": b"</html>"}
    return ends.get(path.suffix, b"") in data[-20:]
