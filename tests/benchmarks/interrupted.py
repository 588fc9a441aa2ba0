"""What kill −9, SIGTERM and Ctrl-C leave of a run: its output old or complete, nothing behind."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from problem import Setting
from report import Bar, Section

sys.path.append(str(Path(__file__).parents[1] / "support"))

from ending import COMMANDS, SIGNALS, Ended, Forked, ended, next_start, prepare, undisturbed

NAME = "interrupted"
_MOMENTS, _AIMED = 40, 20


def run(setting: Setting) -> Section:
    # --repeats shares out a long run: 3, the default, is a quarter of it, 12 all of it.
    share = min(1.0, setting.repeats / 12)
    moments, aimed = (1, 1) if setting.quick else (round(_MOMENTS * share), round(_AIMED * share))
    section = Section(
        NAME,
        "Interrupted runs",
        f"Each command on a network of 67 parameters, its output there already, ended by each "
        f"signal at {moments} random moments of its run and {aimed} times in all while it writes "
        "its output. Runs are forks of a process that has PyTorch loaded. Right is: the output is "
        "the old file or a complete new one; an interrupted result stands beside it and is named; "
        "a checkpoint that was finished (the task logs every pass) is in it; the exit code is the "
        "signal's; no traceback; and after the next start nothing is left but files of results.",
    )
    rows, wrong, runs, finished, kept = [], list[str](), 0, 0, 0
    for name in COMMANDS:
        chosen = random.Random(name)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            prepare(folder)
            seconds = undisturbed(folder, name, Forked)
            clean = _names(folder)
            found: dict[str, list[Ended]] = {}
            for number, (signal_name, signal) in enumerate(SIGNALS.items()):
                started = time.monotonic()
                at: list[float | None] = [chosen.uniform(0, seconds) for _ in range(moments)]
                at += [None] * len(range(number, aimed, len(SIGNALS)))
                found[signal_name] = [ended(folder, name, signal, moment, Forked) for moment in at]
                if left := next_start(folder):
                    wrong.append(f"{name}, {signal_name}: {left} after the next start")
                spent = time.monotonic() - started
                print(f"  {name}, {signal_name}: {spent:.0f} s", file=sys.stderr, flush=True)
            undisturbed(folder, name, Forked)  # goes on from what was left, and removes it
            if left := _names(folder) - clean:
                wrong.append(f"{name}: {sorted(left)} after the same command's end")
        for signal_name, results in found.items():
            runs += len(results)
            finished += sum(one.finished for one in results)
            kept += sum(one.kept > 0 for one in results)
            bad = [f"{name}, {signal_name}: {each}" for one in results for each in one.wrong]
            wrong += bad
            rows.append(
                (
                    name,
                    signal_name,
                    len(results),
                    sum(one.code != 0 for one in results),
                    sum(one.replaced for one in results),
                    sum(one.kept for one in results),
                    len(bad),
                )
            )
    header = ("command", "signal", "runs", "ended by it", "output new", "checkpoints kept", "wrong")
    section.tables.append(("", header, rows))
    section.notes += wrong
    section.bars.append(Bar("wrong", f"{len(wrong)} in {runs} runs", "0", not wrong))
    seen = f"{kept} of {finished} runs"
    section.bars.append(Bar("finished checkpoints kept", seen, "all", 0 < finished == kept))
    return section


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name not in ("log", "stderr")}
