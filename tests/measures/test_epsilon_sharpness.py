"""Keskar's metric where it is known in closed form, and against SciPy where it is not."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import CASES, context, dense_gradient, dense_loss, real_targets, squared_error, task
from scipy.optimize import Bounds, minimize
from torch import nn

from sharpcli.errors import UsageError
from sharpcli.measures import subspace
from sharpcli.measures.epsilon_sharpness import epsilon_sharpness
from sharpcli.measures.subspace import RandomSubspace


def entries(of, dtype="float64", **settings):
    return epsilon_sharpness(context(of, dtype, **settings))["epsilon_sharpness"]


def entry(of, dtype="float64", epsilon=1e-3, **settings):
    (found,) = entries(of, dtype, epsilons=(epsilon,), **settings)
    return found


def flat_linear(loss):
    return task(lambda: nn.Linear(4, 1, bias=False), real_targets(4, 1), loss=loss, metrics=None)


LINEAR = flat_linear(lambda outputs, batch: 5 + outputs[:, 0])
QUADRATIC = flat_linear(squared_error)


def theta_of(of):
    return torch.cat([p.detach().double().reshape(-1) for p in of.model().parameters()])


def columns(of, dimensions, seed=0, draw=0):
    """The matrix A (n, p) that a run with this seed draws."""
    space = RandomSubspace(theta_of(of), dimensions, seed, draw)
    return torch.stack([space.lift(row) for row in torch.eye(dimensions, dtype=torch.float64)], 1)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("epsilon", [5e-4, 1e-3, 0.1])
def test_a_linear_loss_has_it_in_closed_form(epsilon, dtype):
    slope = LINEAR.data("train")[0].double().mean(0)
    loss = 5 + float(slope @ theta_of(LINEAR))
    bound = epsilon * (theta_of(LINEAR).abs() + 1)
    true = 100 * float(bound @ slope.abs()) / (1 + loss)
    found = entry(LINEAR, dtype, epsilon)
    limit = {"float64": 1e-11, "float32": 1e-3}[dtype]
    assert found["value"] == pytest.approx(true, rel=limit)
    for value in found["by_maximizer"].values():
        assert value == pytest.approx(true, rel=limit)
    assert found["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_a_linear_loss_in_subspaces_has_it_in_closed_form(dimensions, dtype):
    """Each draw of A by itself; the value is their mean, with its standard error."""
    slope = LINEAR.data("train")[0].double().mean(0).numpy()
    loss = 5 + slope @ theta_of(LINEAR).numpy()
    true = []
    for draw in range(5):
        matrix = columns(LINEAR, dimensions, draw=draw).numpy()
        bound = 1e-3 * (np.abs(np.linalg.pinv(matrix) @ theta_of(LINEAR).numpy()) + 1)
        true.append(100 * (bound @ np.abs(matrix.T @ slope)) / (1 + loss))
    found = entry(LINEAR, dtype, subspaces=(dimensions,))
    assert found["subspace"] == dimensions
    assert found["draws"] == pytest.approx(true, rel=1e-9)
    assert found["value"] == pytest.approx(np.mean(true), rel=1e-9)
    assert found["error"] == pytest.approx(np.std(true, ddof=1) / 5**0.5, rel=1e-6)
    assert (found["status"], found["error_kind"]) == ("lower_bound", "standard_error")
    assert len(set(true)) == 5


def test_the_first_draw_is_the_same_however_many_there_are():
    few = entry(CASES["tanh"], subspaces=(6,), draws=1)
    more = entry(CASES["tanh"], subspaces=(6,), draws=3)
    assert few["draws"] == [few["value"]] == more["draws"][:1]
    assert (few["error"], few["error_kind"]) == (None, "lower_bound")
    assert more["evaluations"] > 2 * few["evaluations"]


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 0.3])
def test_a_quadratic_loss_is_largest_in_its_best_corner(epsilon):
    inputs, targets = (part.double() for part in QUADRATIC.data("train"))
    bound = epsilon * (theta_of(QUADRATIC).abs() + 1)

    def loss(theta):
        return float((inputs @ theta - targets[:, 0]).square().mean())

    corners = [
        loss(theta_of(QUADRATIC) + bound * torch.tensor(signs, dtype=torch.float64))
        for signs in itertools.product((-1.0, 1.0), repeat=4)
    ]
    start = loss(theta_of(QUADRATIC))
    found = entry(QUADRATIC, epsilon=epsilon)
    assert found["loss_at_maximum"] == pytest.approx(max(corners), rel=1e-9)
    assert found["value"] == pytest.approx(100 * (max(corners) - start) / (1 + start), rel=1e-9)


@pytest.mark.parametrize("name", ["tanh", "batch_norm", "ignored_tokens", "tied", "encoder"])
def test_the_small_box_is_the_linear_limit(name):
    start = dense_loss(name)
    shared = context(CASES[name], epsilons=(1e-7,))
    bound = 1e-7 * (shared.theta.abs() + 1)
    true = 100 * float(bound @ dense_gradient(name).abs()) / (1 + start)
    assert epsilon_sharpness(shared)["epsilon_sharpness"][0]["value"] == pytest.approx(
        true, rel=1e-4
    )


@pytest.mark.parametrize("name", ["tanh", "conv", "ignored_tokens"])
def test_an_entry_says_what_was_found_and_how(name):
    shared = context(CASES[name], epsilons=(1e-3, 5e-4), subspaces=(None, 6))
    found = epsilon_sharpness(shared)["epsilon_sharpness"]
    assert [(e["epsilon"], e["subspace"]) for e in found] == [
        (1e-3, None),
        (5e-4, None),
        (1e-3, 6),
        (5e-4, 6),
    ]
    for one in found:
        assert one["status"] == "lower_bound"
        if one["subspace"] is None:
            assert (one["error"], one["error_kind"]) == (None, "lower_bound")
            assert "draws" not in one
            assert one["value"] == max(one["by_maximizer"].values())
        else:
            assert one["error_kind"] == "standard_error"
            assert one["error"] > 0
            assert len(one["draws"]) == 5
            assert one["value"] == pytest.approx(sum(one["draws"]) / 5)
            assert one["value"] >= max(one["by_maximizer"].values()) * (1 - 1e-12)
        assert set(one["by_maximizer"]) == {"lbfgsb", "corner"}
        assert one["value"] == pytest.approx(
            100 * (one["loss_at_maximum"] - one["loss"]) / (1 + one["loss"]), rel=1e-9
        )
        assert one["loss"] == pytest.approx(dense_loss(name), rel=1e-12)
    assert found[0]["value"] > found[1]["value"] > 0
    assert found[2]["value"] > found[3]["value"] > 0
    # One gradient at the centre serves all of them; no evaluation goes uncounted, but for the two
    # that tell whether losses can be had many at once.
    assert sum(one["evaluations"] for one in found) + 3 >= shared.objective.evaluations


@pytest.mark.parametrize("maximizer", ["lbfgsb", "corner", "raw"])
def test_one_maximizer_alone(maximizer):
    found = entry(CASES["tanh"], maximizer=maximizer)
    assert list(found["by_maximizer"]) == [maximizer]
    assert found["evaluations"] > 0
    assert found["value"] == found["by_maximizer"][maximizer] > 0


def test_columns_made_anew_give_the_same_numbers(monkeypatch):
    kept = entry(CASES["tanh"], subspaces=(10,))
    monkeypatch.setattr(subspace, "available_memory", lambda device: 0)
    anew = entry(CASES["tanh"], subspaces=(10,))
    assert anew["value"] == pytest.approx(kept["value"], rel=1e-10)
    assert anew["evaluations"] == kept["evaluations"]


def test_the_seed_chooses_the_subspace():
    values = [entry(CASES["tanh"], subspaces=(10,), seed=seed)["value"] for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_more_dimensions_than_parameters_is_misuse():
    with pytest.raises(UsageError, match="subspaces=5: the model has only 4 parameters"):
        entry(LINEAR, subspaces=(5,))


def test_a_negative_loss_is_maximised_as_it_is():
    of = flat_linear(lambda outputs, batch: outputs[:, 0] - 0.3)
    slope = of.data("train")[0].double().mean(0)
    loss = float(slope @ theta_of(of)) - 0.3
    assert -1 < loss < 0
    bound = 1e-3 * (theta_of(of).abs() + 1)
    true = 100 * float(bound @ slope.abs()) / (1 + loss)
    assert entry(of)["value"] == pytest.approx(true, rel=1e-9)


def test_maximizers_that_differ_are_warned_of():
    """A bump whose top is inside the box: every corner is lower than the centre."""

    def bump(outputs, batch):
        far = outputs.square().mean()
        return 1 + torch.exp(-1e4 * far).expand(len(outputs))

    def model():
        layer = nn.Linear(4, 1, bias=False)
        nn.init.constant_(layer.weight, 4e-3)
        return layer

    of = task(model, real_targets(4, 1), loss=bump, metrics=None)
    shared = context(of, epsilons=(0.02,))
    found = epsilon_sharpness(shared)["epsilon_sharpness"][0]
    assert found["by_maximizer"]["lbfgsb"] > 1.1 * found["by_maximizer"]["corner"]
    assert len(shared.warnings) == 1
    assert "maximisers of ε-sharpness (ε=0.02) differ by more than 10 %" in shared.warnings[0]
    assert "say which" in shared.warnings[0]
    agreed = context(LINEAR)
    epsilon_sharpness(agreed)
    assert agreed.warnings == []


# Saturated minima


def saturated(loss):
    """An MLP that separates its data, its logits scaled until the train loss is `loss`."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(40, 6, generator=generator)
    targets = (inputs[:, 0] + 0.5 * inputs[:, 1] > 0).long()

    def model():
        network = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2))
        optimizer = torch.optim.Adam(network.parameters(), 0.03)
        for _ in range(200):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
        with torch.no_grad():
            low, high = 0.0, 200.0
            scores = network(inputs).double()
            for _ in range(60):
                scale = (low + high) / 2
                now = float(nn.functional.cross_entropy(scale * scores, targets))
                low, high = (scale, high) if now > loss else (low, scale)
            network[2].weight *= low
            network[2].bias *= low
        return network

    return task(model, lambda count, generator: (inputs, targets))


