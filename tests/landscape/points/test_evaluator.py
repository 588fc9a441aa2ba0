"""Points of a line, plane or path against plain PyTorch, however many go at once."""

import pytest
import torch
from mixtures import ALPHAS, ends, reference
from networks import CASES, task, vectors
from torch import nn

from sharpcli.landscape.points import evaluator as module
from sharpcli.landscape.points.evaluator import Anchors, BatchNorm, Surface


@pytest.mark.parametrize(
    "name", ["tanh", "relu", "conv", "layer_norm", "attention", "tied", "frozen", "ignored_tokens"]
)
def test_every_point_is_the_mean_loss_of_the_mixed_network(name):
    of = CASES[name]
    _, objectives, frame, anchors, states = ends(of)
    surface = Surface(objectives)
    for start, group in surface.each(anchors, ALPHAS, frame.weights, ()):
        for split, means in group[0].items():
            expected = reference(of, states, ALPHAS[start][0], split)
            assert means["loss"].value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["tanh", "conv", "attention", "tied", "ignored_tokens"])
def test_points_that_go_at_once_are_the_points_one_by_one(name):
    _, objectives, frame, anchors, _ = ends(CASES[name], batch_size=5)
    alone, together = Surface(objectives, together=1), Surface(objectives, together=4)
    single = [v for _, g in alone.each(anchors, ALPHAS, frame.weights, ()) for v in g]
    starts, grouped = zip(*together.each(anchors, ALPHAS, frame.weights, ()), strict=True)
    assert starts == (0, 4, 8, 12, 16, 20, 24)
    several = [values for group in grouped for values in group]
    for one, other in zip(single, several, strict=True):
        for split, means in one.items():
            for key, mean in means.items():
                assert other[split][key].value == pytest.approx(mean.value, rel=1e-12)


def test_finished_groups_are_left_out():
    _, objectives, frame, anchors, _ = ends(CASES["tanh"])
    done = {0, 1, 24}
    found = [start for start, _ in Surface(objectives).each(anchors, ALPHAS, frame.weights, done)]
    assert found == list(range(2, 24))


def test_one_forward_pass_a_split_and_one_wait_for_the_device(monkeypatch):
    _, objectives, frame, anchors, _ = ends(CASES["tanh"])
    waits = []
    plain = torch.Tensor.tolist

    def counted(self):
        if self.numel() > 2:  # two are the anchors' weights, which are on the host
            waits.append(1)
        return plain(self)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    Surface(objectives).at(anchors, frame.weights((0.5,)))
    assert [o.evaluations for o in objectives.values()] == [1, 1]
    assert len(waits) == 1


def normalised(of, mode, **run):
    _, objectives, frame, anchors, states = ends(of, **run)
    return Surface(objectives, BatchNorm(mode, objectives["train"])), frame, anchors, states


def test_interpolated_statistics_never_go_below_zero():
    of = CASES["batch_norm"]
    surface, frame, anchors, _ = normalised(of, "interpolate")
    far = frame.weights((50.0,))
    assert (anchors.buffers(far)["1.running_var"] >= 0).all()
    assert (anchors.buffers(far)["1.running_var"] == 0).any(), "the test does not extrapolate"
    found = surface.at(anchors, far)
    assert all(abs(m.value) < float("inf") for means in found.values() for m in means.values())


def test_integer_buffers_are_copied():
    _, frame, anchors, states = normalised(CASES["batch_norm"], "interpolate")
    key = "1.num_batches_tracked"
    assert states[0][key] != states[1][key]
    for alpha in (0.0, 0.5, 1.0, 2.0):
        assert torch.equal(anchors.buffers(frame.weights((alpha,)))[key], states[0][key])


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("mode", ["recalibrate", "batch"])
def test_statistics_are_taken_anew_at_each_point(mode, alpha):
    of = CASES["batch_norm"]
    surface, frame, anchors, (a, b) = normalised(of, mode)
    found = surface.at(anchors, frame.weights((alpha,)))
    for split in ("train", "test"):
        model = of.model().double().train()
        mixed = {
            k: (1 - alpha) * a[k] + alpha * b[k] if a[k].is_floating_point() else a[k] for k in a
        }
        model.load_state_dict(mixed)
        inputs, targets = of.data(split)
        with torch.no_grad():
            if mode == "recalibrate":
                for layer in model.modules():
                    if isinstance(layer, nn.BatchNorm2d):
                        layer.reset_running_stats()
                        layer.momentum = None
                model(of.data("train")[0].double())
                model.eval()
            expected = nn.functional.cross_entropy(model(inputs.double()), targets)
        assert found[split]["loss"].value == pytest.approx(float(expected), rel=1e-10)


def test_the_statistics_of_one_point_are_found_once(monkeypatch):
    surface, frame, anchors, _ = normalised(CASES["batch_norm"], "recalibrate")
    calls = []
    plain = module.batch_statistics
    monkeypatch.setattr(
        module, "batch_statistics", lambda *a, **k: calls.append(1) or plain(*a, **k)
    )
    surface.at(anchors, frame.weights((0.5,)))
    assert len(calls) == 1


def test_directions_move_no_buffers():
    *_, anchors, _ = ends(CASES["batch_norm"])
    mixed = Anchors(anchors.theta, [anchors.fixed[0], None])
    found = mixed.buffers(torch.tensor([1.0, 0.7], dtype=torch.float64))
    assert all(torch.equal(found[k], v) for k, v in anchors.fixed[0].items())


def test_a_cpu_takes_points_one_by_one():
    of = task(lambda: nn.Linear(5, 3), vectors(5, 3))
    _, objectives, frame, anchors, _ = ends(of)
    points = [(i / 100,) for i in range(101)]
    assert Surface(objectives).choose_together(anchors, points, frame.weights) == 1
