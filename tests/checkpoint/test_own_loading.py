"""A model's own `load_state_dict` makes its weights, as it does in torch."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from self_loading import (
    DATA,
    KINDS,
    Attending,
    Derived,
    Halved,
    Normed,
    Parametrized,
    Versioned,
    loss,
    match,
    old,
    task,
    trained,
)
from torch import nn

from sharpcli import MeasureSettings, RunSettings, measure_checkpoints, measure_model
from sharpcli.checkpoint import load_checkpoint, match_tensors, read_checkpoint
from sharpcli.checkpoint.state_dict import StateDict
from sharpcli.errors import SharpError


def without_versions(state):
    return dict(state)


def live_loss(kind, state):
    """The loss of the model after torch's own loading, in float64."""
    model = kind().double()
    model.load_state_dict(state)
    model = model.double().eval()
    with torch.no_grad():
        return float(loss(model(DATA.tensors[0].double()), DATA.tensors).mean())


def measured(path, kind, **run):
    report = measure_checkpoints(
        [path],
        task(kind),
        run=RunSettings(dtype="float64", **run),
        settings=MeasureSettings(measures=("loss",)),
    )
    (result,) = report.results
    return result


@pytest.mark.parametrize("form", [dict.copy, old, without_versions])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_model_that_torch_loads(tmp_path, kind, form):
    state = trained(kind).state_dict()
    state = copy.deepcopy(state) if form is dict.copy else form(state)
    torch.save({"model": state}, tmp_path / "a.pt")
    result = measured(tmp_path / "a.pt", kind)
    assert result.measures["loss"]["train"].value == pytest.approx(live_loss(kind, state), abs=1e-6)


def test_versions_change_what_is_measured(tmp_path):
    state = trained(Versioned).state_dict()
    new, older = live_loss(Versioned, state), live_loss(Versioned, old(state))
    assert abs(new - older) > 0.01


def test_a_note_says_who_loaded_and_what_changed(tmp_path):
    state = trained(Versioned).state_dict()
    torch.save(state, tmp_path / "new.pt")
    torch.save(old(state), tmp_path / "old.pt")
    save_file(state, tmp_path / "none.safetensors")
    said = "loaded by the model's own code ('Versioned._load_from_state_dict'): "
    absent = "the file has no versions of modules"
    notes = "\n".join(match(tmp_path / "new.pt", Versioned()).notes)
    assert f"{said}no value is changed" in notes and absent not in notes
    notes = "\n".join(match(tmp_path / "old.pt", Versioned()).notes)
    assert f"{said}it changes the values of 'scale'" in notes
    found = match(tmp_path / "none.safetensors", Versioned())
    assert absent in "\n".join(found.notes)
    assert torch.equal(found.tensors["scale"], state["scale"] / 2)


@pytest.mark.parametrize("kind", [Normed, Attending, Parametrized])
def test_classes_of_torch_load_without_a_copy(tmp_path, kind):
    torch.save(trained(kind).state_dict(), tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    found = match_tensors(checkpoint, kind().state_dict(), model=kind())
    assert found.notes == ()
    assert all(found.tensors[name] is checkpoint.tensors[name] for name in found.tensors)


def test_the_task_s_model_is_not_touched(tmp_path):
    torch.save(old(trained(Derived).state_dict()), tmp_path / "a.pt")
    model = Derived()
    before = copy.deepcopy(model.state_dict())
    found = match(tmp_path / "a.pt", model)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert not model.inverse.any() and found.tensors["inverse"].all()
    assert "'inverse' not in the file: made by the model's own code" in "\n".join(found.notes)


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda state: state, None),
        (lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}, None),
        (lambda state: {"raw": state, "ema": state}, "ema"),
    ],
)
def test_versions_follow_names(tmp_path, wrap, key):
    holder = nn.ModuleDict({"inner": nn.Sequential(Versioned(), nn.ReLU())})
    state = old(holder.state_dict())
    torch.save(wrap(state), tmp_path / "a.pt")
    stored = read_checkpoint(tmp_path / "a.pt", key).tensors
    if isinstance(wrap(state), type(state)) or key:
        assert stored.versions["inner.0"] == {"version": 1}
    found = match_tensors(read_checkpoint(tmp_path / "a.pt", key), state, model=holder)
    assert torch.equal(found.tensors["inner.0.scale"], state["inner.0.scale"] / 2)


