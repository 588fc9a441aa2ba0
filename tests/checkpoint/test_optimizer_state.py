"""The optimizer's memory in terms of the model's parameters, from every kind of file."""

import pytest
import torch
from networks import mlp
from safetensors.torch import save_file
from torch import nn

from sharpcli.checkpoint import load_checkpoint
from sharpcli.checkpoint.optimizer_state import find_optimizer_state
from sharpcli.errors import SharpError

ADAM = torch.optim.Adam
# A state of PyTorch 2.6 is the same for both, and is taken as Adam's.
_SAYS = "decoupled_weight_decay" in torch.optim.AdamW([torch.zeros(1)]).defaults
ADAMW = "adamw" if _SAYS else "adam"


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3))


def trained(net, groups=None, kind=ADAM, steps=3, **settings):
    """The optimizer after some steps on fixed data."""
    optimizer = kind(groups or net.parameters(), **{"lr": 0.01, **settings})
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, net[0].in_features, generator=generator)
    for _ in range(steps):
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()
    return optimizer


def decay_groups(net):
    """Weights with decay and all else without it, as the trainer of transformers makes them."""
    named = list(net.named_parameters())
    return [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]


def assert_is(found, net, optimizer, slot="exp_avg_sq"):
    parameters = dict(net.named_parameters())
    assert list(found.slots) == list(found.groups)
    assert set(found.slots) == set(parameters)
    for name, parameter in parameters.items():
        assert torch.equal(found.slots[name][slot], optimizer.state[parameter][slot])


def read(path, net, given=None):
    return find_optimizer_state(load_checkpoint(path), dict(net.named_parameters()), given)


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict", "optimizer_states"])
@pytest.mark.parametrize("grouped", [False, True])
def test_in_a_torch_file(tmp_path, key, grouped):
    net = model()
    optimizer = trained(net, decay_groups(net) if grouped else None)
    state = optimizer.state_dict()
    value = [state] if key == "optimizer_states" else state  # Lightning's is a list
    torch.save({"state_dict": net.state_dict(), key: value}, tmp_path / "a.ckpt")
    found = read(tmp_path / "a.ckpt", net)
    assert_is(found, net, optimizer)
    assert found.name == "adam"
    assert found.steps("0.weight") == 3
    assert found.common("lr") == 0.01
    if grouped:
        assert found.groups["3.weight"]["weight_decay"] == 0.1
        assert found.groups["1.weight"]["weight_decay"] == 0.0
        assert found.common("weight_decay") is None


@pytest.mark.parametrize("as_folder", [True, False])
def test_in_a_folder_of_transformers(tmp_path, as_folder):
    net = model()
    optimizer = trained(net, decay_groups(net), torch.optim.AdamW)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    found = read(tmp_path if as_folder else tmp_path / "model.safetensors", net)
    assert_is(found, net, optimizer)
    assert found.name == ADAMW


def test_groups_with_equal_shapes_are_refused_unless_names_are_in_the_file(tmp_path):
    net = mlp(4, 4, 4, 4)
    named = list(net.named_parameters())
    later, earlier = named[2:], named[:2]
    torch.save(net.state_dict(), tmp_path / "model.pt")
    by_number = trained(
        net, [{"params": [p for _, p in later]}, {"params": [earlier[0][1], earlier[1][1]]}]
    )
    torch.save(by_number.state_dict(), tmp_path / "numbers.pt")
    with pytest.raises(SharpError, match="in more than one way") as caught:
        read(tmp_path / "model.pt", net, tmp_path / "numbers.pt")
    assert "named_parameters()" in caught.value.hint
    by_name = trained(net, [{"params": later}, {"params": earlier}])
    torch.save(by_name.state_dict(), tmp_path / "names.pt")
    assert_is(read(tmp_path / "model.pt", net, tmp_path / "names.pt"), net, by_name)


def test_names_of_a_wrapped_model(tmp_path):
    net = model()
    optimizer = trained(net)
    plain = optimizer.state_dict()
    names = [f"module.{name}" for name, _ in net.named_parameters()]
    state = {
        "state": {name: plain["state"][i] for i, name in enumerate(names)},
        "param_groups": [{**plain["param_groups"][0], "params": names[::-1]}],
    }
    torch.save({"model": net.state_dict(), "optimizer": state}, tmp_path / "a.pt")
    assert_is(read(tmp_path / "a.pt", net), net, optimizer)


