"""Whether a training that is killed goes on where it stopped, to the same bytes."""

from __future__ import annotations

import importlib.util
import random
import sys
import tempfile
from pathlib import Path

from problem import Setting
from report import Bar, Section

sys.path.append(str(Path(__file__).parents[1] / "support"))

import training_kills

NAME = "killed_training"
_KILLS = 20
_STEPS = 150
# Options of `sharp train`; the last three optimizers are pytorch-optimizer's.
_TRAININGS = (
    "--optimizer sgd --momentum 0.9 --batch-schedule STEP(k0=8,gamma=2,l=50) --ema 0.9",
    "--optimizer adamw --schedule cosine(0.01,steps=150)",
    "--optimizer SAM -P base_optimizer=adamw -P rho=0.1 --lr 0.01",
    "--optimizer ASAM --accumulate 2 --clip-norm 0.5",
    "--optimizer Muon --lr 0.01",
    "--optimizer AdEMAMix --lr 0.01 -P t_alpha_beta3=150",
    "--optimizer ScheduleFreeAdamW --lr 0.01",
    "--optimizer Lion --lr 0.001 --ema 0.5",
)
_OF_LIBRARY = 3


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Killed trainings",
        f"`sharp train` of a small network with batch normalisation and dropout, {_STEPS} steps, "
        "ended by SIGKILL at random moments and repeated by the same command until it ends. Its "
        "state is kept every 0.03 s instead of every 5 s, so that kills meet one. The task logs "
        "each pass in training mode.",
    )
    library = importlib.util.find_spec("pytorch_optimizer") is not None
    trainings = _TRAININGS if library else _TRAININGS[:-_OF_LIBRARY]
    kills = 2 if setting.quick else _KILLS
    if setting.quick:
        trainings = trainings[2:3]
    chosen = random.Random(0)
    rows, same, again, met = [], 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        for index, training in enumerate(trainings):
            count = len(range(index, kills, len(trainings)))
            arguments = [*training.split(), "--steps", str(_STEPS), "--batch-size", "16"]
            expected = training_kills.whole(Path(name) / f"whole-{index}", arguments)
            # Together the kills leave it at least a tenth of its steps.
            moments = [chosen.uniform(1, 0.9 * expected.passes / count) for _ in range(count)]
            found = training_kills.killed(
                Path(name) / f"killed-{index}", arguments, moments, _STEPS, expected
            )
            same, again = same + found.same, again + abs(found.again)
            met += sum(steps > 0 for steps in found.kept)
            kept = ", ".join(map(str, found.kept))
            rows.append((training, kept, "yes" if found.same else "no", str(found.again)))
    section.tables.append(
        ("", ("training", "steps in the state at each kill", "same bytes", "passes again"), rows)
    )
    section.notes.append(f"{met} of {kills} kills met a state.")
    section.bars += [
        Bar(
            f"trainings, {kills} kills: checkpoint and curves of an undisturbed one",
            f"{same} of {len(trainings)}",
            f"{len(trainings)} of {len(trainings)}",
            same == len(trainings),
        ),
        Bar("passes over steps that the last state has", str(again), "0", again == 0),
    ]
    return section
