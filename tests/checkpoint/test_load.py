"""Checkpoints that can be read: every format, what was undone, and the facts beside the weights."""

import argparse
import hashlib
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from sharpcli.checkpoint import (
    first_not_finite,
    load_checkpoint,
    match_tensors,
    save_checkpoint,
    summarize_optimizer,
)
from sharpcli.errors import SharpError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def stepped(model, optimizer):
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_round_trip(tmp_path, model):
    path = tmp_path / "a.safetensors"
    facts = {"lr": 0.1, "betas": (0.9, 0.999), "seed": 3, "nesterov": True, "name": "x", "no": None}
    save_checkpoint(path, model.state_dict(), facts)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.tensors, model.state_dict())
    assert checkpoint.metadata == {
        "lr": 0.1,
        "betas": "0.9,0.999",
        "seed": 3,
        "nesterov": True,
        "name": "x",
    }
    assert checkpoint.sha256 == sha256(path)
    assert checkpoint.notes == ()
    assert checkpoint.optimizer is None
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_same_content_is_saved_as_the_same_bytes(tmp_path, model):
    facts = {f"key{i}": i for i in range(20)}
    save_checkpoint(tmp_path / "a", model.state_dict(), facts)
    save_checkpoint(tmp_path / "b", model.state_dict(), dict(reversed(facts.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert_same(load_file(tmp_path / "a"), model.state_dict())


def test_tied_and_strided_tensors_are_saved_in_full(tmp_path):
    weight = torch.randn(4, 3)
    tensors = {"a": weight, "b": weight, "row": weight[1], "transposed": weight.T}
    save_checkpoint(tmp_path / "a.safetensors", tensors, {})
    assert_same(load_file(tmp_path / "a.safetensors"), tensors)


def test_a_checkpoint_that_cannot_be_written_is_kept_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(SharpError, match=r"a\.safetensors: cannot be written: there is no folder"):
        save_checkpoint(tmp_path / "none" / "a.safetensors", {"a": torch.ones(1)}, {})
    (kept,) = (tmp_path / "cache").rglob("a.safetensors")
    assert_same(load_file(kept), {"a": torch.ones(1)})


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    ],
)
def test_every_dtype_is_read_as_stored(tmp_path, dtype):
    tensors = {"a": torch.tensor([[0.0, 1.0, 2.0]]).to(dtype), "empty": torch.zeros(0, 3).to(dtype)}
    tensors["scalar"] = torch.tensor(1.0).to(dtype)
    save_file(tensors, tmp_path / "a.safetensors")
    found = load_checkpoint(tmp_path / "a.safetensors").tensors
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        name: (t.dtype, t.shape) for name, t in tensors.items()
    }
    for name, tensor in tensors.items():
        assert torch.equal(bits(found[name]), bits(tensor))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("3", 3), ("-3", -3), ("0.1", 0.1), ("1e-3", 1e-3), (".5", 0.5), ("true", True)),
        *(("False", False), ("007", "007"), ("1_000", "1_000"), ("nan", "nan"), ("1e999", "1e999")),
        *(("9" * 400, "9" * 400), ("sgd", "sgd"), ("0.9,0.999", "0.9,0.999"), ("", "")),
        ("99999999999999999999", 1e20),
    ],
)
def test_metadata_texts_become_numbers_only_where_plain(tmp_path, text, value):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"key": text})
    found = load_checkpoint(tmp_path / "a.safetensors").metadata
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


