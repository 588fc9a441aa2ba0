"""Deep, circular and shared objects in pickles: time and memory have bounds."""

import io
import pickle
import struct
import time

import numpy as np
import pytest
import torch
from pickle_text import named, program, text

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError

OBJECT = named("a.B") + b")\x81"
MODULE = OBJECT + b"}(" + text("_parameters") + b"}" + text("_modules") + b"}"
# Each ends with the object on the stack; a link drops the one before after it has taken it.
DEEP = {
    "states": OBJECT + b"q\x01" + (b"0" + OBJECT + b"h\x01bq\x01") * 10_000,
    "arguments": OBJECT + b"q\x01" + (b"0" + named("a.B") + b"h\x01\x85Rq\x01") * 10_000,
    "members": OBJECT + b"q\x01" + (b"0" + OBJECT + b"h\x01aq\x01") * 10_000,
    "attributes": OBJECT + b"q\x01" + (b"0" + OBJECT + text("k") + b"h\x01sq\x01") * 10_000,
    "modules": MODULE + b"ubq\x01" + (b"0" + MODULE + text("m") + b"h\x01subq\x01") * 10_000,
    "itself": OBJECT + b"q\x01}" + text("me") + b"h\x01sb",
    "itself in its arguments": b"]q\x01" + named("a.B") + b"h\x01\x85Ra",
    "settings in themselves": named("omegaconf.dictconfig.DictConfig") + b")\x81q\x01}"
    + text("_content") + b"h\x01sb",
}  # fmt: skip


@pytest.mark.parametrize("key", ["side", "model", "args"])
@pytest.mark.parametrize("kind", DEEP)
def test_long_chains_and_circles(tmp_path, kind, key):
    path = program(tmp_path / "a.pt", text(key) + DEEP[kind] + b"s")
    begun = time.process_time()
    try:
        assert list(load_checkpoint(path).tensors) == ["w"]
    except SharpError as error:
        assert "more objects than any checkpoint" in error.message
    assert time.process_time() - begun < 5


def test_a_module_of_very_many_names(tmp_path):
    made = OBJECT + b"}(" + text("_parameters") + b"}" + text("p") + b"h\x00s"
    made += text("_modules") + b"}ubq\x01"
    for _ in range(60):  # each has the one before twice: 2 ** 60 names
        twice = b"}(" + text("a") + b"h\x01" + text("b") + b"h\x01u"
        made += b"0" + OBJECT + b"}(" + text("_parameters") + b"}" + text("_modules") + twice
        made += b"ubq\x01"
    path = program(tmp_path / "a.pt", text("model") + made + b"s")
    begun = time.process_time()
    assert list(load_checkpoint(path).tensors) == ["w"]
    assert time.process_time() - begun < 3


def test_a_state_that_very_many_objects_share(tmp_path):
    large = b"}(" + b"".join(text(f"{i}") + b"N" for i in range(20_000)) + b"uq\x01"
    many = large + b"0](" + (OBJECT + b"h\x01b") * 20_000 + b"e"
    path = program(tmp_path / "a.pt", text("side") + many + b"s")
    begun = time.process_time()
    with pytest.raises(SharpError, match="more objects than any checkpoint"):
        load_checkpoint(path)
    assert time.process_time() - begun < 3
    config = named("omegaconf.dictconfig.DictConfig") + b")\x81}" + text("_content") + b"h\x01sb"
    many = large + b"0](" + config * 20_000 + b"e"
    path = program(tmp_path / "a.pt", text("side") + many + b"s")
    begun = time.process_time()
    assert list(load_checkpoint(path).tensors) == ["w"]
    assert time.process_time() - begun < 3


def test_bytes_that_very_many_arrays_share(tmp_path):
    array = np.ones(100_000)
    shared = {f"{i}": array for i in range(3)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(shared, 3))
    found = load_checkpoint(tmp_path / "a.pkl").tensors
    assert len(found) == 3
    assert len({tensor.data_ptr() for tensor in found.values()}) == 1
    again = b"\x80\x03}" + text("d") + b"B" + struct.pack("<I", array.nbytes) + array.tobytes()
    again += b"q\x01s" + text("t") + named("numpy.dtype") + text("f8") + b"\x85Rq\x02s"
    again += b"".join(
        text(f"{i}")
        + named("numpy.core.multiarray._reconstruct") + named("numpy.ndarray")
        + b"K\x00\x85C\x01b\x87R(K\x01J" + struct.pack("<i", 100_000) + b"\x85h\x02\x89h\x01tbs"
        for i in range(1000)
    )  # fmt: skip
    (tmp_path / "a.pkl").write_bytes(again + b".")
    with pytest.raises(SharpError, match="NumPy arrays together are larger than the file"):
        load_checkpoint(tmp_path / "a.pkl")


def test_storages_in_bytes_that_are_read_again_and_again(tmp_path):
    buffer = io.BytesIO()
    torch.save(torch.ones(100_000).untyped_storage(), buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    tensor = named("torch.storage._load_from_bytes") + b"h\x01\x85R"
    made = b"\x80\x03}" + text("d") + b"B" + struct.pack("<I", len(whole)) + whole + b"q\x01s"
    made += b"".join(text(f"{i}") + tensor + b"s" for i in range(2000))
    made += text("w") + pickle.dumps(torch.ones(2), 3)[2:-1] + b"s."
    (tmp_path / "a.pkl").write_bytes(made)
    begun = time.process_time()
    assert load_checkpoint(tmp_path / "a.pkl").tensors["w"].tolist() == [1, 1]
    assert time.process_time() - begun < 3


def test_a_mapping_that_thousands_of_keys_share_is_looked_at_once(tmp_path):
    shared = {f"key {index}": {} for index in range(3000)}
    torch.save({f"name {index}": shared for index in range(3000)}, tmp_path / "a.pt")
    started = time.process_time()
    with pytest.raises(SharpError):
        load_checkpoint(tmp_path / "a.pt")
    assert time.process_time() - started < 2
