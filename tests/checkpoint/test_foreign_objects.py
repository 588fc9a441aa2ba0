"""Files with objects of any class: tensors and plain values are read beside them."""

import argparse
import copyreg
import pickle
import types
from pathlib import PosixPath

import numpy as np
import pytest
import torch
from foreign_objects import (
    FORMATS,
    NET,
    Config,
    OwnTensor,
    Table,
    kinds,
    saved,
)
from pickle_text import program, text
from torch import nn

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_tensors_beside_objects_of_any_class(tmp_path, options):
    path = tmp_path / "a.pt"
    for key, (value, name) in kinds().items():
        checkpoint = saved(path, {"model": NET.state_dict(), "epoch": 3, key: value}, **options)
        assert list(checkpoint.tensors) == ["weight", "bias"], key
        assert torch.equal(checkpoint.tensors["weight"], NET.weight), key
        assert checkpoint.metadata["epoch"] == 3, key
        aside = [note for note in checkpoint.notes if note.startswith("classes left aside")]
        assert aside == ([] if name is None else [f"classes left aside: {key} ({name})"])


def test_several_are_listed_and_counted(tmp_path):
    foreign = {key: value for key, (value, name) in kinds().items() if name}
    content = {"model": NET.state_dict(), "extra": [foreign], "out": PosixPath("a")}
    note = saved(tmp_path / "a.pt", content).notes[-1]
    assert note.startswith("classes left aside: out (pathlib.PosixPath), extra.0.rng (numpy.nda")
    assert note.endswith(f" and {len(foreign) - 4} more")


def test_inspect_shows_what_was_left_aside(tmp_path):
    from click.testing import CliRunner

    from sharpcli.cli.main import sharp

    content = {"model": NET.state_dict(), "rng": np.ones(2), "out": PosixPath("a")}
    torch.save(content, tmp_path / "a.pt")
    shown = CliRunner().invoke(sharp, ["inspect", str(tmp_path / "a.pt")], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "classes left aside: rng (numpy.ndarray), out (pathlib.PosixPath)" in shown.output


@pytest.mark.parametrize("kind", [argparse.Namespace, types.SimpleNamespace, Config, Table, dict])
def test_plain_values_of_settings_become_metadata(tmp_path, kind):
    settings = kind(lr=0.25, name="run")
    checkpoint = saved(tmp_path / "a.pt", {"model": NET.state_dict(), "args": settings})
    assert checkpoint.metadata == {"lr": 0.25, "name": "run"}


def test_hyperparameters_with_objects_in_them(tmp_path):
    settings = {
        "lr": 0.5,
        "loss": nn.CrossEntropyLoss(),
        "act": nn.functional.relu,
        "kind": Config,
        "betas": [0.9, 0.99],
        "inner": argparse.Namespace(path=PosixPath("x")),
    }
    content = {"state_dict": NET.state_dict(), "hyper_parameters": settings}
    checkpoint = saved(tmp_path / "a.ckpt", content)
    assert checkpoint.metadata == {"lr": 0.5, "betas": "0.9,0.99", "inner.path": "x"}
    assert checkpoint.notes[-1] == (
        "classes left aside: hyper_parameters.loss (torch.nn.modules.loss.CrossEntropyLoss), "
        "hyper_parameters.act (torch.nn.functional.relu), hyper_parameters.kind (foreign_objects"
        ".Config), hyper_parameters.inner.path (pathlib.PosixPath)"
    )


def test_a_tensor_subclass_is_read_as_a_plain_tensor(tmp_path):
    own = torch.arange(3.0).as_subclass(OwnTensor)
    own.note = "an attribute"
    checkpoint = saved(tmp_path / "a.pt", {"w": own})
    assert type(checkpoint.tensors["w"]) is torch.Tensor
    assert checkpoint.tensors["w"].tolist() == [0, 1, 2]
    assert checkpoint.notes == ("classes left aside: w (foreign_objects.OwnTensor)",)


def test_extension_codes_are_names(tmp_path):
    copyreg.add_extension(Config.__module__, "Config", 99)
    try:
        code = pickle.dumps(Config(), 2)
        assert b"\x82\x63" in code
        path = program(tmp_path / "a.pt", text("conf") + code[2:-1] + b"s")
        assert list(load_checkpoint(path).tensors) == ["w"]
    finally:
        copyreg.remove_extension(Config.__module__, "Config", 99)


def test_an_object_of_no_class_is_a_damaged_pickle(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02(o.")
    with pytest.raises(SharpError, match="it makes an object of no class"):
        load_checkpoint(path)
