"""Which of a file's weights a model gets, and what may be left over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sharpcli.checkpoint import (
    Checkpoint,
    load_checkpoint,
    match_tensors,
    read_checkpoint,
    save_checkpoint,
)
from sharpcli.errors import SharpError


def net(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def found(path, model, weights=None, **more):
    checkpoint = read_checkpoint(path, weights)
    return match_tensors(checkpoint, model.state_dict(), model=model, **more)


def saved(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def assert_from(match, model):
    state = model.state_dict()
    assert list(match.tensors) == list(state)
    assert all(torch.equal(match.tensors[name], state[name]) for name in state)


def prefixed(model, prefix):
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def refusal(path, model, weights=None, **more):
    with pytest.raises(SharpError) as caught:
        found(path, model, weights, **more)
    assert caught.value.message.startswith(str(path)) and caught.value.hint
    return caught.value


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "model_ema", "current_model_state"])
def test_the_plain_weights_are_taken_and_the_average_is_named(tmp_path, key):
    plain, average = net(1), net(2)
    path = saved(tmp_path, {"state_dict": plain.state_dict(), key: average.state_dict(), "step": 3})
    match = found(path, net())
    assert_from(match, plain)
    assert f"'{key}' fits too: weights=\"{key}\" measures it" in match.notes
    chosen = found(path, net(), weights=key)
    assert_from(chosen, average)
    assert not any("fits too" in note for note in chosen.notes)
    assert read_checkpoint(path, key).notes == (f"weights taken from '{key}'",)
    assert read_checkpoint(path, key).metadata == {"step": 3}


def test_an_average_below_a_key_of_its_own(tmp_path):
    average = net(2)
    content = {"model": net(1).state_dict(), "ema": {"decay": 0.9, "module": average.state_dict()}}
    for key in ("ema", "ema.module"):
        assert_from(found(saved(tmp_path, content), net(), weights=key), average)


def test_weights_that_do_not_fit_give_way_to_the_only_ones_that_do(tmp_path):
    small = net(1, width=3)
    path = saved(tmp_path, {"model": net(2).state_dict(), "student": small.state_dict()})
    match = found(path, net(0, width=3))
    assert_from(match, small)
    assert match.notes[0] == "weights taken from 'student': only these fit the model"


def test_two_players_of_unlike_shape_are_told_by_the_model(tmp_path):
    one, other = net(1, width=3), net(2, width=5)
    path = saved(tmp_path, {"generator": one.state_dict(), "discriminator": other.state_dict()})
    assert_from(found(path, net(0, width=3)), one)
    assert_from(found(path, net(0, width=5)), other)
    assert_from(found(path, net(0, width=5), weights="discriminator"), other)
    with pytest.raises(SharpError, match="could be the weights: 'generator', 'discriminator'"):
        load_checkpoint(path)


def test_two_that_fit_equally_are_both_named(tmp_path):
    one, other = net(1), net(2)
    path = saved(tmp_path, {"generator": one.state_dict(), "critic": other.state_dict()})
    error = refusal(path, net())
    assert "several sets of weights fit the model: 'generator.', 'critic.'" in error.message
    assert error.hint == 'choose one: weights="generator."'
    assert_from(found(path, net(), weights="generator."), one)
    save_checkpoint(tmp_path / "a.safetensors", prefixed(one, "s.") | prefixed(other, "t."), {})
    assert_from(found(tmp_path / "a.safetensors", net(), weights="t"), other)
    assert "fit the model: 's.', 't.'" in refusal(tmp_path / "a.safetensors", net()).message


def test_a_wrappers_prefix_goes_before_a_teachers(tmp_path):
    student, teacher = net(1), net(2)
    path = saved(
        tmp_path, {"state_dict": prefixed(student, "model.") | prefixed(teacher, "teacher.")}
    )
    match = found(path, net())
    assert_from(match, student)
    assert "'teacher.' fits too: weights=\"teacher.\" measures it" in match.notes
    assert_from(found(path, net(), weights="teacher"), teacher)


def test_a_backbone_without_its_head(tmp_path):
    body = net(1)
    path = saved(tmp_path, prefixed(body, "backbone.") | {"head.weight": torch.ones(7, 2)})
    match = found(path, net())
    assert_from(match, body)
    assert "'head.weight' outside 'backbone.': left out" in match.notes


def test_torchs_own_average(tmp_path):
    average = AveragedModel(net(1))
    match = found(saved(tmp_path, average.state_dict()), net())
    assert_from(match, average.module)
    assert "'n_averaged' not in the model: left out" in match.notes


def test_a_key_that_is_not_there(tmp_path):
    path = saved(tmp_path, {"model": prefixed(net(), "body."), "ema": net().state_dict()})
    error = refusal(path, net(), weights="emma")
    assert "has no weights 'emma' (weights); it has 'ema', 'body'" in error.message
    assert error.hint == "did you mean 'ema'?"
    save_checkpoint(tmp_path / "flat.safetensors", {"w": torch.ones(1)}, {})
    assert (
        "names without a prefix only"
        in refusal(tmp_path / "flat.safetensors", net(), weights="ema").message
    )


def test_an_average_without_names(tmp_path):
    shadow = {"decay": 0.9, "shadow_params": list(net(1).parameters())}
    path = saved(tmp_path, {"model": net(1).state_dict(), "ema": shadow})
    error = refusal(path, net(), weights="ema")
    assert "'ema' holds a list of 6 tensors without names" in error.message
    assert "ema.copy_to(model.parameters())" in error.hint


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("criterion.weight", torch.ones(2)),
        ("train_acc.total", torch.ones(1)),
        ("0.position_ids", torch.arange(4)),
        ("0.attn.bias", torch.ones(1, 1, 4, 4)),
        ("0.mask", torch.ones(4, dtype=torch.bool)),
    ],
)
def test_what_is_no_weight_is_left_out_and_said(tmp_path, name, tensor):
    model = net(1)
    match = found(saved(tmp_path, model.state_dict() | {name: tensor}), net())
    assert_from(match, model)
    assert match.notes == (f"'{name}' not in the model: left out",)


@pytest.mark.parametrize("name", ["3.weight", "head.weight", "0.attn.bias", "0.gamma"])
def test_weights_that_the_model_lacks_are_an_error(tmp_path, name):
    path = saved(tmp_path, net(1).state_dict() | {name: torch.ones(4)})
    assert f"(1 unexpected of 9): '{name}' (4,) is unexpected" in refusal(path, net()).message


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(2), persistent=False)


def test_a_buffer_that_the_model_does_not_save(tmp_path):
    state = Masked().state_dict()
    assert found(saved(tmp_path, state | {"scale": torch.ones(2)}), Masked()).notes == (
        "'scale' not in the model: left out",
    )
    notes = found(saved(tmp_path, state | {"scale": torch.zeros(2)}), Masked()).notes
    assert "'scale' differs from the model's own, which is used" in notes


def test_a_part_of_the_model(tmp_path):
    model, built = net(1), net(0)
    head = {name: t for name, t in model.state_dict().items() if name.startswith("2.")}
    path = saved(tmp_path, head)
    error = refusal(path, built)
    assert "(6 missing of 9)" in error.message  # the counter of batches is none
    assert "partial=True takes the rest from model()" in error.hint
    match = found(path, built, rest=built.state_dict())
    assert match.covered == ("2.weight", "2.bias")
    assert all(torch.equal(match.tensors[name], head[name]) for name in head)
    assert torch.equal(match.tensors["0.weight"], built.state_dict()["0.weight"])
    assert (
        "the file has 2 of the model's 9 tensors (10 of 34 parameters); the others are as model() "
        "made them"
    ) in match.notes


def test_a_part_must_fit_too(tmp_path):
    built = net(0)
    path = saved(tmp_path, {"2.weight": torch.ones(2, 5), "2.bias": torch.ones(2)})
    assert "1 misshaped" in refusal(path, built, rest=built.state_dict()).message
    path = saved(tmp_path, {"2.bias": torch.ones(2), "3.bias": torch.ones(2)})
    assert "'3.bias' (2,) is unexpected" in refusal(path, built, rest=built.state_dict()).message
    path = saved(tmp_path, {"other": torch.ones(2)})
    assert "no name fits" in refusal(path, built, rest=built.state_dict()).hint


class Renamed(nn.Module):
    """Loads files of its first version, whose layer had another name and was transposed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_load_state_dict_pre_hook(self._old)

    def _old(self, module, state, prefix, *_):
        if prefix + "old" in state:
            state[prefix + "layer.weight"] = state.pop(prefix + "old").T


