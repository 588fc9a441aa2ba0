"""Sweeps: killed at 20 random moments, and the same checkpoints whichever way they are trained."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from problem import Setting
from report import Bar, Section

sys.path.append(str(Path(__file__).parents[1] / "support"))

import sweep_kills
from tiny_sweeps import checkpoints

NAME = "sweeps"
_MOMENTS = 20
_RUNS = 24
_SLEEP = 0.005  # seconds a step, so that a kill meets a training


def run(setting: Setting) -> Section:
    moments, runs = (3, 4) if setting.quick else (_MOMENTS, _RUNS)
    section = Section(
        NAME,
        "Sweeps",
        f"`sharp sweep` of {runs} seeds of a small network. The task logs every training that "
        "begins. Sweeps are ended by SIGKILL at a random moment and then repeated: one in three "
        "with `--jobs 2`, one in three with `--on local --jobs 2`, whose jobs are killed, too.",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep_kills.prepare(folder, runs)
        expected, seconds = _undisturbed(folder, "one-by-one")
        _ways(section, folder, expected, seconds)
        _kills(section, folder, expected, moments)
    return section


def _undisturbed(folder: Path, name: str, *arguments: str) -> tuple[dict[str, bytes], float]:
    """The checkpoints of a sweep, and the seconds that it took."""
    started = time.perf_counter()
    process = sweep_kills.begin(folder, "--output", name, *arguments)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return checkpoints(folder / name), time.perf_counter() - started


def _ways(section: Section, folder: Path, expected: dict[str, bytes], seconds: float) -> None:
    rows = [["one after another", f"{seconds:.1f}", "—"]]
    same = 0
    jobs, took = _undisturbed(folder, "jobs", "--jobs", "2")
    rows.append(["`--jobs 2`", f"{took:.1f}", _equal(jobs, expected)])
    same += jobs == expected
    _, first = _undisturbed(folder, "shards", "--shard", "1/2")
    shards, second = _undisturbed(folder, "shards", "--shard", "2/2")
    rows.append(["`--shard 1/2`, then `2/2`", f"{first + second:.1f}", _equal(shards, expected)])
    same += shards == expected
    together = [
        sweep_kills.begin(folder, "--output", "array", "--shard", f"{part}/2") for part in (1, 2)
    ]
    for process in together:
        _, said = process.communicate()
        assert process.returncode == 0, said
    array = checkpoints(folder / "array")
    rows.append(["both shards at once", "", _equal(array, expected)])
    same += array == expected
    local, took = _undisturbed(folder, "local", "--on", "local", "--jobs", "2")
    rows.append(["`--on local --jobs 2` (submitit)", f"{took:.1f}", _equal(local, expected)])
    same += local == expected
    section.tables.append(("Ways to train the same runs", ("way", "s", "same bytes"), rows))
    section.bars.append(Bar("ways with the same checkpoints", f"{same} of 4", "4 of 4", same == 4))


def _kills(section: Section, folder: Path, expected: dict[str, bytes], moments: int) -> None:
    chosen = random.Random(0)
    # A training takes 5 epochs of 8 steps, and the first one what torch sets up.
    seconds = 1 + len(expected) * 5 * 8 * _SLEEP
    found = []
    for index in range(moments):
        jobs = ((), ("--jobs", "2"), ("--on", "local", "--jobs", "2"))[index % 3]
        moment = chosen.uniform(0, seconds / (2 if jobs else 1))
        found.append(sweep_kills.killed(folder, moment, *jobs, sleep=_SLEEP))
    finished = sorted(each.finished for each in found)
    same = sum(each.checkpoints == expected for each in found)
    again = sum(each.again for each in found)
    section.tables.append(
        (
            "Runs that were trained when the sweep was killed",
            ("kills", "fewest", "median", "most"),
            [[*map(str, (moments, finished[0], finished[moments // 2], finished[-1]))]],
        )
    )
    section.bars += [
        Bar(
            "killed sweeps with the bytes of an undisturbed one",
            f"{same} of {moments}",
            f"{moments} of {moments}",
            same == moments,
        ),
        Bar("finished runs trained again", str(again), "0", again == 0),
    ]


def _equal(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    return f"{sum(found.get(name) == each for name, each in expected.items())} of {len(expected)}"
