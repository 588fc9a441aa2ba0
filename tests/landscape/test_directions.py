"""Directions: norms, angles and signs to the digit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    CASES,
    CPU,
    mlp,
    task,
    vectors,
)
from torch import nn

from sharpcli.errors import SharpError, UsageError
from sharpcli.landscape.directions import (
    NORMALIZATIONS,
    cosine,
    normalize_direction,
    random_directions,
)
from sharpcli.objective.network import Network


def network_of(model, dtype=torch.float64):
    """A network and θ of a module; no data are needed."""
    of = task(lambda: model, vectors(2, 2))
    network = Network(model, of, device=CPU, dtype=dtype)
    return network, network.flatten(dict(model.state_dict()))


def case(name, dtype=torch.float32):
    return network_of(CASES[name].model(), dtype)


def norms(network, vector, normalize):
    """By tensor, one norm a filter or a tensor; plain loops that share no code with the package."""
    found = []
    for part in network.unflatten(vector.double()):
        if part.ndim < 2:
            continue
        for piece in part if normalize == "filter" else [part]:
            found.append(piece.square().sum().sqrt())
    return torch.stack(found)


def relative_to(found, true):
    return float(((found - true).abs() / true.clamp_min(1e-30)).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalize", ["filter", "layer"])
@pytest.mark.parametrize("name", CASES)
def test_both_axes_have_the_weights_norms_and_a_right_angle(name, normalize, dtype):
    network, theta = case(name, dtype)
    first, second = random_directions(network, theta, 2, seed=3, normalize=normalize)
    for direction in (first, second):
        assert direction.dtype == dtype
        true = norms(network, theta, normalize)
        assert relative_to(norms(network, direction, normalize), true) < 1e-6
        for part in network.unflatten(direction):
            assert part.ndim >= 2 or not part.any()
    assert abs(cosine(first, second)) < 1e-7
    rounding = 4 * torch.finfo(dtype).eps
    for a, b in zip(network.unflatten(first), network.unflatten(second), strict=True):
        if a.ndim >= 2 and len(a[0].flatten()) > 1:  # and inside each filter or tensor
            rows = (a.flatten(1), b.flatten(1)) if normalize == "filter" else (a[None], b[None])
            a, b = (row.flatten(1).double() for row in rows)
            assert bool(((a * b).sum(1).abs() <= rounding * a.norm(dim=1) * b.norm(dim=1)).all())


def test_without_normalization_draws_are_as_drawn_in_every_tensor():
    network, theta = case("conv")
    first, second = random_directions(network, theta, 2, normalize="none")
    true = torch.randn(
        network.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    assert torch.equal(first, true.float())
    assert abs(cosine(first, second)) < 1e-7
    assert bool((second != 0).all())
    assert 0.8 < float(second.norm()) / network.size**0.5 < 1.2


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_seed_means_the_same_directions_whatever_the_rest(normalize):
    network, theta = case("attention", torch.float64)
    single, rounded = case("attention", torch.float32)
    pair = random_directions(network, theta, 2, seed=5, normalize=normalize)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = random_directions(network, theta, 2, seed=5, normalize=normalize)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is nobody's
    assert all(torch.equal(a, b) for a, b in zip(pair, again, strict=True))
    in_single = random_directions(single, rounded, 2, seed=5, normalize=normalize)
    for a, b in zip(pair, in_single, strict=True):
        assert torch.allclose(a.float(), b, rtol=1e-6, atol=1e-7)
    assert torch.equal(
        pair[0], random_directions(network, theta, 1, seed=5, normalize=normalize)[0]
    )
    other = random_directions(network, theta, 1, seed=6, normalize=normalize)[0]
    assert abs(cosine(pair[0], other)) < 0.5


def test_filters_are_slices_along_the_first_dimension():
    model = nn.ModuleList(
        [
            nn.Conv2d(4, 6, 3, groups=2),
            nn.ConvTranspose2d(3, 5, 2),
            nn.Embedding(7, 2),
            nn.Linear(4, 3),
        ]
    )
    network, theta = network_of(model)
    first, _ = random_directions(network, theta)
    assert len(norms(network, theta, "filter")) == 6 + 3 + 7 + 3
    assert relative_to(norms(network, first, "filter"), norms(network, theta, "filter")) < 1e-12


@pytest.mark.parametrize("seed", range(8))
def test_filters_of_one_entry_are_made_up_for_by_the_others(seed):
    network, theta = network_of(mlp(1, 64, 2))  # 64 filters of one entry, two of 64
    first, second = random_directions(network, theta, 2, seed=seed)
    for direction in (first, second):
        assert relative_to(norms(network, direction, "filter"), norms(network, theta, "filter")) < (
            1e-6
        )
    assert abs(cosine(first, second)) < 1e-12


def test_signs_of_one_entry_filters_turn_where_the_others_have_no_room():
    network, theta = network_of(nn.Linear(1, 101, bias=False))
    for seed in range(5):
        first, second = random_directions(network, theta, 2, seed=seed)
        assert torch.allclose(second.abs(), theta.abs(), rtol=1e-12)
        assert abs(cosine(first, second)) < 1e-3  # what single entries leave


def test_a_network_that_is_one_entry_has_no_second_direction_and_the_cosine_says_so():
    network, theta = network_of(nn.Linear(1, 1, bias=False))
    first, second = random_directions(network, theta)
    assert abs(cosine(first, second)) == pytest.approx(1)


def test_zero_filters_stay_where_they_are():
    model = mlp(5, 9, 3)
    with torch.no_grad():
        model[0].weight[[2, 7]] = 0
        model[2].weight[1] = 0
    network, theta = network_of(model, torch.float32)
    for direction in random_directions(network, theta):
        weight, _, head, _ = network.unflatten(direction)
        assert not weight[[2, 7]].any()
        assert not head[1].any()
        assert weight[[0, 1, 3]].all()
        assert bool(torch.isfinite(direction).all())
    pair = random_directions(network, theta)
    assert abs(cosine(*pair)) < 1e-7


def test_where_nothing_would_move_it_is_said():
    network, theta = case("tanh")
    with pytest.raises(SharpError, match='normalize="layer" leaves nothing to move') as caught:
        random_directions(network, torch.zeros_like(theta), normalize="layer")
    assert caught.value.hint == 'use normalize="none"'
    only_biases = torch.cat(
        [torch.full_like(p, p.ndim < 2).flatten() for p in network.unflatten(theta)]
    )
    with pytest.raises(SharpError, match='normalize="filter" leaves nothing'):
        normalize_direction(network, theta, only_biases, "filter")


def test_a_misspelt_normalization_is_an_error_that_knows_the_right_one():
    network, theta = case("tanh")
    for call in (
        lambda: random_directions(network, theta, normalize="filters"),
        lambda: normalize_direction(network, theta, theta, "filters"),
    ):
        with pytest.raises(UsageError, match='normalize="filters"') as caught:
            call()
        assert caught.value.hint == "did you mean 'filter'?"
    with pytest.raises(UsageError) as caught:
        random_directions(network, theta, normalize="x")
    assert caught.value.hint == "there are: filter, layer, none"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 4),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 1000),
)
def test_any_shapes_and_scales(rows, columns, scale, seed):
    torch.manual_seed(seed)
    model = nn.ModuleList([nn.Linear(columns, rows), nn.Conv1d(2, rows, columns), nn.Linear(3, 2)])
    with torch.no_grad():
        model[0].weight.mul_(scale)
    network, theta = network_of(model, torch.float32)
    first, second = random_directions(network, theta, 2, seed=seed)
    for direction in (first, second):
        assert relative_to(norms(network, direction, "filter"), norms(network, theta, "filter")) < (
            1e-6
        )
    squares = norms(network, theta, "filter").square()
    lonely = squares[:rows].sum() if columns == 1 else 0.0
    if lonely < squares.sum() / 2:  # else no choice of angles could do it
        assert abs(cosine(first, second)) < 1e-6


@pytest.mark.parametrize("normalize", ["filter", "layer"])
def test_any_direction_can_be_given_the_weights_norms(normalize):
    network, theta = case("encoder")
    direction = torch.randn(network.size, generator=torch.Generator().manual_seed(2))
    kept = direction.clone()
    scaled = normalize_direction(network, theta, direction, normalize)
    assert torch.equal(direction, kept)
    true = norms(network, theta, normalize)
    assert relative_to(norms(network, scaled, normalize), true) < 1e-6
    again = normalize_direction(network, theta, scaled, normalize)
    assert torch.allclose(again, scaled, rtol=1e-6)
    unscaled = normalize_direction(network, theta, direction, "none")
    assert torch.equal(unscaled, direction)


def test_rounding_in_a_filter_does_not_become_a_direction():
    network, theta = case("tanh")
    direction = torch.randn(network.size, generator=torch.Generator().manual_seed(2))
    network.unflatten(direction)[0][4] = 1e-9
    scaled = normalize_direction(network, theta, direction, "filter")
    assert not network.unflatten(scaled)[0][4].any()
    assert network.unflatten(scaled)[0][3].all()


def test_the_cosine_is_that_of_the_angle():
    a, b = torch.tensor([2.0, 0, 0]), torch.tensor([3.0, 0, 3.0])
    assert cosine(a, b) == pytest.approx(0.5**0.5)
    assert cosine(a, -a) == -1
    assert cosine(a, torch.zeros(3)) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_directions_on_a_gpu_are_those_of_the_cpu(normalize):
    network, theta = case("conv")
    of = CASES["conv"]
    there = Network(of.model(), of, device=torch.device("cuda"))
    on_cpu = random_directions(network, theta, 2, seed=4, normalize=normalize)
    on_gpu = random_directions(there, theta.cuda(), 2, seed=4, normalize=normalize)
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert b.device.type == "cuda"
        assert torch.equal(a, b.cpu())
    assert abs(cosine(*on_gpu)) < 1e-7
    scaled = normalize_direction(there, theta.cuda(), on_gpu[0], normalize)
    assert torch.allclose(scaled.cpu(), on_cpu[0], rtol=1e-6)
