"""What a model's own loading sets beside tensors belongs to the checkpoint it was loaded of."""

import copy

import pytest
import torch
from self_loading import DATA, Created, Versioned, loss, match, old, task, trained
from torch import nn

from sharpcli import MeasureSettings, RunSettings, interpolate_checkpoints, measure_checkpoints
from sharpcli.checkpoint.module_attributes import attributes, changed
from sharpcli.checkpoint.placing import give
from sharpcli.errors import SharpError, UsageError


class Loading(Versioned):
    """Of its first version it makes another network, by `self.older()`."""

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            self.older()
        nn.Module._load_from_state_dict(self, state, prefix, metadata, *rest)

    def forward(self, x):
        return super().forward(x) * self.gain()

    def gain(self):
        return 1.0


class Settings:
    def __init__(self, gain):
        self.gain = gain


class InObject(Loading):
    def __init__(self):
        super().__init__()
        self.settings = Settings(3.0)

    def older(self):
        self.settings.gain = 0.5

    def gain(self):
        return self.settings.gain


class Deep(Loading):
    def __init__(self):
        super().__init__()
        self.settings = {"a": {"b": {"c": {"gain": 3.0}}}}

    def older(self):
        self.settings["a"]["b"]["c"]["gain"] = 0.5

    def gain(self):
        return self.settings["a"]["b"]["c"]["gain"]


class InSet(Loading):
    def __init__(self):
        super().__init__()
        self.flags = set()

    def older(self):
        self.flags.add("half")

    def gain(self):
        return 0.5 if "half" in self.flags else 1.0


class InClosure(Loading):
    def __init__(self):
        super().__init__()
        self.by = lambda: 2.0

    def older(self):
        gain = 0.5
        self.by = lambda: gain

    def gain(self):
        return self.by()


class Freezing(Loading):
    def older(self):
        self.first.requires_grad_(False)


class Hooked(Loading):
    def older(self):
        self.first.register_forward_hook(lambda _module, _inputs, outputs: outputs / 2)


class Number(Versioned):
    """Keeps a number of a buffer that it loads, of which its first version stored the double."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.register_buffer("stored", torch.tensor(3.0))

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            state[prefix + "stored"] = state[prefix + "stored"] / 2
        self.factor = float(state[prefix + "stored"])
        nn.Module._load_from_state_dict(self, state, prefix, metadata, *rest)

    def forward(self, x):
        return super().forward(x) * self.factor


class Added(Versioned):
    """Its files hold what is added to the weights of model()."""

    def __init__(self):
        super().__init__()
        nn.init.constant_(self.scale, 0.7)

    def _load_from_state_dict(self, state, prefix, *rest):
        state[prefix + "scale"] = state[prefix + "scale"] + self.scale.detach()
        nn.Module._load_from_state_dict(self, state, prefix, *rest)


class State(Versioned):
    """Keeps a tensor of its state outside parameters and buffers."""

    factor = 3.0

    def get_extra_state(self):
        return torch.tensor(self.factor)

    def set_extra_state(self, state):
        self.factor = float(state)

    def _load_from_state_dict(self, *rest):
        nn.Module._load_from_state_dict(self, *rest)

    def forward(self, x):
        return super().forward(x) * self.factor


class OnlyState(nn.Module):
    """Has no code of its own for loading but that of its extra state."""

    factor = 3.0
    get_extra_state, set_extra_state = State.get_extra_state, State.set_extra_state

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(x) * self.factor


def reference(kind, path):
    """The loss and λ1 of the model that torch loads, by loops over autograd in float64."""
    model = kind().double()
    model.load_state_dict(torch.load(path))
    model = model.double().eval()
    parameters = [each for each in model.parameters() if each.requires_grad]
    value = loss(model(DATA.tensors[0].double()), DATA.tensors).mean()
    slope = torch.autograd.grad(value, parameters, create_graph=True)
    rows = [
        torch.cat(
            [
                each.flatten()
                for each in torch.autograd.grad(
                    entry, parameters, retain_graph=True, materialize_grads=True
                )
            ]
        )
        for entry in torch.cat([each.flatten() for each in slope])
    ]
    return float(value.detach()), float(torch.linalg.eigvalsh(torch.stack(rows))[-1])


def saved(kind, folder):
    """Checkpoints of both versions, of the kind's usual form first and last."""
    paths = []
    for number, older in enumerate((False, True, True, False)):
        model = trained(kind)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.2 * number)
        if hasattr(model, "factor"):
            model.factor = 1.0 + number
        state = model.state_dict()
        paths.append(folder / f"{number}.pt")
        torch.save(old(state) if older else copy.deepcopy(state), paths[-1])
    return paths


