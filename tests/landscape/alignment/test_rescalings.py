"""Rescalings of hidden units leave the function as it is, and are those of theory."""

from __future__ import annotations

import pytest
import torch
from networks import CASES, mlp, task, vectors
from permutable import ARCHITECTURES, architecture, case
from torch import nn
from torch.nn import functional

from sharpcli.errors import SharpError
from sharpcli.landscape.alignment.rescalings import apply_rescaling, trace_rescalings

# The number of units of each symmetry, smallest first, as counted by hand. A batch norm makes two
# of its channels' symmetry, before and after it. A GPT's layer norms have one each with what they
# read into; queries with keys and values with the projection have one each.
SYMMETRIES = {
    "mlp": [8, 9],
    "batch_norm_mlp": [8, 9, 9],
    "vgg": [5, 5, 7, 7, 9],
    "mobilenet": [4, 6, 6],
    "unet": [2, 4, 5, 6],
    "gated": [6, 8],
    "gpt_without_bias": [2, 2, 4, 4, 8, 8],
    "recurrent": [],
}


def traced(found):
    return trace_rescalings(found.network, found.batch, found.tensors)


def exponents(found, structure=None):
    """The places of each symmetry: (tensor, axis) → exponent."""
    symmetries = (structure or traced(found)).symmetries
    return [{(p.tensor, p.axis): p.exponent for p in each.places} for each in symmetries]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("by", ["unit", "layer"])
def test_any_rescaling_leaves_the_function_as_it_is(name, by):
    found = architecture(name)
    structure, expected = traced(found), found.outputs(found.tensors)
    before = {key: tensor.clone() for key, tensor in found.tensors.items()}
    for seed in range(2):
        moved = apply_rescaling(structure, found.tensors, strength=6, by=by, seed=seed)
        difference = (found.outputs(moved) - expected).abs().max()
        assert difference <= 1e-11 * expected.abs().max()
        changed = {key for key in moved if not torch.equal(moved[key], before[key])}
        twins = {twin for twin, first in structure.twins.items() if first in structure.tensors}
        assert changed == structure.tensors | twins
    assert all(torch.equal(found.tensors[key], before[key]) for key in before)


@pytest.mark.parametrize("name", SYMMETRIES)
def test_symmetries_are_those_of_theory(name):
    structure = traced(architecture(name))
    assert sorted(each.size for each in structure.symmetries) == SYMMETRIES[name]
    assert structure.units == sum(SYMMETRIES[name])


def test_a_relu_layer_is_scaled_up_and_the_next_one_down():
    found = case(task(lambda: mlp(5, 9, 3, activation=nn.ReLU), vectors(5, 3)))
    assert exponents(found) == [{("0.weight", 0): 1, ("0.bias", 0): 1, ("2.weight", 1): -1}]
    moved = apply_rescaling(traced(found), found.tensors, strength=4, seed=1)
    ratio = moved["0.bias"] / found.tensors["0.bias"]
    assert float(ratio.max()) <= 4 and float(ratio.min()) >= 0.25 and float(ratio.std()) > 0.1
    expected = found.tensors["2.weight"] / ratio
    torch.testing.assert_close(moved["2.weight"], expected)


def test_a_layer_has_one_factor_by_layer():
    found = case(task(lambda: mlp(5, 9, 3, activation=nn.ReLU), vectors(5, 3)))
    moved = apply_rescaling(traced(found), found.tensors, strength=4, by="layer", seed=1)
    ratio = moved["0.bias"] / found.tensors["0.bias"]
    torch.testing.assert_close(ratio, ratio[:1].expand(9))
    assert float(ratio[0]) != 1


@pytest.mark.parametrize("activation", [nn.GELU, nn.Tanh, nn.ELU, nn.ReLU6, nn.Softplus])
def test_an_activation_that_is_not_homogeneous_passes_no_factor_on(activation):
    found = case(task(lambda: mlp(5, 9, 8, 3, activation=activation), vectors(5, 3)))
    assert traced(found).symmetries == ()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity])
