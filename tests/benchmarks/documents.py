"""Result documents changed at random, through `sharp compare` and `sharp plot`."""

from __future__ import annotations

import collections
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from problem import Setting
from report import Bar, Section

sys.path.append(str(Path(__file__).parents[1] / "support"))

import mutations
from mutations import PLOTS, TEXTS, mutated, runs

NAME = "documents"
_COUNT, _SEED = 5000, 0
_FIGURES = (".png", ".svg", ".pdf")  # a second each: one of them for every sixth document
_SAMPLES = ("--samples", "100")
_SMALL = ("-O", "width=6")


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Damaged and hostile documents",
        "Real documents of every kind, each changed in one to three places (seed 0): hostile "
        "texts, extreme numbers, other types, lengths, keys, depths, bytes. They go through "
        "`sharp compare` and `sharp plot` in this process, in every format and to every kind of "
        "file (figures by matplotlib: one for every sixth document, in turns). Warnings count as "
        "errors, as do 10 s of computing, characters that are not printable, formulas in CSV and "
        "XML that is none. Then pages and figures whose every name is hostile are opened in "
        "chromium, where it is installed.",
    )
    count = 40 if setting.quick else _COUNT
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = made(folder)
        chance = random.Random(_SEED)
        ended: collections.Counter[str] = collections.Counter()
        problems: dict[str, int] = collections.Counter()
        slowest, done = 0.0, 0
        for number in range(count):
            kind = chance.choice(sorted(documents))
            path = folder / "changed.json"
            path.write_bytes(mutated(documents[kind], chance))
            figures = (_FIGURES[number // 6 % 3],) if number % 6 == 0 else ()
            drawn = False
            started = time.process_time()
            for what, problem in runs(path, folder, plots=(*PLOTS[3:], *figures)):
                done += 1
                drawn |= what == "plot .npz" or what == "compare csv"
                slowest = max(slowest, time.process_time() - started)
                started = time.process_time()
                if problem:
                    problems[f"{kind}, {what}: {problem[:200]}"] += 1
            ended["read" if drawn else "refused"] += 1
            if number % 250 == 0:
                print(f"  {number} of {count}: {dict(ended)} {dict(problems)}", file=sys.stderr)
        rows = [(kind, f"{len(json.dumps(each)):,}") for kind, each in sorted(documents.items())]
        section.tables.append(("Documents", ("kind", "bytes"), rows))
        section.notes.append(
            f"{done:,} runs; {ended['read']:,} documents read, {ended['refused']:,} refused; the "
            f"longest run took {slowest:.1f} s of computing"
        )
        section.notes += [f"{times} times: {what}" for what, times in problems.items()]
        seen = f"{sum(problems.values())} of {done:,} runs"
        section.bars.append(
            Bar(f"tracebacks or hangs, {count:,} documents", seen, "0", not problems)
        )
        section.bars.append(_opened(documents, folder, 2 if setting.quick else len(TEXTS[:6])))
    return section


def made(folder: Path) -> dict[str, Mapping[str, Any]]:
    """A real document of every kind that sharp writes, by the commands themselves."""
    a, b, c = (str(folder / f"{name}.safetensors") for name in "abc")
    found: dict[str, Mapping[str, Any]] = {}

    def sharp(name: str, *arguments: str) -> None:
        done = mutations.run([*arguments, "--json"], seconds=600)
        if done.exit_code or done.exception:
            raise RuntimeError(f"{arguments}: {done.output}") from done.exception
        found[name] = json.loads(done.stdout)
        (folder / f"{name}.json").write_text(done.stdout, "utf-8")

    for number, path in enumerate((a, b, c)):
        trained = ("--epochs", "2", "--seed", str(number), "--output", path)
        sharp("train", "train", "digits", *_SMALL, *trained)
    sharp("measure", "measure", a, b, *_SAMPLES)
    sharp("by layer", "measure", a, "--by", "layer", *_SAMPLES, "-m", "loss", "-m", "trace")
    sharp("compare", "compare", str(folder / "measure.json"), "--baseline", "seed=0")
    sharp("inspect", "inspect", a)
    beside = ("--align", "--path", "bezier", "--path-steps", "3", "--mark", c)
    sharp("line", "interpolate", a, b, "--points", "6", *beside, *_SAMPLES)
    sharp("plane", "interpolate", a, b, c, "--points", "4", "--trajectory", b, c, *_SAMPLES)
    sharp("line of a landscape", "landscape", a, "--dimensions", "1", "--points", "5", *_SAMPLES)
    sharp("landscape", "landscape", a, "--points", "4", "--directions", "hessian", *_SAMPLES)
    path_axes = ("--directions", "trajectory", "--trajectory", b, c, a)
    sharp("path's plane", "landscape", a, "--points", "4", *path_axes, *_SAMPLES)
    sharp("spectrum", "spectrum", a, b, "--steps", "10", "--probes", "2", *_SAMPLES)
    return found


def _opened(documents: Mapping[str, Mapping[str, Any]], folder: Path, count: int) -> Bar:
    """Pages and figures of documents with a script in every name, opened in a browser."""
    what = "pages and figures in which a script ran"
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return Bar(what, "no browser here", "0", met=False)
    opened = ran = 0
    for kind in ("line", "plane"):
        for text in TEXTS[:count]:
            source = folder / "hostile.json"
            source.write_text(json.dumps(_hostile(documents[kind], text)), "utf-8")
            for suffix in (".html", ".svg"):
                page = folder / f"hostile{suffix}"
                done = mutations.run(["plot", str(source), "--plot", str(page)], seconds=60)
                if done.exit_code or done.exception:
                    raise RuntimeError(done.output) from done.exception
                opened += 1
                ran += _ran(browser, page, folder)
    return Bar(what, f"{ran} of {opened}", "0", ran == 0)


def _ran(browser: str, page: Path, folder: Path) -> bool:
    """Whether a script of `TEXTS` marked the page; raises where the browser shows nothing."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000")
    own = f"--user-data-dir={folder / 'browser'}"
    command: Sequence[str] = (browser, *flags, own, "--dump-dom", page.as_uri())
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    if "<svg" not in shown:
        raise RuntimeError(f"the browser did not draw {page.name}")
    return 'data-ran="1"' in shown


def _hostile(document: Mapping[str, Any], text: str) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(document))
    (result,) = changed["results"]
    changed["task"]["name"] = text
    changed["notes"] = changed["warnings"] = [text]
    for each in result["checkpoints"]:
        each |= {"name": text, "path": text, "notes": [text], "metadata": {text: text}}
    for axis in result["axes"]:
        axis["meaning"] = text
    for part in (result, result.get("aligned"), result.get("path")):
        for split in (*(part or {}).get("curves", {}).values(),):
            split[text] = split.pop("accuracy")
        for split in (*(part or {}).get("sampling_errors", {}).values(),):
            split[text] = split.pop("accuracy", [None] * len(result["coordinates"]))
    for way in result.get("trajectories", ()):
        way["name"] = text
        for point in way["points"]:
            point["path"] = text
    return changed
