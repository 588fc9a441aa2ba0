"""Broken and hostile files: each gets one message with the file's name and what to do next."""

import io
import json
import os
import pickle
import socket
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file
from torch import nn

from sharpcli.checkpoint import Checkpoint, first_not_finite, load_checkpoint
from sharpcli.errors import SharpError

RAN = []


def run_code(text):
    RAN.append(text)


class RunsCode:
    def __reduce__(self):
        return run_code, ("pwned",)


def refusal(path):
    """The error of loading `path`: it must name the file and hint at what to do."""
    with pytest.raises(SharpError) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert RAN == []
    return caught.value


def safetensors(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin=0, end=4, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    error = refusal(tmp_path / "modl.safetensors")
    assert "there is no such file" in error.message
    assert error.hint == "did you mean 'model.safetensors'?"
    assert refusal(tmp_path / "none" / "x").hint == "check the path"


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    assert refusal(tmp_path / name).message.endswith("is empty")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe").message
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in refusal(tmp_path / "loop").message


def test_an_unlikely_path():
    with pytest.raises(SharpError, match="cannot be read: embedded null"):
        load_checkpoint("a\0b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"epoch 1 loss 0.3\nepoch 2 loss 0.2\n", "is a text file, not a checkpoint"),
        ("größe: 3\n".encode() * 100, "is a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(80), "is an HDF5 (Keras) file"),
        (b"GGUF\x03\x00" + bytes(80), "is a GGUF file"),
        (b"\x93NUMPY\x01\x00" + bytes(80), "is a NumPy array"),
        (b"\x1f\x8b\x08" + bytes(80), "is a gzip archive"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a"])
def test_other_files_are_called_by_their_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path / name).message


def test_bytes_of_no_kind(tmp_path):
    (tmp_path / "a.pt").write_bytes(bytes(range(256)))
    assert "is neither safetensors nor a torch file" in refusal(tmp_path / "a.pt").message


# --- safetensors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"{not json", b"", "cannot be read: it is not valid JSON"),
        (b'{"a": "\xff"}', b"", "it is not valid JSON"),
        (b"[" * 100_000, b"", "it is not valid JSON"),
        (b'{"\\ud800": 1}', b"", "it is not valid text"),
        (b"[1, 2, 3]", b"", "is not a table of tensors"),
        (b'{"a": {"dtype": 1, "dtype": 2}}', b"", "'dtype' occurs twice"),
        (
            b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
            b"ab",
            "'w' occurs twice",
        ),
        ({"w": 3}, b"", "tensor 'w' lacks dtype, shape or data_offsets"),
        ({"w": {"dtype": "F32", "shape": [1]}}, b"", "tensor 'w' lacks"),
        ({"w": entry(dtype="F31")}, bytes(4), "tensor 'w' has the dtype 'F31'"),
        ({"w": entry(dtype=["F32"])}, bytes(4), "tensor 'w' has the dtype"),
        ({"w": entry(shape=(-1,))}, bytes(4), "'w' has a shape or offsets that are not"),
        ({"w": entry(shape=(1.0,))}, bytes(4), "'w' has a shape or offsets that are not"),
        ({"w": entry(shape=(True,))}, bytes(4), "'w' has a shape or offsets that are not"),
        ({"w": {**entry(), "data_offsets": [0]}}, bytes(4), "'w' has a shape or offsets"),
        ({"w": entry(0, 10**18, (25 * 10**16,))}, bytes(4), "'w' ends at byte 10000000000000000"),
        ({"w": entry(shape=(2**32, 2**32))}, bytes(4), "'w' has a shape too large"),
        ({"w": entry(0, 0, shape=(0, 2**63))}, b"", "'w' has a shape too large"),
        ({"w": entry(shape=(1,) * 100)}, bytes(4), "'w' has a shape too large"),
        (b'{"w":{"shape":[' + b"9" * 5000 + b"]}}", b"", "a number in it is larger than any file"),
        ({"w": entry(shape=(2,))}, bytes(4), "of shape (2,) needs 8 bytes, its offsets give 4"),
        ({"w": entry(4, 0)}, bytes(4), "needs 4 bytes, its offsets give -4"),
        ({"w": entry(0, 4), "v": entry(2, 6)}, bytes(6), "tensor 'v' overlaps 'w'"),
        ({"w": entry(4, 8)}, bytes(8), "4 bytes before tensor 'w' belong to no tensor"),
        ({"w": entry()}, bytes(9), "5 bytes after the last tensor belong to no tensor"),
        ({"w": entry(), "__metadata__": {"a": 1}}, bytes(4), "'__metadata__' is not a table"),
        ({"w": entry(), "__metadata__": "a"}, bytes(4), "'__metadata__' is not a table"),
        ({"__metadata__": {"lr": "1"}}, b"", "holds no tensors"),
    ],
)
def test_a_lying_header(tmp_path, header, data, words):
    path = safetensors(tmp_path / "a.safetensors", header, data)
    assert words in refusal(path).message


def test_a_header_that_promises_more_than_the_file_has(tmp_path):
    content = save({"w": torch.ones(3)})
    path = tmp_path / "a.safetensors"
    path.write_bytes((10**18).to_bytes(8, "little") + content[8:])
    assert "claims 1000000000000000000 bytes, but the file has" in refusal(path).message


def test_a_header_longer_than_the_format_allows(tmp_path):
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little") + b"{")
        file.truncate(200_000_100)  # sparse: it takes no room on the disk
    assert "has 200000000 bytes; the format allows at most 100000000" in refusal(path).message


@pytest.mark.parametrize("kept", [1, 7, 8, 9, 40, -1])
def test_a_truncated_file(tmp_path, kept):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"weight": torch.ones(30)})[:kept])
    refusal(path)