def test_names_that_save_model_dropped_are_restored(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    save_model(model, str(tmp_path / "a.safetensors"))
    checkpoint = load_checkpoint(tmp_path / "a.safetensors")
    assert_same(checkpoint.tensors, model.state_dict())
    assert checkpoint.metadata == {}
    assert "stored once with a tied tensor" in checkpoint.notes[0]
    assert match_tensors(checkpoint, model.state_dict()).notes == ()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_plain_torch_files(tmp_path, model, suffix, zipped):
    path = tmp_path / f"a{suffix}"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.tensors, model.state_dict())
    assert (checkpoint.metadata, checkpoint.notes) == ({}, ())
    assert checkpoint.sha256 == sha256(path)


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "module", "net", "weird_name"]
)
def test_nestings_are_undone_and_said(tmp_path, model, key):
    torch.save({"epoch": 3, key: model.state_dict()}, tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert_same(checkpoint.tensors, model.state_dict())
    assert checkpoint.metadata == {"epoch": 3}
    assert checkpoint.notes == (f"weights taken from '{key}'",)


def test_nestings_in_nestings_and_weights_left_aside(tmp_path, model):
    inner = {"model": model.state_dict(), "step": 7}
    torch.save({"module": inner, "ema": model.state_dict()}, tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert checkpoint.metadata == {"step": 7}
    assert checkpoint.notes == (
        "weights taken from 'module'",
        "weights taken from 'model'",
        "not read: 'ema'",
    )


def test_facts_beside_the_weights(tmp_path, model):
    optimizer = torch.optim.Adam(model.parameters(), 0.01, betas=(0.8, 0.99), weight_decay=0.0)
    torch.save(
        {
            "state_dict": model.state_dict(),
            "optimizer": stepped(model, optimizer),
            "args": argparse.Namespace(batch_size=32, layers=[1, 2], path="x" * 500, n=None),
            "hyper_parameters": OrderedDict(name="run", epoch="hidden"),
            "epoch": 3,
            "best": np.float64(0.5),
            "count": np.int64(5),
            "loss": torch.tensor(1.0),
            "nan": float("nan"),
        },
        tmp_path / "a.pt",
    )
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert checkpoint.metadata == {
        "epoch": 3,
        "best": 0.5,
        "count": 5,
        "name": "run",
        "batch_size": 32,
        "layers": "1,2",
        "optimizer": "adam",
        "lr": 0.01,
        "weight_decay": 0.0,
        "eps": 1e-8,
        "amsgrad": False,
        "betas": "0.8,0.99",
        "beta1": 0.8,
        "beta2": 0.99,
    }
    summary = summarize_optimizer(checkpoint.optimizer)
    assert summary["state"] == ["exp_avg", "exp_avg_sq", "step"]
    assert (summary["groups"], summary["tensors"]) == (1, 18)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), "sgd"),
        (lambda p: torch.optim.SGD(p, 0.1), "sgd"),
        (lambda p: torch.optim.Adam(p), "adam"),
        (lambda p: torch.optim.RMSprop(p), "rmsprop"),
        (lambda p: torch.optim.Adagrad(p), "adagrad"),
        (lambda p: torch.optim.Adadelta(p), None),
    ],
)
def test_the_kind_of_optimizer_where_it_can_be_told(tmp_path, model, make, kind):
    state = stepped(model, make(model.parameters()))
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").metadata.get("optimizer") == kind


def test_adamw_is_told_from_adam_only_where_the_file_says_so(tmp_path, model):
    state = stepped(model, torch.optim.AdamW(model.parameters(), weight_decay=0.1))
    for decoupled, kind in ((True, "adamw"), (False, "adam"), (None, None)):
        state["param_groups"][0].pop("decoupled_weight_decay", None)
        if decoupled is not None:
            state["param_groups"][0]["decoupled_weight_decay"] = decoupled
        torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pt")
        assert load_checkpoint(tmp_path / "a.pt").metadata.get("optimizer") == kind


def test_lightning_checkpoints(tmp_path, model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    lightning = {
        "epoch": 1,
        "global_step": 40,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [stepped(model, optimizer)],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"batch_size": 16},
    }
    torch.save(lightning, tmp_path / "a.ckpt")
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.metadata["global_step"] == 40
    assert checkpoint.metadata["batch_size"] == 16
    assert checkpoint.metadata["lr"] == 0.1
    assert match_tensors(checkpoint, model.state_dict()).notes == ("prefix 'model.' removed",)


def test_a_state_dict_with_scalars_in_it(tmp_path):
    torch.save({"weight": torch.ones(2), "epoch": 3, "extra": None}, tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert list(checkpoint.tensors) == ["weight"]
    assert checkpoint.metadata == {"epoch": 3}


def test_the_content_decides_the_format_and_a_wrong_suffix_is_noted(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "a.pt")
    torch.save(model.state_dict(), tmp_path / "b.safetensors")
    torch.save(model.state_dict(), tmp_path / "c")
    notes = [load_checkpoint(tmp_path / n).notes for n in ("a.pt", "b.safetensors", "c")]
    assert notes == [
        ("named '.pt' but holds safetensors",),
        ("named '.safetensors' but holds a torch file",),
        (),
    ]


def test_a_safetensors_header_whose_length_looks_like_a_pickle(tmp_path):
    path = tmp_path / "a.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x0280)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x07")
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert load_checkpoint(path).tensors["a"].tolist() == [7]


