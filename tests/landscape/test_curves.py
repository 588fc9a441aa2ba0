"""Curved paths: the bend, its gradient, what they leave alone, and what they find on real data."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch
from networks import CASES, CPU, objective, task, vectors
from normalised import NETS
from sharpcli.settings.exploring import PathSettings
from sharpcli.settings.measuring import RunSettings
from torch import nn

from sharpcli.errors import SharpError, UsageError
from sharpcli.landscape import curves
from sharpcli.landscape.curves import Path, path_weights, train_path
from sharpcli.landscape.points.batch_norm import batch_statistics
from sharpcli.objective.objective import Objective
from sharpcli.runs.study import prepare
from sharpcli.tasks import load_task
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train

KINDS = ("bezier", "chain")


class Point(nn.Module):
    """Its parameters are its output, whatever the input."""

    def __init__(self, size=2):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size))

    def forward(self, inputs):
        return self.theta.expand(len(inputs), -1)


def landscape(function, size=2):
    """The objective whose loss is a function of θ (n,) alone."""
    flat = task(
        lambda: Point(size),
        lambda count, generator: (torch.zeros(count, 1), torch.zeros(count)),
        loss=lambda outputs, batch: function(outputs),
        metrics=None,
    )
    return objective(flat)[0]


def ring(outputs):
    return (outputs.norm(dim=1) - 1).square()


def two_points(function, seed=0, scale=0.5):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, function.size)
    a, b = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    return a, b


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_lead_from_a_to_b_by_way_of_the_bend(kind):
    assert path_weights(kind, 0.0) == (1, 0, 0)
    assert path_weights(kind, 1.0) == (0, 0, 1)
    assert path_weights(kind, 0.5) == {"bezier": (0.25, 0.5, 0.25), "chain": (0, 1, 0)}[kind]
    for i in range(101):
        a, bend, b = path_weights(kind, i / 100)
        assert min(a, bend, b) >= 0
        assert a + bend + b == pytest.approx(1, abs=1e-15)
        assert (b, bend, a) == pytest.approx(path_weights(kind, 1 - i / 100), abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_is_its_closed_form_and_the_ends_are_exact(kind):
    a, bend, b = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    path = Path(kind, bend, 1)
    assert torch.equal(path.point(0.0, a, b), a)
    assert torch.equal(path.point(1.0, a, b), b)
    quarter = {"bezier": (9 * a + 6 * bend + b) / 16, "chain": (a + bend) / 2}[kind]
    assert torch.allclose(path.point(0.25, a, b), quarter, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bend_of_a_bowl_is_the_minimiser_in_closed_form(kind):
    bowl = landscape(lambda outputs: outputs.square().sum(1))
    a, b = torch.tensor([[1.0, 0.5], [-0.5, 2.0]], dtype=torch.float64)
    # ∫ c (aA + cC + bB) dt = 0 for the weights (a, c, b): C is ∫ ca, ∫ cb and ∫ c² solved for.
    share = {"bezier": -(1 / 10) / (2 / 15), "chain": -(1 / 12) / (1 / 3)}[kind]
    found = train_path(bowl, a, b, PathSettings(kind, steps=2000))
    assert torch.allclose(found.bend, share * (a + b), atol=0.01)
    assert found.steps == 2000
    assert found.kind == kind


def test_a_path_goes_round_the_hill_that_the_line_crosses():
    hill = landscape(ring)
    a, b = torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64)
    path = train_path(hill, a, b, PathSettings(steps=1000))
    highest = {
        "line": max(hill.loss((1 - i / 40) * a + i / 40 * b) for i in range(41)),
        "path": max(hill.loss(path.point(i / 40, a, b)) for i in range(41)),
    }
    assert highest["line"] > 0.3
    assert highest["path"] < 0.01 * highest["line"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_the_steps_gradients_is_that_of_the_mean_loss(kind, monkeypatch):
    """With a step size of nearly nothing, what the optimizer is handed adds up to d/dC ∫ L(φ)."""
    function, _ = objective(CASES["tanh"])
    a, b = two_points(function)
    handed = []
    monkeypatch.setattr(curves, "_adam_step", lambda bend, gradient, *_: handed.append(gradient))
    steps = 400
    train_path(function, a, b, PathSettings(kind, steps=steps, batch_size=23))
    mean = torch.stack(handed).mean(0)

    def mean_loss(bend):
        path, parts = Path(kind, bend, 0), 200
        return sum(function.loss(path.point((i + 0.5) / parts, a, b)) for i in range(parts)) / parts

    middle, step = (a + b) / 2, 1e-5
    for entry in (0, 40, function.size - 1):
        unit = torch.zeros_like(a)
        unit[entry] = step
        slope = (mean_loss(middle + unit) - mean_loss(middle - unit)) / (2 * step)
        assert float(mean[entry]) == pytest.approx(slope, abs=0.01 * float(mean.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tanh", "batch_norm", "functional", "twice", "instances"])
def test_one_step_s_gradient_is_that_of_finite_differences(kind, name, monkeypatch):
    of = {**CASES, **NETS}[name]
    function, _ = objective(of)
    a, b = two_points(function)
    handed = []
    monkeypatch.setattr(curves, "_adam_step", lambda bend, gradient, *_: handed.append(gradient))
    count = function.rows.count
    train_path(function, a, b, PathSettings(kind, steps=1, batch_size=count, seed=3))
    (gradient,) = handed
    t = float(torch.rand((), generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    training, _ = objective(of, mode="train")  # batch norm as PyTorch's own train() has it

    def loss(bend):
        return training.loss(Path(kind, bend, 0).point(t, a, b))

    middle, step = (a + b) / 2, 1e-6
    for entry in range(0, function.size, 17 if function.size < 400 else 53):
        unit = torch.zeros_like(a)
        unit[entry] = step
        slope = (loss(middle + unit) - loss(middle - unit)) / (2 * step)
        assert float(gradient[entry]) == pytest.approx(slope, abs=1e-7)


def test_the_batches_are_all_rows_once_an_epoch_and_always_full():
    found = curves._batches(23, 5, torch.Generator().manual_seed(0))
    for _ in range(3):
        epoch = torch.cat([next(found) for _ in range(4)])
        assert len(set(epoch.tolist())) == 20


def test_the_seed_is_all_that_a_path_depends_on():
    function, _ = objective(CASES["tanh"])
    a, b = two_points(function)
    state = torch.get_rng_state()
    first = train_path(function, a, b, PathSettings(steps=20, batch_size=8))
    torch.rand(3)
    again = train_path(function, a, b, PathSettings(steps=20, batch_size=8))
    other = train_path(function, a, b, PathSettings(steps=20, batch_size=8, seed=1))
    assert torch.equal(first.bend, again.bend)
    assert not torch.equal(first.bend, other.bend)
    torch.set_rng_state(state)
    train_path(function, a, b, PathSettings(steps=20, batch_size=8))
    assert torch.equal(torch.get_rng_state(), state)


def test_how_the_objective_splits_its_batches_does_not_matter():
    settings = PathSettings(steps=20, batch_size=16)
    bends = []
    for size in (None, 3):
        function, _ = objective(CASES["tanh"], batch_size=size)
        bends.append(train_path(function, *two_points(function), settings).bend)
    assert torch.allclose(*bends, atol=1e-12)


def test_equal_ends_stay_where_they_are():
    function, theta = objective(CASES["tanh"])
    path = train_path(function, theta, theta.clone(), PathSettings())
    assert torch.equal(path.bend, theta)
    assert path.steps == 0
    for t in (0.0, 0.3, 1.0):
        assert torch.allclose(path.point(t, theta, theta), theta, rtol=1e-15)


def test_the_ends_the_buffers_and_the_modes_are_left_alone():
    function, theta = objective(CASES["batch_norm"])
    a, b = theta.clone(), theta + 1
    before = {key: tensor.clone() for key, tensor in function.fixed.items()}
    modes = [module.training for module in function.network.model.modules()]
    path = train_path(function, a, b, PathSettings(steps=5, batch_size=8))
    assert torch.equal(a, theta)
    assert torch.equal(b, theta + 1)
    assert torch.isfinite(path.bend).all()
    for key, tensor in function.fixed.items():
        assert torch.equal(tensor, before[key])
    assert [module.training for module in function.network.model.modules()] == modes


def test_the_modes_are_restored_after_an_interruption():
    function, theta = objective(CASES["batch_norm"])

    def interrupt(done, total):
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train_path(function, theta, theta + 1, PathSettings(steps=5), interrupt)
    assert not any(module.training for module in function.network.model.modules())


def test_dropout_stays_off_beside_batch_statistics():
    def model():
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    function, _ = objective(task(model, vectors(5, 3)))
    a, b = two_points(function)
    state = torch.get_rng_state()
    train_path(function, a, b, PathSettings(steps=5, batch_size=8))
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_the_steps():
    function, _ = objective(CASES["tanh"])
    told = []
    settings = PathSettings(steps=3)
    train_path(function, *two_points(function), settings, lambda *seen: told.append(seen))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_diverging_path_names_the_learning_rate():
    def cliff(outputs):
        return outputs.square().sum(1).exp()

    a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(SharpError) as caught:
        train_path(landscape(cliff), a, b, PathSettings(steps=50, lr=1000.0))
    assert caught.value.message.startswith("the training of the path diverged: the loss is inf")
    assert "of 50" in caught.value.message
    assert caught.value.hint == "use a smaller path.lr (it is 1000)"


def test_a_line_that_is_not_finite_is_not_the_learning_rate_s_fault():
    a, b = torch.tensor([[1.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    with pytest.raises(SharpError, match="inf on the straight line where it starts") as caught:
        train_path(landscape(lambda out: (1e3 * out[:, 0]).exp()), a, b, PathSettings())
    assert 'dtype="float64"' in caught.value.hint


def test_batch_norm_needs_two_examples():
    function, theta = objective(CASES["batch_norm"])
    with pytest.raises(SharpError, match="batches of two examples or more") as caught:
        train_path(function, theta, theta + 1, PathSettings(batch_size=1))
    assert "path.batch_size" in caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "spline"}, 'path="spline"'),
        ({"steps": 0}, "path.steps=0"),
        ({"batch_size": 0}, "path.batch_size=0"),
        ({"lr": 0.0}, "path.lr=0.0"),
        ({"lr": math.inf}, "path.lr=inf"),
        ({"lr": math.nan}, "path.lr=nan"),
    ],
)
def test_settings_out_of_range_are_named(wrong, message):
    with pytest.raises(UsageError, match=message):
        PathSettings(**wrong)


DIGITS = {
    "mlp": ({}, TrainSettings("sgd", lr=0.1, momentum=0.9, epochs=10)),
    "cnn": ({"model": "cnn", "width": "8"}, TrainSettings("adam", lr=5e-3, epochs=5)),
    "batch_norm": ({"batch_norm": "true"}, TrainSettings("sgd", lr=0.1, epochs=5)),
}


@pytest.mark.parametrize("name", DIGITS)
def test_two_seeds_on_real_digits_are_joined_by_paths_of_low_loss(name):
    options, settings = DIGITS[name]
    digits = load_task("digits", options)
    study = prepare(digits, RunSettings(device="cpu"), CPU)
    ends = [train(digits, replace(settings, seed=seed)).tensors for seed in (0, 1)]
    function = study.objectives(ends[0])["train"]
    a, b = (study.network.flatten(tensors) for tensors in ends)

    def barrier(point):
        losses = []
        for i in range(21):
            theta = point(i / 20)
            buffers = batch_statistics(function, theta, function.fixed)
            losses.append(Objective(study.network, function.rows, buffers).loss(theta))
        chord = [losses[0] + i / 20 * (losses[-1] - losses[0]) for i in range(21)]
        return max(loss - base for loss, base in zip(losses, chord, strict=True))

    line = barrier(lambda t: (1 - t) * a + t * b)
    assert line > 0.2
    for kind in KINDS:
        path = train_path(function, a, b, PathSettings(kind, steps=200))
        assert barrier(lambda t, path=path: path.point(t, a, b)) <= line / 10


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tanh", "batch_norm", "tied", "mapping"])
def test_a_gpu_trains_the_same_path(name, kind):
    bends = []
    for device in ("cpu", "cuda"):
        run = RunSettings(device=device, dtype="float64")
        study = prepare(CASES[name], run, torch.device(device))
        tensors = CASES[name].model().state_dict()
        function = study.objectives(tensors)["train"]
        a = study.network.flatten(tensors)
        b = a + two_points(function)[0].to(a)
        path = train_path(function, a, b, PathSettings(kind, steps=30, batch_size=8))
        assert path.bend.device == a.device
        assert torch.equal(path.point(1.0, a, b), b)
        bends.append(path.bend.cpu())
    assert torch.allclose(*bends, rtol=0, atol=1e-6)