def test_a_homogeneous_activation_does(activation):
    found = case(task(lambda: mlp(5, 9, 8, 3, activation=activation), vectors(5, 3)))
    assert [each.size for each in traced(found).symmetries] == [9, 8]


def test_running_statistics_are_scaled_with_the_weights_before_a_batch_norm():
    found = case(CASES["batch_norm"])
    before = next(each for each in exponents(found) if ("1.running_var", 0) in each)
    assert before[("1.running_var", 0)] == 2 * before[("1.running_mean", 0)]
    assert before[("0.weight", 0)] == before[("1.running_mean", 0)]
    assert ("1.weight", 0) not in before


def test_a_dead_channel_of_a_batch_norm_stays_dead():
    found = case(CASES["batch_norm"])
    tensors = {**found.tensors, "1.running_var": torch.zeros_like(found.tensors["1.running_var"])}
    moved = apply_rescaling(traced(found), tensors, strength=4)
    expected = found.outputs(tensors)
    assert (found.outputs(moved) - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_a_constant_between_layers_ends_a_symmetry():
    class Shifted(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.first, self.last, self.by = nn.Linear(5, 9), nn.Linear(9, 3), by

        def forward(self, inputs):
            return self.last(functional.relu(self.first(inputs) + self.by))

    assert traced(case(task(lambda: Shifted(1.0), vectors(5, 3)))).symmetries == ()
    (only,) = traced(case(task(lambda: Shifted(0), vectors(5, 3)))).symmetries
    assert only.size == 9


def test_clamping_at_another_place_than_zero_ends_a_symmetry():
    class Clamped(nn.Module):
        def __init__(self, **limits):
            super().__init__()
            self.first, self.last, self.limits = nn.Linear(5, 9), nn.Linear(9, 3), limits

        def forward(self, inputs):
            return self.last(self.first(inputs).clamp(**self.limits))

    for limits, count in (({"min": 0}, 1), ({"min": 0, "max": 1}, 0), ({"min": 0.5}, 0)):
        found = case(task(lambda limits=limits: Clamped(**limits), vectors(5, 3)))
        assert len(traced(found).symmetries) == count


def test_a_square_is_not_homogeneous_but_a_product_of_two_units_is():
    class Square(nn.Module):
        def __init__(self, own):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(5, 9), nn.Linear(5, 9), nn.Linear(9, 3)
            self.own = own

        def forward(self, inputs):
            first = self.first(inputs)
            return self.last(first * (first if self.own else self.second(inputs)))

    (only,) = exponents(case(task(lambda: Square(True), vectors(5, 3))))
    assert only[("last.weight", 1)] == -2 * only[("first.weight", 0)]
    assert len(exponents(case(task(lambda: Square(False), vectors(5, 3))))) == 2


def test_tied_layers_and_frozen_tensors():
    found = case(CASES["tied"])
    moved = apply_rescaling(traced(found), found.tensors, strength=4)
    assert torch.equal(moved["head.weight"], moved["embed.weight"])
    frozen = mlp(5, 9, 8, 3, activation=nn.ReLU)
    frozen[0].requires_grad_(False)
    places = exponents(case(task(lambda: frozen, vectors(5, 3))))
    assert {name for each in places for name, _ in each} == {"2.weight", "2.bias", "4.weight"}


def test_a_model_that_cannot_be_traced_names_the_setting():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, inputs):
            return self.layer(inputs) if float(inputs.sum()) > 0 else -self.layer(inputs)

    of = task(Branching, vectors(5, 3))
    with pytest.raises(SharpError, match="hidden units cannot be rescaled") as caught:
        found = architecture("mlp")
        network = type(found.network)(of.model(), of, device=found.network.device)
        trace_rescalings(network, found.batch, dict(of.model().state_dict()))
    assert "rescale_check" in caught.value.hint