def test_versions_below_a_prefix(tmp_path):
    holder = nn.ModuleDict({"module": nn.ModuleDict({"net": Versioned()})})
    torch.save(holder.state_dict(), tmp_path / "a.pt")  # of version 2, which changes nothing
    model = Versioned()
    for key in (None, "module.net"):
        found = match_tensors(
            read_checkpoint(tmp_path / "a.pt", key), model.state_dict(), model=model
        )
        assert torch.equal(found.tensors["scale"], holder.state_dict()["module.net.scale"])


def test_only_plain_values_are_kept(tmp_path):
    state = trained(Versioned).state_dict()
    state._metadata["first"] = {"version": 1, "path": Path("a"), "norm": {"u.version": 1}}
    torch.save(state, tmp_path / "a.pt")
    versions = load_checkpoint(tmp_path / "a.pt").tensors.versions
    assert versions["first"] == {"version": 1, "norm": {"u.version": 1}}


def test_mappings_that_hold_themselves_end():
    table = {"version": 1}
    table["again"] = table
    state = StateDict()
    state.restore({"_metadata": {"": table, 3: {}, "odd": 4}})
    assert list(state.versions) == [""] and state.versions[""]["version"] == 1


class Failing(Versioned):
    def __init__(self):
        super().__init__()
        self.register_load_state_dict_post_hook(self.fill)

    @staticmethod
    def fill(module, _):
        raise KeyError("table")


def test_a_hook_that_fails_is_named(tmp_path):
    torch.save(trained(Failing).state_dict(), tmp_path / "a.pt")
    with pytest.raises(SharpError) as caught:
        match(tmp_path / "a.pt", Failing())
    assert "own load_state_dict fails on it (KeyError: 'table') in Failing.fill, line" in str(
        caught.value
    )
    assert "mend the model's load hook" in caught.value.hint


class Forgetting(Versioned):
    """Takes away a tensor that it needs."""

    def _load_from_state_dict(self, state, prefix, *rest):
        state.pop(prefix + "scale")
        nn.Module._load_from_state_dict(self, state, prefix, *rest)


def test_a_tensor_that_the_model_s_own_code_drops(tmp_path):
    torch.save(trained(Forgetting).state_dict(), tmp_path / "a.pt")
    with pytest.raises(SharpError, match=r"'scale' .* is missing.*before which the names fit"):
        match(tmp_path / "a.pt", Forgetting())


class Captured(Derived):
    def __init__(self):
        Versioned.__init__(self)
        self.register_buffer("inverse", torch.zeros(5), persistent=False)
        self.register_load_state_dict_post_hook(lambda _module, _: self.fill(self, _))


class Partial(Captured):
    def __init__(self):
        Versioned.__init__(self)
        self.register_buffer("inverse", torch.zeros(5), persistent=False)
        self.register_load_state_dict_post_hook(functools.partial(fill_other, self))


class OneParameter(Captured):
    def __init__(self):
        Versioned.__init__(self)
        self.register_buffer("inverse", torch.zeros(5), persistent=False)
        scale = self.scale
        self.register_load_state_dict_post_hook(lambda module, _: module.inverse.copy_(scale))


def test_a_hook_that_holds_a_parameter(tmp_path):
    torch.save(trained(OneParameter).state_dict(), tmp_path / "a.pt")
    with pytest.raises(SharpError, match="holds a parameter in a closure"):
        match(tmp_path / "a.pt", OneParameter())


def fill_other(held, module, _=None):
    held.inverse = module.scale.detach()


class InList(Captured):
    def __init__(self):
        Versioned.__init__(self)
        self.register_buffer("inverse", torch.zeros(5), persistent=False)
        holder = {"of": [self]}
        self.register_load_state_dict_post_hook(lambda *_: fill_other(holder["of"][0], *_))


class InDefault(Captured):
    def __init__(self):
        Versioned.__init__(self)
        self.register_buffer("inverse", torch.zeros(5), persistent=False)
        self.register_load_state_dict_post_hook(
            lambda module, _, held=self: fill_other(held, module)
        )


