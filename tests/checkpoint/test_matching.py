"""Matching a checkpoint's names and shapes to a model's."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sharpcli.checkpoint import Checkpoint, match_tensors, tied
from sharpcli.errors import SharpError


def checkpoint(tensors):
    return Checkpoint(Path("run.pt"), dict(tensors), {}, "0" * 64)


@pytest.fixture
def expected():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).state_dict()


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def renamed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def refusal(tensors, expected):
    with pytest.raises(SharpError) as caught:
        match_tensors(checkpoint(tensors), expected)
    assert caught.value.message.startswith("run.pt: ")
    assert caught.value.hint
    return caught.value


def test_names_that_fit_are_left_alone(expected):
    match = match_tensors(checkpoint(expected), expected)
    assert list(match.tensors) == list(expected)
    assert all(match.tensors[name] is expected[name] for name in expected)
    assert match.notes == ()


@pytest.mark.parametrize(
    ("prefix", "notes"),
    [
        ("module.", ["module."]),
        ("_orig_mod.", ["_orig_mod."]),
        ("model.", ["model."]),
        ("module.module.", ["module.", "module."]),
        ("_orig_mod.module.", ["module.", "_orig_mod."]),
        ("model._orig_mod.", ["_orig_mod.", "model."]),
        ("module.model.net.", ["module.", "model.", "net."]),
    ],
)
def test_prefixes_are_removed_and_said(expected, prefix, notes):
    match = match_tensors(checkpoint(renamed(expected, prefix)), expected)
    assert all(match.tensors[name] is expected[name] for name in expected)
    assert sorted(match.notes) == sorted(f"prefix '{each}' removed" for each in notes)


def test_a_compiled_submodule_inside_the_name(expected):
    stored = {name.replace("0.", "0._orig_mod.", 1): t for name, t in expected.items()}
    assert match_tensors(checkpoint(stored), expected).notes == ("prefix '_orig_mod.' removed",)


def test_a_prefix_of_the_models_own_is_kept():
    expected = Wrapped().state_dict()
    assert match_tensors(checkpoint(expected), expected).notes == ()
    stored = renamed(expected, "module.")
    assert match_tensors(checkpoint(stored), expected).notes == ("prefix 'module.' removed",)


def test_a_prefix_the_model_has_and_the_file_lacks():
    model = Wrapped()
    stored = model.model.state_dict()
    match = match_tensors(checkpoint(stored), model.state_dict())
    assert list(match.tensors) == ["model.weight", "model.bias"]
    assert match.notes == ("prefix 'model.' added",)
    match = match_tensors(checkpoint(renamed(stored, "module.")), model.state_dict())
    assert match.notes == ("prefix 'module.' removed", "prefix 'model.' added")


def test_prefixes_are_never_removed_where_two_names_would_become_one(expected):
    stored = {**expected, "module.0.bias": torch.ones(4)}
    error = refusal(stored, expected)
    assert "'module.0.bias' (4,) is unexpected" in error.message


def test_a_tied_tensor_that_is_not_stored_comes_from_its_twin():
    expected = Tied().state_dict()
    for kept in expected:
        match = match_tensors(checkpoint({kept: expected[kept]}), expected)
        assert match.tensors["embed.weight"] is match.tensors["head.weight"]
        other = next(name for name in expected if name != kept)
        assert match.notes == (f"tied tensors filled: '{other}' from '{kept}'",)


def test_tied_tensors_stored_twice_must_agree():
    expected = Tied().state_dict()
    same = {"embed.weight": torch.ones(5, 3), "head.weight": torch.ones(5, 3)}
    assert match_tensors(checkpoint(same), expected).notes == ()
    error = refusal({**same, "head.weight": torch.zeros(5, 3)}, expected)
    assert "'embed.weight' and 'head.weight' are one tensor in the model but differ" in str(error)
    unknown = {name: torch.full((5, 3), float("nan")) for name in same}
    assert match_tensors(checkpoint(unknown), expected).notes == ()


def test_half_precision_is_kept_as_stored(expected):
    stored = {n: t.half() if t.is_floating_point() else t for n, t in expected.items()}
    match = match_tensors(checkpoint(stored), expected)
    assert match.tensors["0.weight"].dtype == torch.float16


def test_batch_norms_counter_may_be_absent_or_extra(expected):
    stored = {n: t for n, t in expected.items() if not n.endswith("num_batches_tracked")}
    match = match_tensors(checkpoint(stored), expected)
    assert match.tensors.keys() == expected.keys()
    assert match.notes == ("'1.num_batches_tracked' not in the file: kept from the model",)
    match = match_tensors(checkpoint(expected), stored)
    assert match.tensors.keys() == stored.keys()
    assert match.notes == ("'1.num_batches_tracked' not in the model: left out",)


def test_a_missing_float_buffer_is_an_error(expected):
    stored = {n: t for n, t in expected.items() if n != "1.running_mean"}
    error = refusal(stored, expected)
    assert "(1 missing of 9): '1.running_mean' (4,) is missing" in error.message


def test_missing_and_unexpected_name_the_nearest_match(expected):
    stored = dict(expected)
    stored["2.weights"] = stored.pop("2.weight")
    error = refusal(stored, expected)
    assert "(1 missing, 1 unexpected of 9)" in error.message
    assert "'2.weight' (2, 4) is missing (nearest in the file: '2.weights' (2, 4))" in error.message
    assert "'2.weights' (2, 4) is unexpected (nearest in the model: '2.weight'" in error.message
    assert 'options.name="value"' in error.hint


def test_misshaped_tensors_give_both_shapes(expected):
    error = refusal({**expected, "0.weight": torch.ones(4, 5)}, expected)
    assert "'0.weight' is (4, 5) in the file and (4, 3) in the model" in error.message


def test_whole_numbers_are_no_weights(expected):
    error = refusal({**expected, "0.bias": torch.ones(4, dtype=torch.int8)}, expected)
    assert "'0.bias' is (4,) int8 in the file and (4,) float32 in the model" in error.message


def test_a_stranger_is_told_in_five_tensors_at_most(expected):
    error = refusal({f"layer{i}.w": torch.ones(1) for i in range(20)}, expected)
    assert "8 missing, 20 unexpected of 9" in error.message
    assert error.message.count("is missing") + error.message.count("is unexpected") == 5
    assert error.message.endswith("and 23 more")
    assert error.hint.startswith("no name fits")


def test_control_characters_in_names_are_spelt_out(expected):
    error = refusal({**expected, "\x1b[2J\n": torch.ones(1)}, expected)
    assert "'\\x1b[2J\\n' (1,) is unexpected" in error.message


def _two_forms():
    """A model with norms in the form of hooks, and as parametrizations, of the same numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old = nn.Sequential(
            nn.utils.weight_norm(nn.Linear(3, 4), dim=1), nn.utils.spectral_norm(nn.Conv2d(2, 3, 2))
        )
    new = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 4), dim=1),
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 2)),
    )
    return old.eval(), new.eval()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("backwards", [False, True])