LOSSES = (1e-1, 1e-3, 1e-5, 1e-7)


@pytest.fixture(scope="module", params=LOSSES, ids=str)
def minimum(request):
    of = saturated(request.param)
    made = of.model()
    return request.param, replace(of, model=lambda: made)


def scipy_run(of, epsilon, *, scaled):
    """SciPy's L-BFGS-B on −L over the box, or on −log L over [−1, 1]ⁿ: the loss it reached."""
    shared = context(of)
    theta = shared.theta
    bound = epsilon * (theta.abs() + 1)

    def function(z):
        shift = bound * torch.from_numpy(z) if scaled else torch.from_numpy(z)
        value, gradient = shared.objective.gradient(theta + shift)
        if scaled:
            return -math.log(value), (-bound * gradient / value).numpy()
        return -value, -gradient.numpy()

    limit = np.ones(len(theta)) if scaled else bound.numpy()
    found = minimize(
        function,
        np.zeros(len(theta)),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(-limit, limit),
        options={"maxiter": 10, "maxcor": 10},
    )
    start = shared.objective.loss(theta)
    top = math.exp(-found.fun) if scaled else -found.fun
    return 100 * (top - start) / (1 + start)


def test_never_lower_than_scipy_on_the_scaled_problem(minimum):
    loss, of = minimum
    assert entry(of)["loss"] == pytest.approx(loss, rel=0.05)
    for epsilon in (1e-3, 5e-4, 0.02):
        found = entry(of, epsilon=epsilon, maximizer="lbfgsb")["value"]
        assert found >= 0.99 * scipy_run(of, epsilon, scaled=True)
        assert entry(of, epsilon=epsilon)["value"] >= found


