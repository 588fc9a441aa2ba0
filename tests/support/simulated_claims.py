"""Runs made by a random generator with a known effect, for each statistic of claims."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sharpcli.documents.claims.experiment import Claim
from sharpcli.documents.claims.runs import Lines, StageRuns, Trained
from sharpcli.documents.claims.statistics.per_seed import Stages
from sharpcli.documents.claims.verdicts import Prediction
from sharpcli.documents.scoring.runs import Run

SEEDS = 5
_BATCHES = (16, 64, 256, 1024)
_RATES = (0.01, 0.1, 1.0)

Simulation = Callable[[random.Random, float], tuple[Stages, Mapping[str, Any], Prediction]]


def trained(seed: int, value: float | None = None, curve: Any = None, **settings: Any) -> Trained:
    """A run with the measure `y`, and with a curve of the test loss as (steps, values)."""
    name = ",".join(f"{key}={each}" for key, each in {**settings, "seed": seed}.items())
    evaluations = None if curve is None else {"step": curve[0], "test": {"loss": curve[1]}}
    run = Run(name, name, {**settings, "seed": seed}, seed, "ok", evaluations=evaluations)
    return Trained(run, {} if value is None else {"y": {"value": value, "status": "converged"}})


def lost(seed: int, **settings: Any) -> Trained:
    """A run that diverged."""
    made = trained(seed, **settings)
    return replace(made, run=replace(made.run, status="diverged"))


def stages(runs: list[Trained]) -> Stages:
    return {"trained": StageRuns("trained", runs)}


def simulated(name: str, random_: random.Random, effect: float) -> tuple[Stages, Claim]:
    """One sweep of five seeds, and the claim about it that is true if the effect is above 0.

    The effect is in standard deviations of what one seed says.
    """
    made, arguments, prediction = SIMULATIONS[name](random_, effect)
    return made, Claim(name, "simulated", "nobody", name, prediction, arguments)


def _levels(random_: random.Random, effect: float) -> Any:
    """Two batch sizes; seeds have their own level, and runs their own noise."""
    runs = []
    for seed in range(SEEDS):
        level = random_.gauss(0, 3)
        runs.append(trained(seed, level + random_.gauss(0, math.sqrt(0.5)), batch_size=32))
        runs.append(
            trained(seed, level + effect + random_.gauss(0, math.sqrt(0.5)), batch_size=512)
        )
    return stages(runs)


_TWO = {"value": "y", "of": {"batch_size": "largest"}, "to": {"batch_size": "smallest"}}


def _difference(random_: random.Random, effect: float) -> Any:
    return _levels(random_, effect), _TWO, Prediction("above", 0.0)


def _ratio(random_: random.Random, effect: float) -> Any:
    made = _levels(random_, effect)["trained"].runs
    runs = [trained(r.seed, math.exp(r.measures["y"]["value"]), **_own(r)) for r in made]
    return stages(runs), _TWO, Prediction("above", 1.0)


def _value(random_: random.Random, effect: float) -> Any:
    """A level near 1, whose claim is that it is within two standard deviations."""
    off = 0.0 if effect else 2.0  # without the effect it is at the edge of the range
    runs = [trained(seed, 10 + off + random_.gauss(0, 1), lr=0.1) for seed in range(SEEDS)]
    wide = max(effect, 2.0)
    return (
        stages(runs),
        {"value": "y", "of": {}},
        Prediction("within", low=10 - wide, high=10 + wide),
    )


def _sloped(random_: random.Random, slopes: Mapping[str, float]) -> Stages:
    """Values over the batch size for two optimizers; the slope of a seed has unit deviation."""
    runs = []
    spread = math.sqrt(sum((math.log2(b) - 7) ** 2 for b in _BATCHES))
    for seed in range(SEEDS):
        for optimizer, slope in slopes.items():
            level = random_.gauss(0, 3)
            for batch in _BATCHES:
                y = level + slope * math.log2(batch) + random_.gauss(0, spread)
                runs.append(trained(seed, y, batch_size=batch, optimizer=optimizer))
    return stages(runs)


def _slope(random_: random.Random, effect: float) -> Any:
    made = _sloped(random_, {"sgd": effect})
    return made, {"value": "y", "over": "batch_size", "of": {}}, Prediction("above", 0.0)


def _slope_difference(random_: random.Random, effect: float) -> Any:
    made = _sloped(random_, {"sgd": 0.0, "adam": effect * math.sqrt(2)})
    sides = {"of": {"optimizer": "adam"}, "to": {"optimizer": "sgd"}}
    return made, {"value": "y", "over": "batch_size", **sides}, Prediction("above", 0.0)


def _two_courses(random_: random.Random, effect: float) -> Any:
    """Two optimizers with three rates each, of which the middle one is the best by a little.

    Losses are exp(−speed·steps); speeds differ by seed and run. Rates are tuned.
    """
    steps = list(range(0, 1001, 10))
    runs = []
    for seed in range(SEEDS):
        own = random_.gauss(0, 0.1)
        for optimizer, gain in (("adamw", 0.0), ("ademamix", effect)):
            for place, rate in enumerate(_RATES):
                noise = random_.gauss(0, math.sqrt(0.5))
                speed = math.exp(own + 0.1 * (gain + noise - abs(place - 1)))
                curve = [math.exp(-speed * step / 400) for step in steps]
                runs.append(trained(seed, curve=(steps, curve), optimizer=optimizer, lr=rate))
    arguments = {
        "value": "test.loss",
        "of": {"optimizer": "ademamix"},
        "to": {"optimizer": "adamw"},
        "tuned": ["lr"],
    }
    return stages(runs), arguments


def _correlated(random_: random.Random, weights: tuple[float, float]) -> Stages:
    """Twelve runs a seed, whose value goes with two settings by these weights."""
    runs = []
    for seed in range(SEEDS):
        for batch in (16, 64, 256, 1024):
            for rate in _RATES:
                x, z = math.log2(batch) / 2, math.log10(rate)
                y = weights[0] * x + weights[1] * z + random_.gauss(0, 1)
                runs.append(trained(seed, y, batch_size=batch, lr=rate))
    return stages(runs)


def _rank_correlation(random_: random.Random, effect: float) -> Any:
    made = _correlated(random_, (0.25 * effect, 0.0))
    arguments = {"value": "y", "other": "setting.batch_size"}
    return made, arguments, Prediction("above", 0.0)


def _rank_correlation_difference(random_: random.Random, effect: float) -> Any:
    # A weight of 1 on either alike, or on the first alone.
    made = _correlated(random_, (1.0, 0.0) if effect else (0.8, 1.0))
    arguments = {"value": "y", "other": "setting.batch_size", "than": "setting.lr"}
    return made, arguments, Prediction("above", 0.0)


def _count_above(random_: random.Random, effect: float) -> Any:
    """Of 15 eigenvalues about five are above the largest one of the small batch."""
    runs = []
    for seed in range(SEEDS):
        above = min(max(round(5 + effect + random_.gauss(0, 1)), 0), 15)
        runs.append(listed(seed, [1.0], batch_size=32))
        runs.append(listed(seed, [2.0] * above + [0.5] * (15 - above), batch_size=512))
    return stages(runs), {**_TWO, "value": "y"}, Prediction("above", 5.0)


def listed(seed: int, values: list[float], **settings: Any) -> Trained:
    """A run whose measure `y` is a list."""
    run = trained(seed, **settings).run
    return Trained(run, {f"y[{i}]": {"value": each} for i, each in enumerate(values)})


def _worse_from(random_: random.Random, effect: float) -> Any:
    """A value that drops at a batch size of about 2⁸, or of a smaller one."""
    runs = []
    for seed in range(SEEDS):
        start = round(8 - effect + random_.gauss(0, 1))
        for power in range(16):
            y = (0.5 if power >= start else 1.0) + random_.uniform(-0.01, 0.01)
            run = trained(seed, batch_size=2**power).run
            runs.append(Trained(replace(run, finals={"test": {"accuracy": y}})))
    arguments = {"value": "test.accuracy", "over": "batch_size", "margin": 0.1}
    return stages(runs), arguments, Prediction("below", 2.0**8)


def _rise_ratio(random_: random.Random, effect: float) -> Any:
    """Two parabolas, of which that around the end 1 is steeper by the effect."""
    places = [each / 8 for each in range(-8, 17)]
    lines = []
    for seed in range(SEEDS):
        steep = math.exp(effect + random_.gauss(0, 1))
        losses = [x**2 if x < 0.5 else steep * (x - 1) ** 2 for x in places]
        lines.append(Lines(seed, places, {"train": {"loss": losses}}))
    made = {"between": StageRuns("between", lines=lines)}
    return made, {"distance": 0.25}, Prediction("above", 1.0)


def _turning(random_: random.Random, place: float) -> list[Trained]:
    """Slopes over the width that turn at a batch size of 2^place, or of each seed near it."""
    runs = []
    for seed in range(SEEDS):
        own = place + random_.gauss(0, 1)
        for batch in _BATCHES:
            for width in (8, 32, 128):
                y = 0.2 * (math.log2(batch) - own) * math.log2(width) + random_.gauss(0, 0.02)
                runs.append(trained(seed, y, batch_size=batch, width=width))
    return runs


_TURN = {"value": "y", "over": "width", "along": "batch_size", "rises": True, "of": {}}


def _crossing_ratio(random_: random.Random, effect: float) -> Any:
    """The same, where a batch of 2⁷ is critical."""
    critical = [trained(s, 2.0**7, batch_size=b) for s in range(SEEDS) for b in _BATCHES]
    made = stages(_turning(random_, 7.0 if effect else 9.0)) | {
        "critical": StageRuns("c", critical)
    }
    wide = 2 ** max(effect, 2.0)
    arguments = {**_TURN, "to_stage": "critical", "to": {}, "to_value": "y"}
    return made, arguments, Prediction("within", low=1 / wide, high=wide)


def _length_ratio(random_: random.Random, effect: float) -> Any:
    """Losses that fall with the logarithm of the length, at two rates of which one is chosen.

    At equal lengths the one side is ahead by the effect; without it, half of the seeds do not
    arrive within the lengths that were trained.
    """
    made: dict[str, list[Trained]] = {"half": [], "most": [], "whole": []}
    for seed in range(SEEDS):
        for stage, steps in (("half", 500), ("most", 750), ("whole", 1000)):
            for name in ("a", "b") if stage == "whole" else ("a",):
                for rate in (0.1, 0.2):
                    ahead = effect * (name == "a") - 0.5 * (rate == 0.2)
                    loss = 5 - math.log(steps) - 0.1 * (ahead + random_.gauss(0, math.sqrt(0.5)))
                    run = trained(seed, curve=([0, steps], [9.0, loss]), name=name, lr=rate)
                    made[stage].append(Trained(run.run, updates=steps))
    arguments = {
        "stages": [*made],
        "to_stage": "whole",
        "value": "test.loss",
        "of": {"name": "a"},
        "to": {"name": "b"},
        "tuned": ["lr"],
    }
    return _named(made), arguments, Prediction("below", 1.0)


def _target_ratio(random_: random.Random, effect: float) -> Any:
    """Accuracies that rise to a target at another speed; a run in ten does not arrive."""
    made, arguments = _two_courses(random_, effect)
    arguments = {**arguments, "target": 0.15}
    return made, arguments, Prediction("below", 1.0)


def _half_life_ratio(random_: random.Random, effect: float) -> Any:
    """Gains that fall with a half-life of about 50 of 400 steps."""
    made: dict[str, list[Trained]] = {"after": [], "without": []}
    steps = list(range(0, 401, 4))
    for seed in range(SEEDS):
        for name in ("a", "b"):
            noise = random_.gauss(0, math.sqrt(0.5))
            life = 50 * math.exp(0.2 * (effect * (name == "a") + noise))
            base = [2.0 + random_.gauss(0, 0.005) for _ in steps]
            gains = [0.5 * 0.5 ** (step / life) for step in steps]
            with_it = [y - gain for y, gain in zip(base, gains, strict=True)]
            made["without"].append(trained(seed, curve=(steps, base), name=name))
            made["after"].append(trained(seed, curve=(steps, with_it), name=name))
    arguments = {"value": "test.loss", "minus": "without", "of": {"name": "a"}, "to": {"name": "b"}}
    return _named(made), arguments, Prediction("above", 1.0)


def _cost_of_choice(random_: random.Random, effect: float) -> Any:
    """Four policies, whose order is another one in the second stage if there is an effect."""
    made: dict[str, list[Trained]] = {"scratch": [], "tuned": []}
    losses = {"FIX": 0.0, "STEP": 0.5, "TRI": 1.0, "COS": 1.5}
    for seed in range(SEEDS):
        for place, (name, loss) in enumerate(losses.items()):
            for stage in made:
                other = effect * (place != 3) if stage == "tuned" and effect else loss
                end = 5 + 0.1 * (other + random_.gauss(0, math.sqrt(0.5)))
                made[stage].append(trained(seed, curve=([0, 9], [9.0, end]), schedule=name))
    arguments = {
        "stage": "tuned",
        "chosen_in": "scratch",
        "value": "test.loss",
        "by": ["schedule"],
    }
    return _named(made), arguments, Prediction("above", 0.0)


def _named(made: Mapping[str, list[Trained]]) -> Stages:
    return {name: StageRuns(name, runs) for name, runs in made.items()}


def _rise(random_: random.Random, effect: float) -> Any:
    """Courses that end a random factor above or below their start."""
    runs = []
    for seed in range(SEEDS):
        end = math.exp(0.1 * (effect + random_.gauss(0, 1)))
        curve = [1.0, end, end, end]
        runs.append(trained(seed, curve=([0, 1, 2, 3], curve), lr=0.1))
    return stages(runs), {"value": "test.loss", "of": {}}, Prediction("above", 1.0)


def _highest(random_: random.Random, effect: float) -> Any:
    """Courses with a peak of `effect`, give or take one."""
    runs = []
    for seed in range(SEEDS):
        curve = [-9.0, effect + random_.gauss(0, 1), -9.0]
        runs.append(trained(seed, curve=([0, 1, 2], curve), lr=0.1))
    return stages(runs), {"value": "test.loss", "of": {}}, Prediction("above", 0.0)


def _share_within(random_: random.Random, effect: float) -> Any:
    """Courses of which, on average, 80 % or with an effect 95 % are in the band."""
    runs = []
    chance = 0.95 if effect else 0.8
    steps = list(range(201))
    for seed in range(SEEDS):
        curve = [0.0, *(1.0 if random_.random() < chance else 2.0 for _ in steps[1:])]
        runs.append(trained(seed, curve=(steps, curve), lr=0.1))
    arguments = {"value": "test.loss", "of": {}, "reached": 0.5, "low_end": 0.5, "high_end": 1.5}
    return stages(runs), arguments, Prediction("above", 0.8)


def _granulated(random_: random.Random, weights: tuple[float, float]) -> Any:
    """A gap for each of twelve runs a seed, and two measures that go with it by these weights."""
    runs = []
    for seed in range(SEEDS):
        for batch in (16, 64, 256, 1024):
            for rate in _RATES:
                gap = random_.gauss(0, 1)
                own = [weight * gap + random_.gauss(0, 1) for weight in weights]
                made = trained(seed, batch_size=batch, lr=rate)
                numbers = {"gap": gap, "y": own[0], "z": own[1]}
                runs.append(replace(made, measures={k: {"value": v} for k, v in numbers.items()}))
    arguments = {"value": "y", "than": "z", "other": "gap", "factors": ["batch_size", "lr"]}
    return stages(runs), arguments, Prediction("above", 0.0)


def _granulated_correlation(random_: random.Random, effect: float) -> Any:
    return _granulated(random_, (0.5 * effect, 0.0))


def _granulated_correlation_difference(random_: random.Random, effect: float) -> Any:
    return _granulated(random_, (effect, 0.0) if effect else (0.5, 0.5))


def _claim(prediction: Prediction, statistic: str = "difference", **arguments: Any) -> Claim:
    return Claim(statistic, "simulated", "nobody", statistic, prediction, {**_TWO, **arguments})


def _equal_settings(random_: random.Random) -> tuple[Stages, Claim]:
    """Both sides tuned over eight settings that are equally good, 20 seeds."""
    runs = [
        trained(seed, curve=([0, 10], [9.0, random_.gauss(0, 1)]), batch_size=batch, lr=rate)
        for seed in range(20)
        for batch in (32, 512)
        for rate in range(8)
    ]
    return stages(runs), _claim(Prediction("below"), value="test.loss", tuned=["lr"])


def _nearly_equal_settings(random_: random.Random) -> tuple[Stages, Claim]:
    """As above with five settings, each 0.7 deviations worse than the one next to it, 10 seeds."""
    runs = [
        trained(
            seed,
            curve=([0, 10], [9.0, random_.gauss(0, 1) + 0.7 * abs(rate - 2)]),
            batch_size=batch,
            lr=rate,
        )
        for seed in range(10)
        for batch in (32, 512)
        for rate in range(5)
    ]
    return stages(runs), _claim(Prediction("below"), value="test.loss", tuned=["lr"])


def _worst_diverge(random_: random.Random) -> tuple[Stages, Claim]:
    """Of one side the runs that would have been worst diverge."""
    runs = []
    for seed in range(SEEDS):
        runs.append(trained(seed, random_.gauss(0, 0.2), batch_size=32))
        y = random_.gauss(0, 1)
        runs.append(lost(seed, batch_size=512) if y < 0 else trained(seed, y, batch_size=512))
    return stages(runs), _claim(Prediction("above"))


def _sign_changes(random_: random.Random) -> tuple[Stages, Claim]:
    """A ratio of values that are as often negative as 4 times the other side's."""
    runs = []
    for seed in range(SEEDS):
        runs.append(trained(seed, math.exp(random_.gauss(0, 0.2)), batch_size=32))
        y = math.exp(random_.gauss(0, 0.2)) * random_.choice((-4.0, 4.0))
        runs.append(trained(seed, y, batch_size=512))
    return stages(runs), _claim(Prediction("above", 1.0), "ratio")


