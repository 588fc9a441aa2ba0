"""Models whose own code makes their weights when they are loaded, and a task for them."""

import copy

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from sharpcli import Task
from sharpcli.checkpoint import match_tensors, read_checkpoint


class Versioned(nn.Module):
    """Its first version stored twice the scale."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return self.last(torch.tanh(self.first(x) * self.scale))

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        version = metadata.get("version")
        if version is None or version < 2:
            state[prefix + "scale"] = state[prefix + "scale"] / 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Derived(Versioned):
    """Computes a buffer that it does not save."""

    def __init__(self):
        super().__init__()
        self.register_buffer("inverse", torch.zeros(5), persistent=False)
        self.register_load_state_dict_post_hook(self.fill)

    @staticmethod
    def fill(module, _):
        module.inverse = 1 / (1 + module.scale.detach().abs())

    def forward(self, x):
        return self.last(torch.tanh(self.first(x) * self.scale) * self.inverse)


class Flagged(Versioned):
    """Computes otherwise with the weights of its first version."""

    gain = 3.0

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        self.gain = 1.0 if metadata.get("version") == 2 else 0.5
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    def forward(self, x):
        return super().forward(x) * self.gain


class Halved(Versioned):
    """Saves half of what it holds."""

    def __init__(self):
        super().__init__()
        self._register_state_dict_hook(self.half)

    @staticmethod
    def half(_module, state, prefix, _metadata):
        state[prefix + "scale"] = state[prefix + "scale"] / 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        state[prefix + "scale"] = state[prefix + "scale"] * 2
        nn.Module._load_from_state_dict(self, state, prefix, metadata, *rest)


class Tied(Versioned):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale, self.last = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.second(self.first(x)) * self.scale))


class Created(nn.Module):
    """Makes its first layer when it is loaded."""

    def __init__(self):
        super().__init__()
        self.first, self.last = None, nn.Linear(5, 3)

    def _load_from_state_dict(self, state, prefix, *rest):
        out, into = state[prefix + "first.weight"].shape
        self.first = nn.Linear(into, out)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x))) if self.first else self.last(x.new_zeros(1, 5))


class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        x = x[:, None]
        return self.last(self.attention(x, x, x)[0][:, 0])


class Parametrized(nn.Module):
    def __init__(self):
        super().__init__()
        norms = nn.utils.parametrizations
        self.first = norms.weight_norm(nn.Linear(4, 5))
        self.last = norms.spectral_norm(nn.Linear(5, 3))

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


class OldSpectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.utils.spectral_norm(nn.Linear(4, 5)), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


KINDS = (
    *(Versioned, Derived, Flagged, Halved, Tied, Created, Normed, Attending, Parametrized),
    OldSpectral,
)
DATA = TensorDataset(
    torch.randn(40, 4, generator=torch.Generator().manual_seed(3)),
    torch.arange(40) % 3,
)


def loss(outputs, batch):
    return functional.cross_entropy(outputs, batch[1], reduction="none")


def task(kind):
    return Task(
        name=kind.__name__,
        options={},
        fingerprint=kind.__name__,
        model=kind,
        data=lambda split: DATA if split == "train" else None,
        predict=lambda model, batch: model(batch[0]),
        loss=loss,
        metrics=None,
    )


def trained(kind):
    torch.manual_seed(1)
    model = kind()
    if kind is Created:
        model.first = nn.Linear(4, 5)
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model(DATA.tensors[0])
    return model


def old(state):
    """The state dict as the first version of its classes wrote it."""
    state = copy.deepcopy(state)
    for metadata in state._metadata.values():
        metadata["version"] = 1
    return state


def match(path, model, **how):
    return match_tensors(read_checkpoint(path), model.state_dict(), model=model, **how)