@pytest.mark.parametrize("numbers", [False, True])
def test_in_a_safetensors_file(tmp_path, numbers):
    net = model()
    optimizer = trained(net)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    tensors = {
        f"state.{i if numbers else name}.{slot}": value
        for i, (name, parameter) in enumerate(net.named_parameters())
        for slot, value in optimizer.state[parameter].items()
    }
    about = {"optimizer": "adam", "lr": "0.01", "betas": "0.9,0.99", "eps": "1e-8"}
    save_file(tensors, tmp_path / "optimizer.safetensors", about)
    found = read(tmp_path / "model.safetensors", net)
    assert_is(found, net, optimizer)
    assert found.name == "adam"
    assert found.common("betas") == (0.9, 0.99)
    assert found.steps("3.bias") == 3


def test_tied_and_frozen_parameters(tmp_path):
    net = mlp(4, 4, 4)
    net[2].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    for parameters in (list(net.parameters()), [p for p in net.parameters() if p.requires_grad]):
        optimizer = trained(net, parameters)
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        found = read(tmp_path / "model.pt", net, tmp_path / "optimizer.pt")
        for name in ("0.weight", "2.bias"):
            expected = optimizer.state[dict(net.named_parameters())[name]]["exp_avg"]
            assert torch.equal(found.slots[name]["exp_avg"], expected)
        assert not found.slots.get("0.bias")


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, "sgd"),
        (torch.optim.SGD, {}, "sgd"),
        (torch.optim.RMSprop, {}, "rmsprop"),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}, "rmsprop"),
        (torch.optim.Adagrad, {}, "adagrad"),
        (torch.optim.Adam, {"amsgrad": True}, "adam"),
        (torch.optim.AdamW, {}, ADAMW),
        (torch.optim.RAdam, {}, None),
        (torch.optim.NAdam, {}, None),
        (torch.optim.Adamax, {}, None),
    ],
)
def test_which_optimizer_it_is(tmp_path, kind, settings, name):
    net = model()
    optimizer = trained(net, kind=kind, **settings)
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt", net).name == name


def test_what_does_not_fit_is_refused(tmp_path):
    net = model()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    with pytest.raises(SharpError, match="has no optimizer state") as caught:
        read(tmp_path / "model.pt", net)
    assert "optimizer_state" in caught.value.hint
    with pytest.raises(SharpError, match="no such file"):
        read(tmp_path / "model.pt", net, tmp_path / "absent.pt")
    with pytest.raises(SharpError, match="holds no optimizer state"):
        read(tmp_path / "model.pt", net, tmp_path / "model.pt")
    torch.save(trained(mlp(5, 3)).state_dict(), tmp_path / "other.pt")
    with pytest.raises(SharpError, match="it has 2 entries, and the model 6 parameters"):
        read(tmp_path / "model.pt", net, tmp_path / "other.pt")
    wide = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))
    torch.save(trained(wide).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(SharpError, match="shapes that do not fit"):
        read(tmp_path / "model.pt", net, tmp_path / "wide.pt")
    flat = trained(net).state_dict()
    for slots in flat["state"].values():
        slots["exp_avg_sq"] = slots["exp_avg_sq"].reshape(-1)
    torch.save(flat, tmp_path / "flat.pt")
    with pytest.raises(SharpError, match="has the shape"):
        read(tmp_path / "model.pt", net, tmp_path / "flat.pt")


def test_a_pickle_that_would_run_code_is_read_without_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    net = model()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    torch.save({**trained(net).state_dict(), "extra": Evil()}, tmp_path / "evil.pt")
    found = read(tmp_path / "model.pt", net, tmp_path / "evil.pt")
    assert set(found.slots) == {name for name, _ in net.named_parameters()}
    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(SharpError, match=r"without its classes: the file \(builtins.exec\)"):
        read(tmp_path / "model.pt", net, tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_pickled_optimizer_is_no_state_dict(tmp_path):
    net = model()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    torch.save({"optimizer": trained(net)}, tmp_path / "optimizer.pt")
    with pytest.raises(SharpError, match="does not say which entry is of which parameter") as it:
        read(tmp_path / "model.pt", net, tmp_path / "optimizer.pt")
    assert "optimizer.state_dict()" in it.value.hint