def _heavy_tails(random_: random.Random) -> tuple[Stages, Claim]:
    """Student's t with 2 degrees of freedom, and another spread for each side; 3 seeds."""
    runs = [
        trained(
            seed, spread * random_.gauss(0, 1) / math.sqrt(random_.expovariate(1)), batch_size=b
        )
        for seed in range(3)
        for b, spread in ((32, 1.0), (512, 5.0))
    ]
    return stages(runs), _claim(Prediction("above"))


def _few_examples(random_: random.Random) -> tuple[Stages, Claim]:
    """Accuracies on 200 examples, 3 seeds: many are equal."""

    def accuracy() -> float:
        return sum(random_.random() < 0.9 for _ in range(200)) / 200

    runs = [trained(seed, accuracy(), batch_size=b) for seed in range(3) for b in (32, 512)]
    return stages(runs), _claim(Prediction("above"))


# Without an effect, where a verdict could be flattered.
WITHOUT_EFFECT: dict[str, Callable[[random.Random], tuple[Stages, Claim]]] = {
    "both sides tuned over eight equally good settings, 20 seeds": _equal_settings,
    "both sides tuned over five nearly equal settings, 10 seeds": _nearly_equal_settings,
    "the worst runs of one side diverge": _worst_diverge,
    "a ratio whose values change their sign": _sign_changes,
    "heavy tails, unequal spreads, 3 seeds": _heavy_tails,
    "accuracies on 200 examples, 3 seeds": _few_examples,
}


def _own(run: Trained) -> dict[str, Any]:
    return {key: each for key, each in run.run.settings.items() if key != "seed"}


SIMULATIONS: dict[str, Simulation] = {
    "difference": _difference,
    "ratio": _ratio,
    "value": _value,
    "slope": _slope,
    "slope_difference": _slope_difference,
    "rank_correlation": _rank_correlation,
    "rank_correlation_difference": _rank_correlation_difference,
    "count_above": _count_above,
    "worse_from": _worse_from,
    "rise_ratio": _rise_ratio,
    "crossing_ratio": _crossing_ratio,
    "length_ratio": _length_ratio,
    "target_ratio": _target_ratio,
    "half_life_ratio": _half_life_ratio,
    "cost_of_choice": _cost_of_choice,
    "rise": _rise,
    "highest": _highest,
    "share_within": _share_within,
    "granulated_correlation": _granulated_correlation,
    "granulated_correlation_difference": _granulated_correlation_difference,
}
