"""Whether a run that is killed goes on where it stopped: 20 random moments of a 21x21 grid."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from problem import Setting
from report import Bar, Section

sys.path.append(str(Path(__file__).parents[1] / "support"))

from killing import SIDE, killed, prepare, whole

NAME = "killed"
_MOMENTS = 20


def run(setting: Setting) -> Section:
    moments = 2 if setting.quick else _MOMENTS
    chosen = random.Random(0)
    section = Section(
        NAME,
        "Killed runs",
        f"`sharp landscape` on a {SIDE}x{SIDE} grid, ended by SIGKILL at a random moment and then "
        "repeated. The task logs every forward pass with a digest of the parameters.",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        expected = whole(folder)
        found = [
            killed(folder, [chosen.uniform(0, expected.seconds)], expected) for _ in range(moments)
        ]
    finished = sorted(each.finished[0] for each in found)
    same, again = sum(each.same for each in found), sum(each.again for each in found)
    in_flight = sum(each.in_flight for each in found)
    section.tables.append(
        (
            "Points in the file when the run was killed",
            ("kills", "fewest", "median", "most", "computed but not yet in the file"),
            [[*map(str, (moments, finished[0], finished[moments // 2], finished[-1], in_flight))]],
        )
    )
    section.bars += [
        Bar(
            "results with the bytes of an undisturbed run's",
            f"{same} of {moments}",
            f"{moments} of {moments}",
            same == moments,
        ),
        Bar("finished points computed again", str(again), "0", again == 0),
    ]
    return section