WHOLE = save(
    {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.int16)}, {"lr": "0.1"}
)


@settings(max_examples=400, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), max_size=3),
    kept=st.one_of(st.just(len(WHOLE)), st.integers(0, len(WHOLE))),
)
def test_flipped_and_truncated_safetensors(tmp_path_factory, flips, kept):
    content = bytearray(WHOLE)
    for position, mask in flips:
        content[position] ^= mask
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(content[:kept])
    try:
        checkpoint = load_checkpoint(path)
    except SharpError as error:
        assert str(path) in error.message
        return
    assert isinstance(checkpoint, Checkpoint)
    reference = load(bytes(content[:kept]))
    assert checkpoint.tensors.keys() == reference.keys()
    for name, tensor in reference.items():
        assert checkpoint.tensors[name].shape == tensor.shape
        assert checkpoint.tensors[name].dtype == tensor.dtype


# --- pickles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a"])
def test_a_pickle_that_would_run_code_is_read_without_running_it(tmp_path, name, zipped):
    content = {"state_dict": {"w": torch.ones(2)}, "callback": RunsCode()}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(tmp_path / name)
    assert checkpoint.tensors["w"].tolist() == [1, 1]
    assert checkpoint.notes[-1] == f"classes left aside: callback ({__name__}.run_code)"
    assert RAN == []
    content["state_dict"] = RunsCode()
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    error = refusal(tmp_path / name)
    assert "holds no tensors that are read without its classes" in error.message
    assert f"state_dict ({__name__}.run_code)" in error.message
    assert "model.state_dict()" in error.hint


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": [1, "x", RunsCode()]}, protocol))
    error = refusal(tmp_path / "a.pt")
    assert "run_code" in error.message
    assert "safetensors.torch.save_file" in error.hint
    if protocol < 2:
        assert "would run code on loading: it asks for" in error.message
    else:
        assert "has no tensors; its classes: w.2 (" in error.message


@pytest.mark.parametrize("name", ["eval", "getattr", "exec"])
def test_builtins_are_refused(tmp_path, name):
    code = b"\x80\x02c__builtin__\n" + name.encode() + b"\nX\x03\x00\x00\x001+1\x85R."
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", code)
        archive.writestr("a/version", "3")
    assert f"without its classes: the file (builtins.{name})" in refusal(tmp_path / "a.pt").message


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_without_its_parameters_is_refused(tmp_path, zipped):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].__dict__["_parameters"] = torch.ones(2)
    for content in (model, {"model": model}):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        error = refusal(tmp_path / "a.pt")
        assert "refused: holds a whole pickled module ('torch.nn.modules." in error.message
        assert "model.state_dict()" in error.hint