KINDS = (InObject, Deep, InSet, InClosure, Freezing, Hooked, Number, Added, State, OnlyState)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_two_versions_in_one_run(tmp_path, kind):
    paths = saved(kind, tmp_path)
    report = measure_checkpoints(
        paths,
        task(kind),
        run=RunSettings(dtype="float64"),
        settings=MeasureSettings(measures=("loss", "hessian")),
    )
    for path, result in zip(paths, report.results, strict=True):
        value, largest = reference(kind, path)
        assert result.measures["loss"]["train"].value == pytest.approx(value, abs=1e-7)
        found = result.measures["hessian"]["eigenvalues"][0].value
        assert found == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_starts_from_what_torch_loads(tmp_path, kind):
    for path in saved(kind, tmp_path)[:2]:
        model, theirs = kind(), kind()
        give(model, match(path, model))
        theirs.load_state_dict(torch.load(path))
        inputs = DATA.tensors[0]
        assert torch.equal(model(inputs), theirs(inputs))
        now, then = (dict(each.named_parameters()) for each in (model, theirs))
        assert [each.requires_grad for each in now.values()] == [
            each.requires_grad for each in then.values()
        ]


@pytest.mark.parametrize("order", [1, -1])
def test_a_line_between_two_networks_is_refused(tmp_path, order):
    paths = saved(InSet, tmp_path)[:2][::order]
    with pytest.raises(UsageError, match=r"different networks: .* sets 'flags' otherwise"):
        interpolate_checkpoints(paths, task(InSet))


def test_a_note_names_what_was_set(tmp_path):
    new, older, *_ = saved(InObject, tmp_path)
    said = "the model's own code also set"
    assert said not in "\n".join(match(new, InObject()).notes)
    assert f"{said} 'settings' when it was loaded" in "\n".join(match(older, InObject()).notes)


def test_a_layer_that_loading_makes(tmp_path):
    state = trained(Created).state_dict()
    torch.save(state, tmp_path / "a.pt")
    notes = "\n".join(match(tmp_path / "a.pt", Created()).notes)
    assert "the model's own code also set 'first' when it was loaded" in notes
    torch.save({"first.weight": state["first.weight"]}, tmp_path / "b.pt")
    model = Created()
    with pytest.raises(
        SharpError, match=r"'first.bias' of the model is neither in the file nor in"
    ):
        match(tmp_path / "b.pt", model, rest=model.state_dict())


class Lock:
    """What it holds is not to be seen."""

    def __reduce_ex__(self, protocol):
        raise TypeError("no copies")

    def __deepcopy__(self, _):
        other = type(self)()
        vars(other).update(vars(self))
        return other


class Opaque(InObject):
    def __init__(self):
        super().__init__()
        self.settings = Lock()
        self.settings.gain = 3.0


def test_a_network_that_was_refused_is_not_measured_for_the_next_checkpoint(tmp_path):
    report = measure_checkpoints(
        saved(Opaque, tmp_path)[1:3],
        task(Opaque),
        settings=MeasureSettings(measures=("loss",)),
    )
    for result in report.results:
        assert "the network that would be measured is not the model" in result.error.message


def test_attributes_are_compared_by_what_they_hold():
    model, like = InObject(), InObject()
    for each in (model, like):
        each.loop = [
            each.settings,
            {1, 2},
            b"x" * 1000,
            nn.Linear(1, 1, device="meta").weight.shape,
        ]
        each.loop.append(each.loop)
    assert not changed(attributes(model), attributes(like))
    like.loop[1].add(3)
    assert list(changed(attributes(model), attributes(like))) == ["loop"]
    like.lock = Lock()
    before = attributes(like)
    like.register_forward_hook(lambda *_: None)
    assert list(changed(before, attributes(like))) == ["_forward_hooks"]
    like.lock = Lock()
    assert "lock" in changed(before, attributes(like))


def test_a_large_attribute_ends():
    model = InObject()
    model.many = [[n] for n in range(60_000)]
    assert not changed(attributes(model), attributes(model))