def test_the_models_own_hooks_translate(tmp_path):
    weight, bias = torch.randn(3, 2), torch.randn(2)
    match = found(saved(tmp_path, {"module.old": weight, "module.layer.bias": bias}), Renamed())
    assert torch.equal(match.tensors["layer.weight"], weight.T)
    assert torch.equal(match.tensors["layer.bias"], bias)
    assert "names translated by the model's own load_state_dict" in match.notes


class Overriding(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def load_state_dict(self, state, strict=True):
        return super().load_state_dict({"layer." + k: v for k, v in state.items()}, strict)


class Failing(Overriding):
    def load_state_dict(self, state, strict=True):
        raise KeyError("pos_embed")


def test_a_load_state_dict_of_its_own(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2, 3), "bias": torch.ones(2)})
    assert "does not fit" in refusal(path, Overriding()).message
    reason = "the model's own load_state_dict fails on it (KeyError: 'pos_embed')"
    assert reason in refusal(path, Failing()).message


def test_old_names_of_norms():
    model = nn.ModuleDict({"LayerNorm": nn.LayerNorm(3)})
    old = {"LayerNorm.gamma": torch.full((3,), 2.0), "LayerNorm.beta": torch.ones(3)}
    match = match_tensors(Checkpoint(Path("a.pt"), old, {}, ""), model.state_dict())
    assert torch.equal(match.tensors["LayerNorm.weight"], old["LayerNorm.gamma"])
    assert match.notes == ("2 tensors 'gamma' or 'beta' read as 'weight' or 'bias'",)


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("layer.weight.absmax", "4 or 8 bits by bitsandbytes", "model.dequantize()"),
        ("layer.SCB", "int8 by bitsandbytes", "model.dequantize()"),
        ("layer.g_idx", "integers by GPTQ", "dequantize_model"),
        ("layer.qweight", "integers by GPTQ or AWQ", "dequantize_model"),
        ("layer.weight_scale_inv", "fp8 with scales", "FineGrainedFP8Config(dequantize=True)"),
        ("layer.scales", "integers with scales, as MLX", "mlx_lm convert"),
    ],
)
def test_quantised_weights_are_named(tmp_path, name, words, hint):
    path = saved(
        tmp_path, {"layer.weight": torch.ones(4, 1, dtype=torch.uint8), name: torch.ones(2)}
    )
    error = refusal(path, nn.ModuleDict({"layer": nn.Linear(2, 2)}))
    assert words in error.message and hint in error.hint


