"""Whether an experiment that is killed ends with the bytes of an undisturbed one."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from problem import Setting
from report import Bar, Section

sys.path.append(str(Path(__file__).parents[1] / "support"))

from tiny_experiments import begin, kill, write

NAME = "killed-reproduce"
_MOMENTS = 10
_SLEEP = 0.01  # seconds for each forward pass, so that training is most of the time


def run(setting: Setting) -> Section:
    moments = 2 if setting.quick else _MOMENTS
    chosen = random.Random(0)
    section = Section(
        NAME,
        "Killed experiments",
        "`sharp reproduce` on a small experiment of three stages (two sweeps, the second from the "
        "weights of the first, and lines), ended by SIGKILL at random moments and then repeated.",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        started = time.monotonic()
        whole = begin(folder, "whole", sleep=_SLEEP)
        whole.communicate()
        seconds = time.monotonic() - started
        expected = (folder / "whole" / "reproduce.json").read_bytes()
        same = at_work = 0
        for index in range(moments):
            output = f"killed-{index}"
            at_work += kill(begin(folder, output, sleep=_SLEEP), chosen.uniform(0, seconds))
            begin(folder, output).communicate()
            result = folder / output / "reproduce.json"
            same += result.exists() and result.read_bytes() == expected
    section.tables.append(
        (
            "",
            ("seconds of an undisturbed run", "kills", "still at work then", "same bytes"),
            [(f"{seconds:.1f}", str(moments), str(at_work), str(same))],
        )
    )
    section.bars.append(
        Bar(
            "results with the bytes of an undisturbed run's",
            f"{same} of {moments}",
            f"{moments} of {moments}",
            same == moments,
        )
    )
    return section
