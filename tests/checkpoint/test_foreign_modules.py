"""Whole pickled modules are read as their state dicts."""

import pytest
import torch
from foreign_objects import FORMATS, NET, Config, Net, optimizer, same, saved
from torch import nn

from sharpcli.errors import SharpError


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel])
def test_a_whole_module_is_read_as_its_state_dict(tmp_path, options, wrap):
    module = wrap(Net())
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    checkpoint = saved(tmp_path / "a.pt", module, **options)
    same(checkpoint.tensors, module.state_dict())
    assert checkpoint.notes == (f"a whole pickled module ('{name}') read as its state dict",)
    checkpoint = saved(tmp_path / "a.pt", {"epoch": 3, "model": module}, **options)
    same(checkpoint.tensors, module.state_dict())
    assert checkpoint.metadata == {"epoch": 3}
    assert f"'model': a whole pickled module ('{name}') read as its state dict" in checkpoint.notes


def test_a_module_with_a_state_dict_beside_it(tmp_path):
    content = {"ema": NET.state_dict(), "model": Net(), "optimizer": optimizer().state_dict()}
    checkpoint = saved(tmp_path / "a.pt", content)
    same(checkpoint.tensors, content["model"].state_dict())
    content = {"weird": NET.state_dict(), "criterion": nn.CrossEntropyLoss(torch.ones(2))}
    same(saved(tmp_path / "a.pt", content).tensors, content["weird"])
    content = {"weird": Net(), "optimizer": optimizer().state_dict()}
    same(saved(tmp_path / "a.pt", content).tensors, content["weird"].state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm(tmp_path):
    module = nn.utils.weight_norm(nn.Linear(2, 2))
    same(saved(tmp_path / "a.pt", module).tensors, module.state_dict())


@pytest.mark.filterwarnings("ignore:.*quantize", "ignore::DeprecationWarning")
def test_a_module_that_packs_its_weights_is_refused(tmp_path):
    packed = torch.ao.nn.quantized.Linear(2, 2)
    with pytest.raises(SharpError, match=r"holds a whole pickled module .* packs its weights"):
        saved(tmp_path / "a.pt", nn.Sequential(nn.Linear(2, 2), packed))


def test_a_module_in_an_object_of_the_users(tmp_path):
    content = Config(lr=0.5)
    content.model = Net()
    same(saved(tmp_path / "a.pt", content).tensors, content.model.state_dict())