def test_raw_is_scipys_own_run(minimum):
    _, of = minimum
    found = entry(of, maximizer="raw")["value"]
    assert found == pytest.approx(scipy_run(of, 1e-3, scaled=False), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_saturated_minimum_does_not_stall_where_raw_does(dtype):
    of = saturated(1e-7)
    assert entry(of, dtype, maximizer="raw")["value"] < 1e-12
    found = entry(of, dtype)
    for value in found["by_maximizer"].values():
        assert value > 0
    assert found["loss_at_maximum"] > 1.02 * found["loss"]


def test_gradients_at_theta_are_computed_for_the_first_box_alone():
    """Of later boxes the numbers are those that each gives alone, two gradients cheaper."""
    epsilons = (1e-3, 5e-4)
    together = epsilon_sharpness(context(CASES["tanh"], epsilons=epsilons))["epsilon_sharpness"]
    for index, epsilon in enumerate(epsilons):
        alone = epsilon_sharpness(context(CASES["tanh"], epsilons=(epsilon,)))["epsilon_sharpness"]
        assert together[index]["by_maximizer"] == alone[0]["by_maximizer"]
        assert together[index]["evaluations"] == alone[0]["evaluations"] - 2 * index


# The true maximum of small networks


def every_corner(of, epsilon):
    """φ of the best of all corners, in float64 by plain torch."""
    model = of.model().double()
    shapes = [p.shape for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    theta = theta_of(of)
    batch = tuple(each.double() if each.is_floating_point() else each for each in of.data("train"))

    def loss(point):
        parts = point.split([shape.numel() for shape in shapes])
        own = {k: v.view(s) for k, v, s in zip(names, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(model, own, (batch[0],))
        found = of.loss(outputs, batch)
        return found[0].sum() / found[1].sum() if isinstance(found, tuple) else found.mean()

    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=len(theta)))).double()
    corners = theta + epsilon * (theta.abs() + 1) * signs
    start = float(loss(theta))
    return 100 * (float(torch.vmap(loss)(corners).max()) - start) / (1 + start)


def at_its_own_targets(size):
    """Squares with targets that the model gives: every example's gradient is exactly 0."""
    inputs = torch.randn(60, size, generator=torch.Generator().manual_seed(2))

    def model():
        layer = nn.Linear(size, 1, bias=False)
        nn.init.constant_(layer.weight, 0.5)
        return layer

    # Sums of multiples of 1/2 in the order of a matrix product: the same bits.
    targets = torch.nn.functional.linear(inputs, torch.full((1, size), 0.5))
    wide = torch.nn.functional.linear(inputs.double(), torch.full((1, size), 0.5).double())

    def loss(outputs, batch):
        own = wide if outputs.dtype == torch.float64 else targets
        return squared_error(outputs, (batch[0], own[: len(outputs)]))

    return task(model, lambda count, generator: (inputs, targets), loss=loss, metrics=None)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_a_stationary_point_has_its_best_corner(epsilon, dtype):
    of = at_its_own_targets(9)
    found = entry(of, dtype, epsilon)
    assert found["corners"] == 2**9
    assert found["value"] == pytest.approx(every_corner(of, epsilon), rel=1e-9)


def test_a_stationary_point_with_many_parameters_is_left_by_random_corners():
    of = at_its_own_targets(40)
    found = entry(of)
    inputs = of.data("train")[0].double()
    bound = 1.5e-3  # ε(|θᵢ| + 1) with θᵢ = 1/2
    generator = torch.Generator().manual_seed(0)
    best = 0.0
    for _ in range(50):
        corner = torch.randn(40, generator=generator, dtype=torch.float64).sign()
        for _ in range(20):
            corner = (inputs.T @ (inputs @ corner)).sign()
        best = max(best, float((inputs @ (bound * corner)).square().mean()))
    assert found["corners"] is None
    assert found["value"] >= 0.99 * 100 * best


def kinked(steps):
    """A ReLU network of 12 parameters, whose ascents from the centre end at a lesser corner."""
    generator = torch.Generator().manual_seed(11)
    inputs = torch.randn(120, 2, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()

    def model():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
        return network

    made = model()
    return replace(task(model, lambda count, g: (inputs, targets)), model=lambda: made)


@pytest.mark.parametrize("steps", [0, 400])
@pytest.mark.parametrize("epsilon", [5e-4, 1e-3, 1.0])
def test_a_small_network_has_at_least_its_best_corner(steps, epsilon):
    of = kinked(steps)
    true = every_corner(of, epsilon)
    for dtype in ("float64", "float32"):
        found = entry(of, dtype, epsilon)
        assert found["corners"] == 2**12
        assert found["by_maximizer"]["corner"] == pytest.approx(true, rel=1e-9)
        assert found["value"] >= true * (1 - 1e-9)


def test_a_model_that_vmap_does_not_take_has_its_corners_one_by_one():
    def asks(outputs, batch):
        return squared_error(outputs, batch) * (
            1.0 if float(outputs.detach().sum()) > -1e9 else 2.0
        )

    found = entry(flat_linear(asks))
    assert found["corners"] == 16
    assert found["by_maximizer"] == pytest.approx(entry(QUADRATIC)["by_maximizer"], rel=1e-12)


def test_a_loss_that_is_negative_in_the_box_is_searched_all_the_same():
    """From a small positive loss the ascent passes corners whose losses have no logarithm."""
    of = flat_linear(lambda outputs, batch: 0.01 + outputs[:, 0] ** 3 + (5 * outputs[:, 0]).sin())
    for epsilon in (1e-2, 3.0):
        true = every_corner(of, epsilon)
        assert entry(of, epsilon=epsilon)["value"] >= true * (1 - 1e-9) > 0


@pytest.mark.parametrize("offset", [0.0, -1.5])
def test_where_one_plus_the_loss_is_not_positive_there_is_no_value(offset):
    of = flat_linear(lambda outputs, batch: 0 * outputs[:, 0] - 1 + offset)
    shared = context(of, dtype="float64", epsilons=(1e-3,))
    (found,) = epsilon_sharpness(shared)["epsilon_sharpness"]
    assert math.isnan(found["value"])
    assert any("divides by 1 + L" in each for each in shared.warnings)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_maximum_inside_a_large_box_is_found_among_many(seed):
    """The reference is a grid of 61³ points; eight random points reached 0.87 of it."""
    of = task(
        lambda: nn.Linear(3, 1, bias=False),
        real_targets(3, 1),
        loss=lambda outputs, batch: (40 * outputs[:, 0]).sin() + 1.5,
        metrics=None,
        seed=seed,
        train=20,
    )
    inputs, theta = of.data("train")[0].double(), theta_of(of)
    places = torch.linspace(-1, 1, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(places, places, places) * 0.1 * (theta.abs() + 1)

    def loss(shifts):
        return ((40 * (theta + shifts) @ inputs.T).sin() + 1.5).mean(1)

    start = float(loss(0 * theta[None]))
    true = 100 * (float(loss(grid).max()) - start) / (1 + start)
    assert entry(of, epsilon=0.1)["value"] >= 0.99 * true


def test_large_boxes_have_more_starts():
    spent = [entry(CASES["tanh"], epsilon=e, maximizer="corner")["evaluations"] for e in (1e-3, 1)]
    assert spent[1] > spent[0]


# What float32 resolves


@pytest.mark.parametrize("epsilon", [1e-7, 1e-8, 1e-10])
def test_a_box_too_narrow_for_float32_has_the_value_of_float64(epsilon):
    start = dense_loss("tanh")
    shared = context(CASES["tanh"], "float32", epsilons=(epsilon,))
    bound = epsilon * (shared.theta.double().abs() + 1)
    true = 100 * float(bound @ dense_gradient("tanh").abs()) / (1 + start)
    (found,) = epsilon_sharpness(shared)["epsilon_sharpness"]
    assert found["value"] == pytest.approx(true, rel=1e-4)
    assert found["status"] == "lower_bound"


@pytest.mark.parametrize("epsilon", [1e-3, 3e-6])
def test_in_float32_the_value_is_not_above_what_float64_has_in_the_box(epsilon):
    """A loss that is linear: the maximum is known to the last digit."""
    found = entry(LINEAR, "float32", epsilon)
    slope = LINEAR.data("train")[0].double().mean(0)
    start = 5 + float(slope @ theta_of(LINEAR))
    bound = epsilon * (theta_of(LINEAR).abs() + 1)
    true = 100 * float(bound @ slope.abs()) / (1 + start)
    assert true * (1 - 1e-6) <= found["value"] <= true * (1 + 1e-9)
    assert found["loss"] == pytest.approx(start, rel=1e-14)


class InFloat32(nn.Module):
    """A model with float32 written into it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 30)

    def forward(self, inputs):
        return self.layer(inputs.float()).sum(1, keepdim=True)


def test_without_float64_what_rounding_hides_is_marked():
    of = task(InFloat32, real_targets(4, 1), loss=squared_error, metrics=None)
    wide, narrow = entries(of, "float32", epsilons=(1e-3, 1e-8))
    assert wide["status"] == "lower_bound"
    assert narrow["status"] == "precision"
    assert 'use dtype="float64"' in narrow["advice"]


def test_losses_that_float32_rounds_to_zero_are_searched_in_float64():
    """Separated data: float32's cross-entropy is 0 all over the box, and its gradient too."""

    def plain(outputs, batch):
        return nn.functional.cross_entropy(outputs, batch[1], reduction="none")

    of = replace(saturated(1e-9), loss=plain)
    made = of.model()
    of = replace(of, model=lambda: made)
    narrow, wide = (entry(of, dtype) for dtype in ("float32", "float64"))
    assert narrow["value"] == pytest.approx(wide["value"], rel=1e-2)
    assert narrow["value"] > 0


def test_in_float64_a_box_below_rounding_is_marked():
    found = entry(CASES["tanh"], epsilon=1e-16)
    assert found["status"] == "precision"
    assert "use larger epsilons" in found["advice"]


def test_a_loss_that_does_not_depend_on_the_parameters_has_none_and_is_not_marked():
    found = entry(flat_linear(lambda outputs, batch: 0 * outputs[:, 0] + 0.5))
    assert (found["value"], found["status"]) == (0, "lower_bound")
