"""How long `sharp --help` takes beside the imports that it cannot do without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from paired import in_turns, ratio
from problem import Setting
from report import Bar, Section

NAME = "startup"
_BAR = 1.3


def run(setting: Setting) -> Section:
    rounds = 3 if setting.quick else 15
    sharp = Path(sys.executable).with_name("sharp")
    commands = {
        "`sharp --help`": [str(sharp), "--help"],
        '`python -c "import click, rich"`': [sys.executable, "-c", "import click, rich"],
    }

    def call(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    calls = {name: lambda command=command: call(command) for name, command in commands.items()}
    in_turns(calls, 1)  # files into the page cache, bytecode written
    timed = in_turns(calls, rounds)
    ours, floor = timed.values()
    found = ratio(ours, floor)
    section = Section(
        NAME,
        "Start-up",
        f"Wall time of a new process, {rounds} of each in turns.",
    )
    rows = [(name, it.spread()) for name, it in timed.items()]
    section.tables.append(("Seconds", ("", "seconds"), rows))
    bar = Bar("`sharp --help` by the imports", str(found), f"≤ {_BAR:g}", found.median <= _BAR)
    section.bars.append(bar)
    return section