def test_objects_that_take_any_amount_of_memory(tmp_path):
    torch.save({"w": torch.zeros(1).expand(10**12)}, tmp_path / "a.pt")
    assert "'w' of shape (1000000000000,) is larger than" in refusal(tmp_path / "a.pt").message
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pt").read_bytes()
    assert content.count(b"K\x03N") == 1  # the storage's number of elements
    huge = content.replace(b"K\x03N", b"\x8a\x08" + (2**50).to_bytes(8, "little") + b"N")
    (tmp_path / "a.pt").write_bytes(huge)
    assert f"claims {2**50} elements" in refusal(tmp_path / "a.pt").message


def test_a_plain_pickle_is_not_taken_for_torchs(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": [1.0, 2.0]}, 2))
    assert "a pickle, but not one that torch.save wrote" in refusal(tmp_path / "a.pt").message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(1)], "holds a list, not tensors by name"),
        (torch.ones(2, 3), "holds one tensor of shape (2, 3)"),
        ({}, "holds no tensors by name; its keys: none"),
        ({"epoch": 1, "model": {}}, "holds no tensors by name; its keys: 'epoch', 'model'"),
        ({0: torch.ones(1)}, "holds no tensors by name; its keys: '0'"),
        ({"g": {"w": torch.ones(1)}, "d": {"w": torch.ones(1)}}, "could be the weights: 'g', 'd'"),
        ({"state": {}, "param_groups": [{"lr": 1.0}]}, "holds an optimizer's state, not weights"),
        ({"w": torch.eye(2).to_sparse()}, "tensor 'w' is sparse"),
        ({"w": torch.ones(2, device="meta")}, "tensor 'w' has no data (device 'meta')"),
        ({"\ud800": torch.ones(1)}, "tensor '\\ud800' has a name that is not valid text"),
    ],
)
def test_torch_files_without_plain_weights(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pt")
    assert words in refusal(tmp_path / "a.pt").message


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantized_tensors(tmp_path):
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    torch.save({"w": quantized}, tmp_path / "a.pt")
    assert "tensor 'w' is quantized" in refusal(tmp_path / "a.pt").message


# --- archives ------------------------------------------------------------------------------------


def test_a_zip_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    error = refusal(tmp_path / "a.pt")
    assert "bytes would unpack to 10000000" in error.message


def archive_of(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.txt", b"x")], "holds a zip archive without 'data.pkl'"),
        ([("w.npy", b"x")], "holds NumPy arrays"),
        ([("a/data.pkl", b"x"), ("b/data.pkl", b"x")], "holds a zip archive without"),
        ([("a/data.pkl", b"x"), ("a/constants.pkl", b"x")], "is a TorchScript program"),
        ([("a/data.pkl", b"")], "its pickle cannot be read: it breaks off or is corrupt"),
        ([("a/data.pkl", b"\x80\x02}q")], "its pickle cannot be read: it breaks off"),
        ([("a/data.pkl", b"\x80\x02}.")], "holds no tensors by name; its keys: none"),
    ],
)
def test_archives_that_torch_did_not_write(tmp_path, members, words):
    assert words in refusal(archive_of(tmp_path / "a.pt", members)).message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_members_of_one_name(tmp_path):
    members = [("a/data.pkl", b"\x80\x02}."), ("a/data.pkl", b"\x80\x02N.")]
    assert "two members with the name" in refusal(archive_of(tmp_path / "a.pt", members)).message


