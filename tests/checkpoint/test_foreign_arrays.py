"""NumPy's arrays, and pickles that torch.save did not write."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_objects import Net, same

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError

DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1", "c8", ">f4", ">i8", ">c16")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_numpy_arrays(tmp_path, protocol):
    arrays = {kind: (np.arange(6) % 5).reshape(2, 3).astype(kind) for kind in DTYPES}
    arrays |= {"columns": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), "no": np.ones(())}
    arrays |= {"empty": np.ones((0, 3)), "strided": np.arange(9.0)[::2]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "lr": 0.5}, protocol))
    checkpoint = load_checkpoint(tmp_path / "a.pkl")
    assert list(checkpoint.tensors) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(checkpoint.tensors[name].numpy(), array), name
        assert checkpoint.tensors[name].numpy().dtype == array.dtype.newbyteorder("="), name
    assert checkpoint.metadata == {"lr": 0.5}
    assert f"{len(arrays)} NumPy arrays read as tensors" in checkpoint.notes
    torch.save(arrays, tmp_path / "a.pt")
    assert list(load_checkpoint(tmp_path / "a.pt").tensors) == list(arrays)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_tensors_without_torch_save(tmp_path, protocol):
    state = {**Net().state_dict(), "half": torch.ones(3).half(), "row": torch.eye(3)[1]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": state, "out": Path()}, protocol))
    checkpoint = load_checkpoint(tmp_path / "a.pkl")
    same(checkpoint.tensors, state)
    assert "classes left aside: out (pathlib.PosixPath)" in checkpoint.notes
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Net().state_dict(), protocol)[:-30])
    with pytest.raises(SharpError, match="its pickle cannot be read"):
        load_checkpoint(tmp_path / "a.pkl")


@pytest.mark.parametrize("protocol", [4, 5])
def test_arrays_whose_shape_does_not_fit(tmp_path, protocol):
    whole = pickle.dumps({"w": np.arange(6.0).reshape(2, 3), "v": np.ones(2)}, protocol)
    assert whole.count(b"K\x02K\x03\x86") == 1
    (tmp_path / "a.pkl").write_bytes(whole.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))
    with pytest.raises(SharpError, match=r"tensor 'w' is a NumPy array whose shape \(2, 4\)"):
        load_checkpoint(tmp_path / "a.pkl")