def test_norms_of_the_other_form_are_the_same_weights(prefix, backwards):
    file, model = _two_forms()[:: -1 if backwards else 1]
    inputs = torch.randn(5, 3), torch.randn(5, 2, 4, 4)
    true = [layer(each) for layer, each in zip(file, inputs, strict=True)]
    found = match_tensors(checkpoint(renamed(file.state_dict(), prefix)), model.state_dict())
    model.load_state_dict(found.tensors)
    for layer, each, wanted in zip(model, inputs, true, strict=True):
        assert torch.allclose(layer(each), wanted, atol=1e-6)
    said = "; ".join(found.notes)
    assert "weight norm of 1 tensor converted to the model's form" in said
    assert "spectral norm of 1 tensor converted to the model's form" in said


def test_half_a_norm_is_missing_the_rest():
    file, model = _two_forms()
    tensors = file.state_dict()
    del tensors["0.weight_v"]
    error = refusal(tensors, model.state_dict())
    assert "'0.parametrizations.weight.original1' (4, 3) is missing" in error.message
    assert "'0.weight_g'" in error.message


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_names_of_one_tensor_go_together_wherever_it_lies(device):
    whole, empty = torch.zeros(4, device=device), torch.zeros(0, device=device)
    named = {"a": whole, "b": whole.detach(), "c": whole[2:], "d": whole[:2], "e": whole[2:]}
    found = tied({**named, "f": empty, "g": torch.zeros(0, device=device)}.items())
    assert found["b"] == ["a", "b"]
    assert found["e"] == ["c", "e"]
    assert [found[name] for name in "dfg"] == [["d"], ["f"], ["g"]]
