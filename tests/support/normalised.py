"""Networks that normalise in every way that PyTorch has, as tasks by name."""

import torch
from networks import CASES, images, task, vectors
from torch import nn


def deep():
    """Two layers deep, so that the second's statistics depend on the first's."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6),
        nn.GELU(), nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5), nn.Linear(5, 3),
    )  # fmt: skip


class Residual(nn.Module):
    """A shortcut around a normalised branch, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.norms = nn.ModuleList(nn.BatchNorm1d(6) for _ in range(3))
        self.last = nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = self.first(inputs)
        hidden = hidden + torch.tanh(self.norms[1](hidden))  # not in the order of their names
        return self.last(self.norms[0](hidden))


class Twice(nn.Module):
    """One layer that normalises two different activations of a pass."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(n, 4, 3, padding=1) for n in (1, 4))
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4 * 36, 3)

    def forward(self, inputs):
        hidden = self.norm(self.first(inputs)).relu()
        return self.last(self.norm(self.second(hidden)).relu().flatten(1))


class Functional(nn.Module):
    """Statistics that no layer of its own reads, the second through torch's own function."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6, affine=False)
        self.register_buffer("mu", torch.zeros(3))
        self.register_buffer("sigma", torch.ones(3))

    def forward(self, inputs):
        norm = self.norm
        hidden = nn.functional.batch_norm(
            self.first(inputs), norm.running_mean, norm.running_var, training=self.training,
            momentum=1.0,
        )  # fmt: skip
        return torch.batch_norm(
            self.last(hidden.tanh()),
            None,
            None,
            self.mu,
            self.sigma,
            self.training,
            1.0,
            1e-5,
            False,
        )


class Doubled(nn.BatchNorm2d):
    """A subclass that changes what it is given."""

    def forward(self, inputs):
        return super().forward(2 * inputs + 1)


def instances():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.ReLU(),
        nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


def doubled():
    return nn.Sequential(nn.Conv2d(1, 4, 3), Doubled(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def synchronised():
    return nn.SyncBatchNorm.convert_sync_batchnorm(deep())


def on_the_data():
    """Without weights of its own, so that the layer behind it sees numbers without a gradient."""
    return nn.Sequential(nn.BatchNorm1d(5, affine=False, momentum=None), nn.Linear(5, 3))


NETS = {
    "one": CASES["batch_norm"],
    "twice": task(Twice, images),
    "functional": task(Functional, vectors(5, 3)),
    "subclass": task(doubled, images),
    "instances": task(instances, images),
    "synchronised": task(synchronised, images),
    "on the data": task(on_the_data, vectors(5, 3)),
    "deep": task(deep, images),
    "residual": task(Residual, vectors(5, 3)),
}
