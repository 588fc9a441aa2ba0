"""Norms of parameters and layers, path norms and margins, against plain computations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from networks import (
    CASES,
    batch_norm,
    context,
    images,
    mlp,
    real_targets,
    squared_error,
    task,
    vectors,
)
from torch import nn

from sharpcli.checkpoint import save_checkpoint
from sharpcli.errors import SharpError
from sharpcli.measures import compute, known_measures
from sharpcli.measures.margin import check_margin, margin, percentile_with_error
from sharpcli.measures.parameter_norms import (
    check_initial,
    distance_from_initialisation,
    parameter_norms,
)
from sharpcli.measures.path_norm import check_path_norm, path_norm
from sharpcli.measures.spectral_norms import spectral_norms

RELU = task(lambda: mlp(4, 5, 3, activation=nn.ReLU), vectors(4, 3))
OPTIONS = {"margin_percentile": 10.0}


def parameters(of):
    return {name: p.detach().double() for name, p in of.model().named_parameters()}


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-13), ("float32", 1e-6)])
def test_parameter_norms_are_those_of_plain_pytorch(dtype, limit):
    own = parameters(RELU)
    flat = torch.cat([p.flatten() for p in own.values()])
    found = parameter_norms(context(RELU, dtype))["parameter_norms"]
    assert found["norm"].value == pytest.approx(float(flat.norm()), rel=limit)
    assert found["squared"].value == pytest.approx(float(flat.square().sum()), rel=limit)
    assert found["max"].value == pytest.approx(float(flat.abs().max()), rel=limit)
    by_tensor = sum(float(p.norm()) for p in own.values())
    assert found["sum_of_frobenius_norms"].value == pytest.approx(by_tensor, rel=limit)


def test_distance_from_initialisation(tmp_path):
    own = parameters(RELU)
    generator = torch.Generator().manual_seed(1)
    apart = {k: torch.randn(p.shape, generator=generator).double() for k, p in own.items()}
    path = tmp_path / "initial.safetensors"
    save_checkpoint(path, {f"module.{k}": own[k] + apart[k] for k in own}, {})
    of = context(RELU, initial=path)
    check_initial(of)
    found = distance_from_initialisation(of)["distance_from_initialisation"]
    flat = torch.cat([each.flatten() for each in apart.values()])
    beginning = torch.cat([(own[k] + apart[k]).flatten() for k in own]).norm()
    assert found["norm"].value == pytest.approx(float(flat.norm()), rel=1e-12)
    assert found["relative"].value == pytest.approx(float(flat.norm() / beginning), rel=1e-12)
    spectral = sum(float(torch.linalg.svdvals(e)[0]) for e in apart.values() if e.ndim == 2)
    assert found["sum_of_spectral_norms"].value == pytest.approx(spectral, rel=1e-12)
    assert of.warnings == []


def test_no_distance_without_a_fitting_initial_checkpoint(tmp_path):
    with pytest.raises(SharpError, match="the checkpoint from before the training"):
        check_initial(context(RELU))
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, {"0.weight": torch.zeros(7, 4)}, {})
    with pytest.raises(SharpError, match="does not fit the task's model"):
        check_initial(context(RELU, initial=path))


def test_spectral_norms_of_linear_layers():
    matrices = [p for p in parameters(RELU).values() if p.ndim == 2]
    found = spectral_norms(context(RELU))["spectral_norms"]
    values = [torch.linalg.svdvals(each) for each in matrices]
    product = math.prod(float(each[0]) for each in values)
    assert found["product"].value == pytest.approx(product, rel=1e-12)
    assert found["log_product"].value == pytest.approx(math.log(product), rel=1e-12)
    rank = sum(float(each.square().sum() / each[0] ** 2) for each in values)
    assert found["stable_rank"].value == pytest.approx(rank, rel=1e-12)
    assert [*found["layers"]] == ["0.weight", "2.weight"]


def test_a_batch_norm_is_folded_into_the_layer_before_it():
    of = task(batch_norm, images)
    model = of.model().double().eval()
    conv, norm = model[0], model[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    matrix = conv.weight.flatten(1) * scale[:, None]
    found = spectral_norms(context(of))["spectral_norms"]["layers"]
    assert len(found) == sum(isinstance(m, nn.Linear | nn.Conv2d) for m in model.modules())
    expected = float(torch.linalg.svdvals(matrix.detach())[0])
    assert found["0.weight"]["spectral"] == pytest.approx(expected, rel=1e-6)


def test_the_path_norm_is_the_sum_over_all_paths():
    """Each path by hand, those that begin at a bias included."""
    first, bias, last, other = parameters(RELU).values()
    paths = [
        first[j, i] * last[k, j] for i, j, k in itertools.product(range(4), range(5), range(3))
    ]
    paths += [bias[j] * last[k, j] for j, k in itertools.product(range(5), range(3))]
    paths += list(other)
    expected = math.sqrt(sum(float(each) ** 2 for each in paths))
    for dtype, limit in (("float64", 1e-12), ("float32", 1e-6)):
        found = path_norm(context(RELU, dtype))["path_norm"]
        assert found["norm"].value == pytest.approx(expected, rel=limit)
        assert found["log_norm"].value == pytest.approx(math.log(expected), rel=1e-5)


def test_a_batch_norm_in_a_path_norm_is_its_affine_map():
    for affine in (True, False):
        model = nn.Sequential(
            nn.Linear(4, 5, bias=False),
            nn.BatchNorm1d(5, affine=affine),
            nn.ReLU(),
            nn.Linear(5, 3),
        ).double()
        norm = model[1]
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        if affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        scale = (norm.running_var + norm.eps).rsqrt() * (norm.weight if affine else 1)
        shift = (norm.bias if affine else 0) - norm.running_mean * scale
        hidden = (model[0].weight.square().sum(1) * scale.square()) + shift.square()
        squared = (model[3].weight.square() @ hidden + model[3].bias.square()).sum()
        of = task(lambda model=model: model, vectors(4, 3))
        found = path_norm(context(of))["path_norm"]["norm"].value
        assert found == pytest.approx(math.sqrt(float(squared.detach())), rel=1e-6)


@pytest.mark.parametrize("name", ["gelu", "tanh", "layer_norm", "attention"])
def test_no_path_norm_of_what_is_no_sum_over_paths(name):
    with pytest.raises(SharpError, match="has no path norm"):
        check_path_norm(context(CASES[name]))


class Signed(nn.Module):
    def __init__(self, sign):
        super().__init__()
        self.first, self.second, self.sign = nn.Linear(4, 3), nn.Linear(4, 3), sign

    def forward(self, inputs):
        shown = torch.relu(self.second(inputs))
        if self.sign is None:
            return self.first(inputs) - shown
        return self.first(inputs) + self.sign * shown


@pytest.mark.parametrize("sign", [None, -1.0])
def test_no_path_norm_where_squared_paths_would_cancel(sign):
    with pytest.raises(SharpError, match="has no path norm"):
        check_path_norm(context(task(lambda: Signed(sign), vectors(4, 3))))
    assert path_norm(context(task(lambda: Signed(1.0), vectors(4, 3))))["path_norm"]["norm"].value


def margins(of):
    inputs, targets = of.data("train")
    outputs = of.model().double()(inputs.double()).detach()
    own = outputs[torch.arange(len(targets)), targets]
    outputs[torch.arange(len(targets)), targets] = -math.inf
    return own - outputs.amax(1)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-12), ("float32", 1e-5)])
def test_margins_are_those_of_plain_pytorch(batch_size, dtype, limit):
    of = context(RELU, dtype, batch_size=batch_size, options=OPTIONS)
    before = of.theta.clone()
    found = margin(of)["margin"]
    expected = float(torch.quantile(margins(RELU), 0.1))
    assert found["output"].value == pytest.approx(expected, rel=limit)
    product = spectral_norms(of)["spectral_norms"]["product"].value
    paths = path_norm(of)["path_norm"]["norm"].value
    assert found["over_spectral_norms"].value == pytest.approx(expected / product, rel=limit)
    assert found["over_path_norm"].value == pytest.approx(expected / paths, rel=limit)
    assert found["output"].sampling_error is None
    assert torch.equal(of.theta, before)


def test_a_network_without_a_path_norm_has_a_margin_all_the_same():
    found = margin(context(CASES["gelu"], options=OPTIONS))["margin"]
    assert "over_path_norm" not in found and "over_spectral_norms" in found


def test_tokens_to_be_ignored_have_no_margin():
    of = context(CASES["ignored_tokens"], options=OPTIONS)
    check_margin(of)
    assert math.isfinite(margin(of)["margin"]["output"].value)


def test_no_margin_of_a_regression():
    of = task(lambda: nn.Linear(4, 2), real_targets(4, 2), loss=squared_error, metrics=None)
    with pytest.raises(SharpError, match="a margin needs a score for each class"):
        check_margin(context(of))


def test_the_sampling_error_of_a_percentile_covers():
    """Intervals of the 10th percentile of 400 of 4,000 numbers cover that of all of them."""
    generator = torch.Generator().manual_seed(0)
    every = torch.randn(4000, generator=generator, dtype=torch.float64)
    true = float(torch.quantile(every, 0.1))
    covered = 0
    for _ in range(300):
        drawn = every[torch.randperm(4000, generator=generator)[:400]]
        value, error = percentile_with_error(drawn, 0.1, 0.9)
        covered += abs(value - true) <= 1.96 * error
    assert 0.9 * 300 <= covered <= 0.99 * 300


def test_a_sample_has_a_sampling_error_and_a_tiny_one_says_that_it_is_unreliable():
    found = margin(context(RELU, samples=20, options=OPTIONS))["margin"]["output"]
    assert found.sampling_error > 0 and found.sampling_status == "unreliable"


def test_all_of_them_run_through_the_registry():
    names = ("parameter-norms", "spectral-norms", "path-norm", "margin")
    of = context(RELU, options=OPTIONS, measures=names)
    found = compute([known_measures()[name] for name in names], of)
    assert [*found] == ["parameter_norms", "spectral_norms", "path_norm", "margin"]
    assert of.warnings == []