def sharded(folder, model, save, pattern, index_name):
    state = list(model.state_dict().items())
    parts = [dict(state[:3]), dict(state[3:])]
    weight_map = {}
    for number, part in enumerate(parts):
        name = pattern.format(number)
        save(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / index_name).write_text(json.dumps(index))
    return [folder / pattern.format(number) for number in range(2)]


@pytest.mark.parametrize("whole_folder", [True, False])
@pytest.mark.parametrize(
    ("save", "pattern", "index_name"),
    [
        (save_file, "model-{}.safetensors", "model.safetensors.index.json"),
        (torch.save, "pytorch_model-{}.bin", "pytorch_model.bin.index.json"),
    ],
)
def test_sharded_checkpoints(tmp_path, model, whole_folder, save, pattern, index_name):
    shards = sharded(tmp_path, model, save, pattern, index_name)
    checkpoint = load_checkpoint(tmp_path if whole_folder else tmp_path / index_name)
    assert_same(checkpoint.tensors, model.state_dict())
    joined = b"".join(hashlib.sha256(shard.read_bytes()).digest() for shard in shards)
    assert checkpoint.sha256 == hashlib.sha256(joined).hexdigest()
    assert "2 shards" in checkpoint.notes


def test_shards_may_be_links_out_of_the_folder(tmp_path, model):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    index = "model.safetensors.index.json"
    for shard in sharded(snapshot, model, save_file, "model-{}.safetensors", index):
        shard.rename(blobs / shard.name)
        shard.symlink_to(f"../blobs/{shard.name}")
    assert_same(load_checkpoint(snapshot).tensors, model.state_dict())


def test_hugging_face_folder(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    optimizer = torch.optim.AdamW(model.parameters(), 0.5, betas=(0.9, 0.95))
    torch.save(stepped(model, optimizer), tmp_path / "optimizer.pt")
    state = {"epoch": 2.0, "global_step": 10, "log_history": [{"loss": 1.0}], "best_metric": None}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    (tmp_path / "training_args.bin").write_bytes(b"never read")
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.metadata["global_step"] == 10
    assert checkpoint.metadata["beta2"] == 0.95
    assert checkpoint.optimizer["state"][0]["exp_avg"].shape == (4, 3)
    assert checkpoint.notes == ("read from 'model.safetensors'",)


def test_a_broken_neighbour_is_noted_not_fatal(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "optimizer.pt").write_bytes(b"PK\x03\x04 broken")
    (tmp_path / "trainer_state.json").write_text("{")
    checkpoint = load_checkpoint(tmp_path)
    assert_same(checkpoint.tensors, model.state_dict())
    assert "trainer_state.json: is not JSON" in checkpoint.notes[1]
    assert "optimizer.pt: is a corrupt zip archive" in checkpoint.notes[2]


def test_a_folder_with_one_checkpoint_of_any_name(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "last.safetensors")
    torch.save(model.state_dict(), tmp_path / "optimizer.pt")
    assert "read from 'last.safetensors'" in load_checkpoint(tmp_path).notes


def test_first_not_finite():
    finite = {"a": torch.ones(3), "counts": torch.ones(2, dtype=torch.int64)}
    assert first_not_finite(finite) is None
    for value in (float("nan"), float("inf"), -float("inf")):
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.complex64):
            broken = torch.tensor([1.0, value]).to(dtype)
            assert first_not_finite({**finite, "b": broken, "c": broken}) == "b"
    narrow = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    assert first_not_finite({"a": narrow}) == "a"


def test_saving_gives_what_reading_would(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"weight": torch.randn(3, 2), "bias": torch.zeros(3)}
    facts = {"z": 1, "optimizer": "adam", "betas": (0.9, 0.99), "on": True, "lr": None, "x": "bias"}
    saved = save_checkpoint(path, tensors, facts)
    read = load_checkpoint(path)
    assert (saved.sha256, saved.path) == (read.sha256, read.path)
    assert list(saved.metadata.items()) == list(read.metadata.items())
    assert saved.tensors == tensors
