"""Which of a file's weights are taken where the model's own loading has to translate them."""

import pytest
import torch
from self_loading import match
from torch import nn

from sharpcli.errors import SharpError


class Renamed(nn.Module):
    """Its first version called a layer otherwise, and stored half of its weights."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def _load_from_state_dict(self, state, prefix, *rest):
        for name in ("weight", "bias"):
            if f"{prefix}begin.{name}" in state:
                state[f"{prefix}first.{name}"] = state.pop(f"{prefix}begin.{name}") * 2
        super()._load_from_state_dict(state, prefix, *rest)


def new(seed):
    torch.manual_seed(seed)
    return dict(Renamed().state_dict())


def older(seed):
    state = new(seed)
    return {name.replace("first", "begin"): each for name, each in state.items()}


def under(prefix, state):
    return {prefix + name: each for name, each in state.items()}


def found(folder, file):
    torch.save(file, folder / "a.pt")
    return match(folder / "a.pt", Renamed())


def test_the_usual_weights_come_first_if_the_model_translates_them(tmp_path):
    matched = found(tmp_path, {"model": older(1), "ema": new(2)})
    assert torch.equal(matched.tensors["first.weight"], new(1)["first.weight"] * 2)
    assert "'ema' fits too" in "\n".join(matched.notes)
    matched = found(tmp_path, {"model": {"other": torch.ones(3)}, "ema": new(2)})
    assert torch.equal(matched.tensors["first.weight"], new(2)["first.weight"])


def test_an_average_of_the_same_old_names_is_named(tmp_path):
    matched = found(tmp_path, {"model": older(1), "ema": older(2)})
    assert "'ema' fits too" in "\n".join(matched.notes)


def test_two_sets_of_which_none_is_the_usual_one(tmp_path):
    with pytest.raises(SharpError, match=r"several sets of weights fit the model: 'a\.', 'b\.'"):
        found(tmp_path, {"a": older(1), "b": older(2)})


def test_two_prefixes_in_one_set(tmp_path):
    matched = found(tmp_path, under("model.", older(1)) | under("ema.", older(2)))
    assert torch.equal(matched.tensors["first.weight"], new(1)["first.weight"] * 2)
    assert "'ema.' fits too" in "\n".join(matched.notes)


def test_the_note_says_that_renamed_tensors_changed(tmp_path):
    said = "\n".join(found(tmp_path, older(1)).notes)
    assert "it changes the values of 'first.weight', 'first.bias'" in said
    assert "no value is changed" in "\n".join(found(tmp_path, new(1)).notes)
