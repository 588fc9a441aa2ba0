from __future__ import annotations

import pytest
import torch
from networks import CASES, CPU, frozen, images, mlp, task, tokens, vectors
from permutable import ARCHITECTURES, architecture, case
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from sharpcli.errors import SharpError
from sharpcli.landscape.alignment.permutations import apply_permutations, trace_permutations
from sharpcli.objective.network import Network
from sharpcli.objective.reading import read_rows


def places(found, size):
    """Where the only group of this size lies: (tensor, axis, positions of unit 0)."""
    (group,) = [group for group in found.structure.groups if group.size == size]
    return {(p.tensor, p.axis): p.positions[0].tolist() for p in group.places}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_groups_are_those_of_theory(name):
    _, sizes = ARCHITECTURES[name]
    found = architecture(name)
    assert sorted(group.size for group in found.structure.groups) == sizes
    assert found.structure.without_rule == ()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_permutation_leaves_the_function_as_it_is(name):
    found = architecture(name)
    expected = found.outputs(found.tensors)
    for seed in range(3):
        moved, drawn = found.permuted(found.tensors, seed)
        assert any(not torch.equal(moved[key], found.tensors[key]) for key in moved)
        difference = (found.outputs(moved) - expected).abs().max()
        assert difference <= 1e-10 * expected.abs().max()
        back = apply_permutations(found.structure, moved, [p.argsort() for p in drawn])
        assert all(torch.equal(back[key], found.tensors[key]) for key in back)


def test_hidden_units_lie_in_rows_biases_and_columns():
    found = case(task(lambda: mlp(5, 9, 8, 3), vectors(5, 3)))
    assert places(found, 9) == {("0.weight", 0): [0], ("0.bias", 0): [0], ("2.weight", 1): [0]}


def test_flattened_channels_move_with_all_their_places():
    found = case(CASES["conv"])
    assert places(found, 3) == {
        ("2.weight", 0): [0],
        ("2.bias", 0): [0],
        ("5.weight", 1): [0, 1, 2, 3],
    }


def test_running_statistics_move_with_their_channels():
    found = case(CASES["batch_norm"])
    assert found.structure.statistics == {"1.running_mean", "1.running_var"}
    assert ("1.running_var", 0) in places(found, 4)


def test_tied_tensors_move_together():
    found = case(CASES["tied"])
    assert found.structure.twins == {"head.weight": "embed.weight"}
    moved, _ = found.permuted(found.tensors)
    assert torch.equal(moved["head.weight"], moved["embed.weight"])
    assert not torch.equal(moved["head.weight"], found.tensors["head.weight"])


def test_frozen_parameters_stay_where_they_are():
    found = case(task(frozen, vectors(5, 3)))
    assert {p.tensor for g in found.structure.groups for p in g.places} == {
        "2.weight",
        "2.bias",
        "4.weight",
    }


def test_other_buffers_stay_where_they_are():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
            self.register_buffer("scale", torch.rand(8))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.last(self.first(inputs) * self.scale)

    assert case(task(Scaled, vectors(5, 3))).structure.groups == ()


def test_parameters_that_are_not_used_are_no_group():
    found = case(CASES["unused"])
    assert [group.size for group in found.structure.groups] == [8]


def test_several_outputs_are_all_pinned():
    found = case_of_twins()
    assert [group.size for group in found.groups] == [12, 12]


def case_of_twins():
    of = CASES["twins"]
    network = Network(of.model(), of, device=CPU)
    rows = read_rows(of.data("train"), name="train data")
    return trace_permutations(network, rows.head(2).batch, of.model().state_dict())


def test_a_network_in_training_mode_is_traced_in_eval_mode_and_left_as_it_is():
    of = task(
        lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)),
        vectors(5, 3),
    )
    network = Network(of.model(), of, device=CPU, mode="train")
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    rows = read_rows(of.data("train"), name="train data")
    structure = trace_permutations(network, rows.head(2).batch, before)
    assert [group.size for group in structure.groups] == [8]
    assert network.model.training
    assert all(torch.equal(before[k], t) for k, t in network.model.state_dict().items())


def test_batches_that_are_mappings_can_be_traced():
    of = CASES["mapping"]
    network = Network(of.model(), of, device=CPU)
    rows = read_rows(of.data("train"), name="train data")
    structure = trace_permutations(network, rows.head(2).batch, of.model().state_dict())
    assert [group.size for group in structure.groups] == [11]


def test_attention_of_pytorchs_own_encoder_moves_heads_and_units():
    found = case(CASES["encoder"])
    assert sorted(group.size for group in found.structure.groups) == [2, 2, 4, 6]
    moved, _ = found.permuted(found.tensors)
    torch.testing.assert_close(found.outputs(moved), found.outputs(found.tensors))


def test_a_recurrent_layer_is_traced_or_pinned_but_never_wrong():
    class LSTM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm = nn.Embedding(7, 6), nn.LSTM(6, 5, batch_first=True)
            self.head = nn.Linear(5, 7)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(self.lstm(self.embed(words))[0])

    found = case(task(LSTM, tokens))
    moved, _ = found.permuted(found.tensors)
    torch.testing.assert_close(found.outputs(moved), found.outputs(found.tensors))


def test_normalised_weights_move_with_their_norms():
    def model() -> nn.Module:
        return nn.Sequential(weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3))

    found = case(task(model, vectors(5, 3)))
    assert places(found, 8).keys() == {
        ("0.bias", 0),
        ("0.parametrizations.weight.original0", 0),
        ("0.parametrizations.weight.original1", 0),
        ("2.weight", 1),
    }
    moved, _ = found.permuted(found.tensors)
    torch.testing.assert_close(found.outputs(moved), found.outputs(found.tensors))


def test_a_network_that_runs_in_bfloat16_is_traced():
    of = CASES["conv"]
    network = Network(of.model(), of, device=CPU, compute=torch.bfloat16)
    rows = read_rows(of.data("train"), name="train data").to(CPU, torch.bfloat16)
    structure = trace_permutations(network, rows.head(2).batch, of.model().state_dict())
    assert sorted(group.size for group in structure.groups) == [3, 4]


def test_a_model_that_branches_on_values_is_refused():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(108, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.layer(inputs.flatten(1).repeat(1, 3))
            return hidden if hidden.sum() > 0 else -hidden

    with pytest.raises(SharpError, match="cannot be traced") as caught:
        case(task(Branching, images))
    assert "branches on values" in (caught.value.hint or "")