def test_a_truncated_archive(tmp_path):
    torch.save({"w": torch.ones(100)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    assert "is a corrupt zip archive" in refusal(tmp_path / "a.pt").message


def torch_bytes(zipped):
    buffer = io.BytesIO()
    state = {"w": torch.ones(4, 2), "b": torch.ones(2, dtype=torch.int64)}
    content = {"model": state, "lr": 0.5, "betas": (0.9, 0.99)}
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


ZIPPED, LEGACY = torch_bytes(True), torch_bytes(False)


@pytest.mark.parametrize("whole", [ZIPPED, LEGACY], ids=["zipped", "legacy"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_and_truncated_torch_files(tmp_path_factory, whole, data):
    content = bytearray(whole)
    # the pickles lie in the first half kilobyte, the archive's directory at the end
    near = st.one_of(st.integers(0, 511), st.integers(0, len(whole) - 1))
    flips = st.lists(st.tuples(near, st.integers(1, 255)), max_size=3)
    for position, mask in data.draw(flips):
        content[position] ^= mask
    kept = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    path.write_bytes(content[:kept])
    try:
        assert isinstance(load_checkpoint(path), Checkpoint)
    except SharpError as error:
        assert str(path) in error.message


# --- pickles that no torch wrote -----------------------------------------------------------------


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(shape=b"K\x04\x85", strides=b"K\x01\x85", offset=b"K\x00", view=b""):
    """The operations that rebuild a float32 tensor of the four elements of the storage '0'."""
    storage = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04"
    named = b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + view + b"tQ"
    return named + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"


def program(*entries):
    """A pickle of a mapping with these entries, each the operations of a key and a value."""
    return b"\x80\x02}" + b"".join(entry + b"s" for entry in entries) + b"."


FOUR = struct.pack("<4f", 1, 2, 3, 4)
STORED = struct.pack("<q", 4) + FOUR  # as a legacy file has it
W = text("w") + tensor()


def zipped(path, *entries, data=FOUR):
    members = [("a/data.pkl", program(*entries)), ("a/data/0", data)]
    return archive_of(path / "a.pt", members)


def legacy(path, *entries, keys=("0",), data=STORED):
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, list(keys)]
    magic, version, system, listed = (pickle.dumps(part, 2) for part in parts)
    (path / "a.pth").write_bytes(magic + version + system + program(*entries) + listed + data)
    return path / "a.pth"


LEGACY_W = text("w") + tensor(view=b"N")


def test_handmade_files_are_read(tmp_path):
    for path in (zipped(tmp_path, W), legacy(tmp_path, LEGACY_W)):
        assert load_checkpoint(path).tensors["w"].tolist() == [1, 2, 3, 4]


def test_a_part_of_a_storage_in_a_legacy_file(tmp_path):
    part = text("p") + tensor(b"K\x02\x85", view=text("v") + b"K\x01K\x02\x87")
    found = load_checkpoint(legacy(tmp_path, LEGACY_W, part)).tensors
    assert found["p"].tolist() == [2, 3]
    past = text("p") + tensor(b"K\x02\x85", view=text("v") + b"K\x03K\x02\x87")
    assert "reaches outside its data" in refusal(legacy(tmp_path, past)).message


@pytest.mark.parametrize(
    ("keys", "data", "words"),
    [
        ((), b"", "lacks the data of 1 of its tensors"),
        ((), STORED, "lacks the data of 1 of its tensors"),
        (("1",), STORED, "the list of its tensors' data is damaged"),
        ((0,), STORED, "the list of its tensors' data is damaged"),
        (("0", "0"), STORED * 2, "the list of its tensors' data is damaged"),
        (("0",), struct.pack("<q", 5) + FOUR * 2, "data differ from the declared ones"),
        (("0",), struct.pack("<q", 4) + FOUR[:-1], "ends within the data of a tensor"),
        (("0",), b"", "data differ from the declared ones"),
    ],
)
def test_legacy_files_without_the_bytes_of_a_tensor(tmp_path, keys, data, words):
    assert words in refusal(legacy(tmp_path, LEGACY_W, keys=keys, data=data)).message


def test_a_member_shorter_than_its_tensor(tmp_path):
    error = refusal(zipped(tmp_path, W, data=FOUR[:-1]))
    assert "a tensor claims 16 bytes, but the file has 15 bytes" in error.message
    path = archive_of(tmp_path / "a.pt", [("a/data.pkl", program(W))])
    assert "a tensor claims 16 bytes, but the file has none" in refusal(path).message


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (tensor(b"K\x05\x85"), "of shape (5,) reaches outside its data"),
        (tensor(offset=b"K\x01"), "of shape (4,) reaches outside its data"),
        (tensor(strides=b"K\x02\x85"), "of shape (4,) reaches outside its data"),
        (tensor(offset=b"J\xff\xff\xff\xff"), "does not begin at an element of its data"),
        (tensor(b"J\xff\xff\xff\xff\x85"), "a shape or strides that are not integers"),
        (tensor(b"\x88\x85"), "a shape or strides that are not integers"),
        (tensor(b"N"), "a shape or strides that are not integers"),
        (tensor(b"K\x04K\x01\x86"), "a shape or strides that are not integers"),
        (tensor(b"(" + b"K\x01" * 65 + b"t", b"(" + b"K\x01" * 65 + b"t"), "a shape too large"),
        (tensor(b"J\xff\xff\xff\x7f\x85", b"K\x00\x85"), "is larger than the file that holds it"),
    ],
)
def test_tensors_that_are_not_in_the_file(tmp_path, made, words):
    error = refusal(zipped(tmp_path, text("w") + made))
    assert "tensor 'w' " in error.message
    assert words in error.message


def test_a_key_whose_hash_takes_for_ever(tmp_path):
    doubled = b")" + b"".join(b"2\x86" for _ in range(60))  # each twice the one before
    nested = text("junk") + b"}" + doubled + b"K\x01s"
    assert list(load_checkpoint(zipped(tmp_path, W, nested)).tensors) == ["w"]
    assert list(load_checkpoint(zipped(tmp_path, W, doubled + b"K\x01")).tensors) == ["w"]


@pytest.mark.parametrize("name", ["items", "values", "get", "keys", "__class__", "__dict__"])
def test_attributes_that_would_hide_methods(tmp_path, name):
    hidden = b"}" + text(name) + b"K\x05sb"
    state = text("state_dict") + b"ccollections\nOrderedDict\n)R" + W + b"s" + hidden
    beside = text("hyper_parameters") + b"ccollections\nOrderedDict\n)R" + hidden
    assert list(load_checkpoint(zipped(tmp_path, state, beside)).tensors) == ["w"]
    parameter = (
        text("p") + b"ctorch._utils\n_rebuild_parameter\n" + tensor() + b"\x88N\x87R" + hidden
    )
    assert load_checkpoint(zipped(tmp_path, parameter)).tensors["p"].tolist() == [1, 2, 3, 4]


def test_integers_of_any_size(tmp_path):
    large = b"\x8b" + struct.pack("<I", 100_000) + b"\x7f" * 100_000
    digits = b"L" + b"9" * 10_000 + b"L\n"
    path = zipped(tmp_path, W, text("a") + large, text("b") + digits, large + b"N", digits + b"N")
    checkpoint = load_checkpoint(path)
    assert (list(checkpoint.tensors), checkpoint.metadata) == (["w"], {})


def test_data_described_with_what_takes_for_ever_to_compare(tmp_path):
    doubled = b")" + b"".join(b"2\x86" for _ in range(60))  # each twice the one before
    for view in (doubled, b")" + b"\x85" * 50_000, b"]2a"):
        twice = text("w") + tensor(view=view), text("v") + tensor(view=view)
        assert list(load_checkpoint(zipped(tmp_path, *twice)).tensors) == ["w", "v"]


def with_dtype(dtype, metadata=b"", view=b"", shape=b"K\x01\x85"):
    """One element of `dtype` from the sixteen bytes of the storage '0'."""
    storage = text("storage") + b"ctorch\nByteStorage\n" + text("0") + text("cpu") + b"K\x10"
    named = b"ctorch._utils\n_rebuild_tensor_v3\n((" + storage + view + b"tQK\x00" + shape
    return named + b"K\x01\x85\x89}ctorch\n" + dtype.encode() + b"\n" + metadata + b"tR"


@pytest.mark.parametrize("dtype", ["bits8", "qint8", "int4", "uint1", "float4_e2m1fn_x2"])
def test_dtypes_that_torch_does_not_compute_with(tmp_path, dtype):
    if not hasattr(torch, dtype):
        pytest.skip(f"this version of PyTorch has no {dtype}")
    error = refusal(zipped(tmp_path, text("w") + with_dtype(dtype)))
    assert "tensor 'w' has the dtype " in error.message
    beside = text("extra") + b"}" + text("x") + with_dtype(dtype) + b"s"
    path = zipped(tmp_path, text("model") + b"}" + text("w") + with_dtype("float32") + b"s", beside)
    assert list(load_checkpoint(path).tensors) == ["w"]


def test_a_mark_that_only_floats_can_have(tmp_path):
    negated = b"}" + text("neg") + b"\x88s"
    path = zipped(tmp_path, text("w") + with_dtype("float32", negated))
    assert load_checkpoint(path).tensors["w"].tolist() == [-1]
    path = zipped(tmp_path, text("w") + with_dtype("float8_e5m2", negated))
    assert "tensor 'w' is negated, which its dtype cannot be" in refusal(path).message


def test_a_part_of_a_storage_as_a_type_that_does_not_begin_there(tmp_path):
    view = b"(" + text("part") + b"K\x03K\x08t"
    stored = struct.pack("<q", 16) + FOUR
    path = legacy(tmp_path, text("w") + with_dtype("float64", view=view), data=stored)
    assert "tensor 'w' does not begin at an element of its data" in refusal(path).message


@pytest.mark.parametrize("unit", [b"V%b\n", b"T%b%b", b"X%b%b", b"c%b\n\n"])
def test_a_text_that_takes_six_times_its_bytes(tmp_path, unit):
    long = "\N{SLIGHTLY SMILING FACE}".encode() + b"a" * 40_000_000
    parts = (struct.pack("<I", len(long)), long) if unit.count(b"%b") == 2 else (long,)
    path = zipped(tmp_path, W, text("long") + unit % parts)
    tracemalloc.start()
    try:
        assert "it holds more objects than any checkpoint" in refusal(path).message
        assert tracemalloc.get_traced_memory()[1] < 3 * len(long)
    finally:
        tracemalloc.stop()


def test_one_tensor_under_many_names_takes_no_time_for_each(tmp_path):
    names = 10_000
    data = torch.ones(2**20).numpy().tobytes()
    whole = tensor(b"J\x00\x00\x10\x00\x85").replace(b"K\x04tQ", b"J\x00\x00\x10\x00tQ")
    path = zipped(
        tmp_path,
        text("w") + whole + b"q\x01",
        *(text(f"{i}") + b"h\x01" for i in range(names)),
        data=data,
    )
    checkpoint = load_checkpoint(path)
    assert len(checkpoint.tensors) == names + 1
    assert first_not_finite(checkpoint.tensors) is None  # 10,000 times 4 MB would take a minute


def test_more_names_than_a_file_can_have_tensors(tmp_path):
    many = (text(f"{i}") + b"h\x01" for i in range(20_000))
    path = zipped(tmp_path, W + b"q\x01", *many)
    assert "has 20001 tensors in" in refusal(path).message
    empty = {f"{i}": entry(0, 0, (0,)) for i in range(20_000)}
    path = safetensors(tmp_path / "a.safetensors", empty, b"")
    assert "has 20000 tensors in" in refusal(path).message


def test_metadata_of_very_many_digits(tmp_path):
    stored = {"w": entry(), "__metadata__": {"k": "1" * 100_000 + "x"}}
    begun = time.process_time()
    checkpoint = load_checkpoint(safetensors(tmp_path / "a.safetensors", stored, bytes(4)))
    assert len(checkpoint.metadata["k"]) == 100_001
    assert time.process_time() - begun < 1


def test_tensors_that_overlap_too_often(tmp_path):
    def rows(i):  # each begins one element later, and all are one element many times
        return tensor(b"K\x03M\xff\x0f\x86", b"K\x00K\x00\x86", b"K" + bytes([i]))

    path = zipped(
        tmp_path, *(text(f"{i}") + rows(i % 4) for i in range(4)), data=FOUR + bytes(50_000)
    )
    assert len(load_checkpoint(path).tensors) == 4
    data = bytes(4 * 10**6)
    path = zipped(
        tmp_path,
        *(
            text(f"{i}")
            + tensor(b"J\x00\x00\x0e\x00\x85", offset=b"K" + bytes([i])).replace(
                b"K\x04tQ", b"J" + struct.pack("<I", 10**6) + b"tQ"
            )
            for i in range(30)
        ),
        data=data,
    )
    assert "its 30 tensors together have" in refusal(path).message


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        (b"}", 1_200_000),
        (b"Nq\x01", 1_000_000),
    ],
)
def test_a_small_file_of_very_many_objects(tmp_path, unit, times):
    path = zipped(tmp_path, W, text("junk") + unit * times)
    assert "holds more objects than any checkpoint" in refusal(path).message


