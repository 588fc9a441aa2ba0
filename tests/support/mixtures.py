"""Two networks, and the mean loss of their mixtures by plain PyTorch."""

import copy

import torch
from networks import CPU
from sharpcli.settings.measuring import RunSettings

from sharpcli.landscape.frame import line
from sharpcli.landscape.points.evaluator import Anchors
from sharpcli.runs.study import prepare

ALPHAS = [(-1 + i / 8,) for i in range(25)]


def ends(of, seed=1, **run):
    """A study, its objectives, and two points of its parameter space with their buffers."""
    study = prepare(of, RunSettings(device="cpu", dtype="float64", split="both", **run), CPU)
    first = of.model().double().state_dict()
    generator = torch.Generator().manual_seed(seed)
    second = {
        name: t + 0.5 * torch.randn(t.shape, generator=generator, dtype=t.dtype)
        if t.is_floating_point()
        else t + 5
        for name, t in first.items()
    }
    for name in second:
        if name.endswith("running_var"):
            second[name] = second[name].abs() + 0.1
    model = of.model().double()
    model.load_state_dict(second)
    second = model.state_dict()  # in which tied tensors are one
    network = study.network
    frame = line(network.flatten(first), network.flatten(second))
    anchors = Anchors(frame.anchors, [network.fixed(first), network.fixed(second)])
    return study, study.objectives(first), frame, anchors, (first, second)


def reference(of, states, alpha, split):
    """The loss at (1−α)A + αB by a fresh model in float64."""
    model = copy.deepcopy(of.model()).double().eval()
    a, b = states
    mixed = {k: (1 - alpha) * a[k] + alpha * b[k] if a[k].is_floating_point() else a[k] for k in a}
    model.load_state_dict(mixed)
    data = of.data(split)
    double = tuple(t.double() if t.is_floating_point() else t for t in data)
    with torch.no_grad():
        found = of.loss(of.predict(model, double), double)
    return float(found[0].sum() / found[1].sum() if isinstance(found, tuple) else found.mean())