def test_plain_integers_are_named(tmp_path):
    path = saved(
        tmp_path, {"0.weight": torch.ones(2, 2, dtype=torch.int8), "0.bias": torch.ones(2)}
    )
    assert "'0.weight' holds int8" in refusal(path, nn.Sequential(nn.Linear(2, 2))).message


def test_links_to_one_mapping_from_many_keys_cost_nothing(tmp_path):
    inner = {f"w{i}": torch.ones(1) for i in range(1000)}
    path = saved(tmp_path, {f"k{i}": inner for i in range(1000)})
    assert len(read_checkpoint(path).tensors) == 1000


def test_an_average_below_an_unusual_key_is_found_under_the_name_that_the_note_gives(tmp_path):
    plain, average = net(1), net(2)
    content = {
        "state_dict": plain.state_dict(),
        "ema": {"shadow": average.state_dict(), "decay": 0.9},
    }
    path = saved(tmp_path, content)
    match = found(path, net())
    assert_from(match, plain)
    assert "'ema' fits too: weights=\"ema\" measures it" in match.notes
    for key in ("ema", "ema.shadow"):
        assert_from(found(path, net(), weights=key), average)


def test_two_sets_of_weights_below_a_usual_key(tmp_path):
    plain, average = net(1), net(2)
    content = {"model": {"raw": plain.state_dict(), "ema": average.state_dict()}, "epoch": 1}
    path = saved(tmp_path, content)
    assert "several sets of weights fit the model: 'raw.', 'ema.'" in str(refusal(path, net()))
    for key, of in (("raw", plain), ("ema", average), ("model.ema", average)):
        assert_from(found(path, net(), weights=key), of)
    assert read_checkpoint(path, "ema").metadata == {"epoch": 1}


def head(model):
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith("2.")}


def test_a_part_that_the_file_has_twice(tmp_path):
    rest = net(0).state_dict()
    teacher, student = head(net(1)), head(net(2))
    content = {f"teacher.{name}": tensor for name, tensor in teacher.items()}
    path = saved(tmp_path, content | {f"student.{name}": t for name, t in student.items()})
    error = refusal(path, net(), rest=rest)
    assert "several sets of weights fit the model: 'teacher.', 'student.'" in error.message
    match = found(path, net(), weights="student", rest=rest)
    assert torch.equal(match.tensors["2.weight"], student["2.weight"])

    path = saved(tmp_path, {"state_dict": student, "ema": teacher})
    match = found(path, net(), rest=rest)
    assert torch.equal(match.tensors["2.weight"], student["2.weight"])
    assert "'ema' fits too: weights=\"ema\" measures it" in match.notes


class Scaled(nn.Linear):
    scale = 1.0

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]


def test_a_state_that_is_no_tensor_is_said(tmp_path):
    trained = Scaled(3, 2)
    trained.scale = 3.0
    match = found(saved(tmp_path, trained.state_dict()), Scaled(3, 2))
    (note,) = match.notes
    assert "'_extra_state' of the model's state dict is no tensor: as model() made it" in note