def test_members_whose_names_differ_in_case_only(tmp_path):
    members = [("a/DATA.PKL", b"\x80\x02N."), ("a/data.pkl", program(W)), ("a/data/0", FOUR)]
    assert "two members with the name" in refusal(archive_of(tmp_path / "a.pt", members)).message


def test_a_compressed_member_whose_size_the_directory_makes_small(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 100)
    path.write_bytes(content)
    assert "is compressed" in refusal(path).message


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_byte_order_that_an_archive_names(tmp_path, order):
    values = struct.pack("<4f" if order == "little" else ">4f", 1, 2, 3, 4)
    members = [("a/data.pkl", program(W)), ("a/data/0", values), ("a/byteorder", order.encode())]
    path = archive_of(tmp_path / "a.pt", members)
    assert load_checkpoint(path).tensors["w"].tolist() == [1, 2, 3, 4]


def test_json_of_very_many_values(tmp_path):
    path = safetensors(tmp_path / "a.safetensors", b'{"w":[' + b"[]," * 1_000_000 + b"1]}")
    assert "it holds more values than any checkpoint" in refusal(path).message


# --- folders and indices -------------------------------------------------------------------------


def test_folders_without_a_checkpoint(tmp_path):
    assert "is a folder without a checkpoint" in refusal(tmp_path).message
    assert "model.safetensors.index.json" in refusal(tmp_path).hint
    (tmp_path / "checkpoint-500").mkdir()
    assert refusal(tmp_path).hint == "pass one of the folders in it: 'checkpoint-500'"
    (tmp_path / "__0_0.distcp").touch()
    assert "is a distributed checkpoint" in refusal(tmp_path).message