@pytest.mark.parametrize("kind", [Captured, Partial, InList, InDefault])
def test_a_hook_that_holds_another_model(tmp_path, kind):
    torch.save(trained(kind).state_dict(), tmp_path / "a.pt")
    with pytest.raises(SharpError, match="holds a module in a closure") as caught:
        match(tmp_path / "a.pt", kind())
    assert "use the module that the hook is handed" in caught.value.hint


class Cached(Versioned):
    """Its forward pass uses a copy that was made when it was loaded."""

    def __init__(self):
        super().__init__()
        self.kept = torch.zeros(5)
        self.register_load_state_dict_post_hook(self.fill)

    @staticmethod
    def fill(module, _):
        module.kept = module.scale.detach().clone()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x) * self.kept))


def test_a_copy_of_a_parameter_is_refused_and_says_what_to_do(tmp_path):
    torch.save(trained(Cached).state_dict(), tmp_path / "a.pt")
    result = measured(tmp_path / "a.pt", Cached)
    assert "reaches 'scale' in a way that does not follow" in result.error.message
    assert "register_buffer(name, tensor, persistent=False)" in result.error.hint


def test_a_part_of_a_model_that_loads_itself(tmp_path):
    state = old(trained(Versioned).state_dict())
    part = type(state)((name, each) for name, each in state.items() if name != "last.bias")
    part._metadata = state._metadata
    torch.save(part, tmp_path / "a.pt")
    model = Versioned()
    found = match(tmp_path / "a.pt", model, rest=model.state_dict())
    assert torch.equal(found.tensors["scale"], state["scale"] / 2)
    assert torch.equal(found.tensors["last.bias"], model.last.bias)
    assert "last.bias" not in found.covered


def test_a_model_in_memory_has_nothing_to_load():
    model = trained(Halved)
    with torch.no_grad():
        expected = float(loss(model.eval()(DATA.tensors[0]), DATA.tensors).mean())
    report = measure_model(model, DATA, loss=loss, measures="loss")
    assert report.results[0].measures["loss"]["train"].value == pytest.approx(expected, rel=1e-5)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mix", torch.eye(4).to_sparse())
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.sparse.mm(self.mix, x.T).T)


def test_a_sparse_buffer():
    model = Sparse()
    with torch.no_grad():
        expected = float(loss(model(DATA.tensors[0]), DATA.tensors).mean())
    report = measure_model(model, DATA, loss=loss, measures="loss")
    assert report.results[0].measures["loss"]["train"].value == pytest.approx(expected, rel=1e-5)


def test_a_sparse_buffer_in_a_file(tmp_path):
    torch.save(Sparse().state_dict(), tmp_path / "a.pt")
    with pytest.raises(SharpError, match="'mix' is sparse") as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert "persistent=False" in caught.value.hint


class Silent(Versioned):
    """Loads by a method of its own that returns nothing, and is strict always."""

    def load_state_dict(self, state):
        nn.Module.load_state_dict(self, {**state, "scale": state["scale"] * 3})


class InPlace(Versioned):
    def _load_from_state_dict(self, state, prefix, *rest):
        state[prefix + "scale"].mul_(3)
        nn.Module._load_from_state_dict(self, state, prefix, *rest)


@pytest.mark.parametrize(("kind", "factor"), [(Silent, 3 / 2), (InPlace, 3)])  # no versions
@pytest.mark.parametrize("prefix", ["", "module."])
def test_loading_that_says_nothing_or_changes_its_input(tmp_path, kind, factor, prefix):
    state = trained(kind).state_dict()
    torch.save({prefix + name: each for name, each in state.items()}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    found = match_tensors(checkpoint, state, model=kind())
    torch.testing.assert_close(found.tensors["scale"], state["scale"] * factor)
    assert torch.equal(checkpoint.tensors[f"{prefix}scale"], state["scale"])


def test_a_missing_tensor_of_a_model_that_says_nothing(tmp_path):
    state = trained(Silent).state_dict()
    del state["first.bias"]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(SharpError, match=r"'first.bias' .* is missing"):
        match(tmp_path / "a.pt", Silent())
