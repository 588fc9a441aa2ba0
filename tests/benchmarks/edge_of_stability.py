"""Full-batch gradient descent on digits: does λ1 rise to 2/η, the edge of stability?

`python tests/benchmarks/edge_of_stability.py`. Slow: every point of the path is a training of its
own, from the same seed, so that the loop and the measurement are those of `sharp train` and
`sharp measure` as they are.

Source: Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of
Stability, 2021. Below 2/η gradient descent moves into ever sharper places (progressive
sharpening); at 2/η it cannot follow the sharpest direction any further, and λ1 stays about there
while the loss goes on falling. λ1 swings about 2/η, so the bar is on the median of the points after
the rise; the script also counts the points that lie within the tolerance by themselves.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sharpcli import MeasureSettings, measure_model
from sharpcli.tasks import Task, load_task
from sharpcli.training.loop import train
from sharpcli.training.optimizers import TrainSettings

# Smooth, as most networks of the paper, and deep: with two layers λ1 does not reach 2/η.
OPTIONS = {"activation": "tanh", "depth": "6", "width": "32"}
STEPS = (25, 50, 100, 200, 300, 400, 500, 600, 800)
RATE = 0.2
TOLERANCE = 0.2  # of 2/η


@dataclass(frozen=True)
class Point:
    """Where a training of `steps` steps ended: its loss, and the largest eigenvalue there."""

    steps: int
    loss: float
    largest: float


def path(task: Task, rate: float, steps: Sequence[int], seed: int = 0) -> list[Point]:
    """The points of one path of full-batch gradient descent, which `seed` sets."""
    data = task.data("train")
    settings = MeasureSettings(measures=("hessian",), top=1)
    points = []
    for count in steps:
        asked = TrainSettings(lr=rate, batch_size=len(data[0]), epochs=count, seed=seed)
        trained = train(task, asked)
        model = task.model()
        model.load_state_dict(trained.tensors)
        (measured,) = measure_model(model, data, settings=settings).results
        value = measured.measures["hessian"]["eigenvalues"][0].value
        points.append(Point(trained.steps, trained.train_loss, value))
    return points


def after_the_rise(points: Sequence[Point], edge: float) -> list[Point]:
    """The points from the first on whose λ1 is at least 1 − tolerance of 2/η; none without a rise.

    A path that begins there has not risen to it.
    """
    high = [point.largest >= (1 - TOLERANCE) * edge for point in points]
    return list(points[high.index(True) :]) if True in high and not high[0] else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=RATE)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    chosen = parser.parse_args()
    edge = 2 / chosen.lr
    points = path(load_task("digits", OPTIONS), chosen.lr, chosen.steps)
    print(f"full-batch gradient descent on digits, η = {chosen.lr:g}, 2/η = {edge:g}")
    print("| steps | loss | λ1 | λ1·η/2 |\n| --- | --- | --- | --- |")
    for point in points:
        share = point.largest / edge
        print(f"| {point.steps} | {point.loss:.4g} | {point.largest:.4g} | {share:.3f} |")
    later = [point.largest for point in after_the_rise(points, edge)]
    if not later:
        print("λ1 did not rise to 2/η: missed")
        return
    middle = statistics.median(later)
    met = abs(middle - edge) <= TOLERANCE * edge
    within = sum(abs(value - edge) <= TOLERANCE * edge for value in later)
    print(f"{within} of {len(later)} points after the rise are within {TOLERANCE:.0%} of 2/η")
    print(
        f"λ1 after it rises: median {middle / edge:.2f} of 2/η ({min(later) / edge:.2f} to "
        f"{max(later) / edge:.2f}); asked: within {TOLERANCE:.0%}: {'met' if met else 'missed'}"
    )


if __name__ == "__main__":
    main()