def test_a_folder_with_several_checkpoints(tmp_path):
    for name in ("b.pt", "a.safetensors"):
        (tmp_path / name).touch()
    error = refusal(tmp_path)
    assert "more than one checkpoint: 'a.safetensors', 'b.pt'" in error.message
    assert error.hint.endswith("a.safetensors")


def index(folder, weight_map):
    path = folder / "model.safetensors.index.json"
    path.write_text(weight_map if isinstance(weight_map, str) else json.dumps(weight_map))
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ({}, "has no 'weight_map'"),
        ({"weight_map": {}}, "has no 'weight_map'"),
        ({"weight_map": {"w": 3}}, "tensor 'w' names no file"),
        ({"weight_map": {"w": "gone.safetensors"}}, "'gone.safetensors' is missing (1 of 1)"),
        ({"weight_map": {"w": "../up.safetensors"}}, "outside the checkpoint's folder"),
        ({"weight_map": {"w": "a/../../up.safetensors"}}, "outside the checkpoint's folder"),
        ({"weight_map": {"w": "..\\up.safetensors"}}, "outside the checkpoint's folder"),
        ({"weight_map": {"w": "/etc/passwd"}}, "outside the checkpoint's folder"),
        ({"weight_map": {"w": "C:/up.safetensors"}}, "outside the checkpoint's folder"),
        ({"weight_map": {"w": "."}}, "tensor 'w' names no file"),
    ],
)
def test_indices_that_cannot_be_followed(tmp_path, content, words):
    folder = tmp_path / "run"
    folder.mkdir()
    save_file({"w": torch.ones(1)}, tmp_path / "up.safetensors")
    assert words in refusal(index(folder, content)).message


