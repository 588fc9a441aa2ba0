"""Ten thousand forged checkpoints of every format: refused or read, and nothing else."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from problem import Setting
from report import Bar, Section

sys.path.append(str(Path(__file__).parents[1] / "support"))
from trying import tried

NAME = "forged"
_ALL, _FEW, _SLICE = 10_000, 280, 500
_SECONDS, _MEMORY = 5.0, 300 * 2**20


def run(setting: Setting) -> Section:
    count = _FEW if setting.quick else _ALL
    slices = [(begin, min(begin + _SLICE, count)) for begin in range(0, count, _SLICE)]
    # each in processes of its own: the threads wait
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 4)) as pool:
        found = list(pool.map(lambda part: tried("benchmark", *part), slices))
    read, refused = (
        sum((getattr(each, what) for each in found), start=type(found[0].read)())
        for what in ("read", "refused")
    )
    wrong = [each for part in found for each in part.wrong]
    slowest = max(part.slowest for part in found)
    largest = max(part.largest for part in found)
    section = Section(
        NAME,
        "Forged checkpoints",
        f"{count} damaged, handmade and hostile checkpoints of every format, made from a seed by "
        "`tests/forging.py`: bytes, headers, directories, indices and pickle operations changed; "
        "pipes, devices and sockets in the place of files; small files of very many objects; "
        "objects of classes that nobody has, "
        "whole modules, NumPy's arrays, and optimizers' states beside "
        "weights; other programs' formats. Each "
        "is read and described as `sharp inspect` does, in a process that watches for calls, "
        "files that are written, and time, and whose unfilled memory has a pattern: all bytes of "
        "all tensors have to be in the file.",
    )
    kinds = sorted(read | refused)
    rows = [(kind, str(read[kind] + refused[kind]), str(read[kind])) for kind in kinds]
    section.tables.append(("What became of them", ("kind", "files", "read"), rows))
    section.bars += [
        Bar("tracebacks, calls, foreign bytes, dead processes", str(len(wrong)), "0", not wrong),
        Bar(
            "slowest, seconds of a processor",
            f"{slowest:.2g}",
            f"≤ {_SECONDS:g}",
            slowest <= _SECONDS,
        ),
        Bar(
            "memory beside four times the file, MB",
            f"{largest / 2**20:.0f}",
            f"≤ {_MEMORY / 2**20:.0f}",
            largest <= _MEMORY,
        ),
    ]
    section.notes += [f"{kind}, number {index}: {words}" for index, kind, words in wrong[:10]]
    return section