def test_a_shard_that_lacks_what_the_index_promises(tmp_path):
    save_file({"w": torch.ones(1), "extra": torch.ones(1)}, tmp_path / "1.safetensors")
    weight_map = {"w": "1.safetensors", "v": "1.safetensors"}
    with pytest.raises(SharpError) as caught:
        load_checkpoint(index(tmp_path, {"weight_map": weight_map}))
    assert "1.safetensors: lacks 'v', which model.safetensors.index.json" in caught.value.message
    whole = load_checkpoint(index(tmp_path, {"weight_map": {"w": "1.safetensors"}}))
    assert "left out 'extra' of '1.safetensors': not in the index" in whole.notes


def put_pipe(path):
    os.mkfifo(path)


def put_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has to be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.chdir(here)


SPECIAL = {
    "pipe": put_pipe,
    "socket": put_socket,
    "link to a pipe": lambda path: (
        put_pipe(path.with_name("pipe")),
        path.symlink_to("pipe"),
    ),
    "link to endless zeros": lambda path: path.symlink_to("/dev/zero"),
    "link to a terminal": lambda path: path.symlink_to("/dev/tty"),
}


@pytest.mark.parametrize("put", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("where", ["index", "shard", "weights", "beside"])
def test_special_files_are_refused_before_they_are_opened(tmp_path, put, where):
    save_file({"w": torch.ones(1)}, tmp_path / "1.safetensors")
    place = tmp_path / "1.safetensors"
    if where == "index":
        place = tmp_path / "model.safetensors.index.json"
    elif where == "weights":
        place = tmp_path / "model.safetensors"
    else:
        index(tmp_path, {"weight_map": {"w": "1.safetensors"}})
    if where == "beside":
        put(tmp_path / "optimizer.pt")
        put(tmp_path / "trainer_state.json") if put is put_pipe else None
        assert list(load_checkpoint(tmp_path).tensors) == ["w"]
        return
    place.unlink(missing_ok=True)
    put(place)
    with pytest.raises(SharpError) as caught:
        load_checkpoint(tmp_path)
    assert caught.value.message == f"{place}: is not a regular file"


def test_a_shard_that_cannot_be_read_is_named(tmp_path):
    path = index(tmp_path, {"weight_map": {"w": "1.safetensors"}})
    (tmp_path / "1.safetensors").mkdir()
    with pytest.raises(SharpError, match=r"1\.safetensors: is a folder"):
        load_checkpoint(path)
    (tmp_path / "1.safetensors").rmdir()
    (tmp_path / "1.safetensors").write_bytes(b"")
    with pytest.raises(SharpError, match=r"1\.safetensors: is empty"):
        load_checkpoint(path)


def test_two_shards_that_are_one_file(tmp_path):
    save_file({"w": torch.ones(1), "v": torch.ones(1)}, tmp_path / "1.safetensors")
    same = {"w": "1.safetensors", "v": "./1.safetensors"}
    assert list(load_checkpoint(index(tmp_path, {"weight_map": same})).tensors) == ["w", "v"]
    (tmp_path / "2.safetensors").hardlink_to(tmp_path / "1.safetensors")
    linked = {"w": "1.safetensors", "v": "2.safetensors"}
    assert "are the same file" in refusal(index(tmp_path, {"weight_map": linked})).message


def test_a_pickle_of_very_many_operations_is_refused_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("sharpcli.checkpoint.plain_pickle._MOST_OPERATIONS", 1000)
    for name, count in (("few", 400), ("many", 600)):
        with zipfile.ZipFile(tmp_path / f"{name}.pt", "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * count + b"}.")
            archive.writestr("archive/version", b"3\n")
    with pytest.raises(SharpError, match="more objects than any checkpoint"):
        load_checkpoint(tmp_path / "many.pt")
    with pytest.raises(SharpError, match="no tensors"):
        load_checkpoint(tmp_path / "few.pt")
