"""Measures along a training: right, kept through a resume, and without an effect on it."""

import pytest
import torch
from torch import nn

from sharpcli.errors import UsageError
from sharpcli.runs.tracking import Tracker
from sharpcli.tasks import Task, defaults
from sharpcli.training import TrainSettings
from sharpcli.training import loop as module
from sharpcli.training.loop import train
from sharpcli.training.state import StateFile

COUNT = 200


def task(loss=None):
    inputs = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
    return Task(
        name="small",
        options={},
        fingerprint="",
        model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)),
        data=lambda split: (inputs, (inputs.sum(1) > 0).long()),
        predict=defaults.predict,
        loss=loss or defaults.loss_for("small"),
        metrics=defaults.metrics,
    )


def tracked(settings, of=None, watchers=(), state=None):
    """A training that was measured on the way, and what measured it."""
    tracker = Tracker(settings)
    trained = train(of or task(), settings, watchers=[*watchers, tracker], state=state)
    return trained, tracker


def of(tracker, key="hessian"):
    return [each.measures[key]["eigenvalues"][0] for each in tracker.steps]


def hessian_at(steps, settings):
    """λ1 of the dense Hessian where a training of so many steps ends, in float64."""
    model = task().model().double()
    model.load_state_dict(train(task(), TrainSettings(**settings, steps=steps)).tensors)
    names = [name for name, _ in model.named_parameters()]
    shapes = [each.shape for each in model.parameters()]
    theta = torch.cat([each.detach().reshape(-1) for each in model.parameters()])
    inputs, targets = task().data("train")

    def loss(vector):
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        own = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        scores = torch.func.functional_call(model, own, inputs.double())
        return nn.functional.cross_entropy(scores, targets)

    return torch.autograd.functional.hessian(loss, theta)


def test_the_largest_eigenvalue_is_that_of_the_dense_hessian():
    settings = {"optimizer": "sgd", "lr": 0.5, "batch_size": 20}
    _, tracker = tracked(TrainSettings(**settings, steps=20, track=("hessian",), every=10))
    assert [each.step for each in tracker.steps] == [0, 10, 20]
    for step, found in zip((10, 20), of(tracker)[1:], strict=True):
        true = float(torch.linalg.eigvalsh(hessian_at(step, settings))[-1])
        assert found.status == "converged"
        assert found.error <= 0.05 * found.value
        assert abs(found.value - true) <= found.error + 1e-3 * true
    assert tracker.steps[1].threshold.value == pytest.approx(4)


def test_the_preconditioned_eigenvalue_is_that_of_the_dense_matrix():
    settings = {"optimizer": "adam", "lr": 0.01, "batch_size": 20}
    kept = {}

    class Keeper:
        name = "keeper"

        def wants(self, steps, *, epoch_ended, ended):
            return ended

        def look(self, moment):
            own = dict(moment.model.named_parameters())
            parts = [moment.optimizer.state[each]["exp_avg_sq"] for each in own.values()]
            kept["squares"] = torch.cat([each.reshape(-1) for each in parts]).double()

        def state(self):
            return None

        def restore(self, state):
            pass

    asked = TrainSettings(**settings, steps=20, track=("preconditioned-hessian",), every=20)
    _, tracker = tracked(asked, watchers=[Keeper()])
    assert tracker.steps[0].measures == {}  # no step, no preconditioner
    found = tracker.steps[1].measures["preconditioned_hessian"]["eigenvalues"][0]
    root = (kept["squares"] / (1 - 0.999**20)).sqrt() + 1e-8
    scale = ((1 - 0.9**20) * root).rsqrt()
    true = float(torch.linalg.eigvalsh(scale[:, None] * hessian_at(20, settings) * scale)[-1])
    assert abs(found.value - true) <= found.error + 1e-2 * true
    assert tracker.steps[1].threshold.value == pytest.approx(3800)


def test_what_is_tracked_under_another_name_and_what_cannot_be():
    settings = TrainSettings("adam", steps=2, track=("preconditioned-sharpness", "fisher-rao"))
    assert settings.track == ("preconditioned-hessian", "fisher-rao")
    last = tracked(settings)[1].steps[-1]
    assert last.failures is None
    assert last.measures["preconditioned_hessian"]["eigenvalues"][0].value > 0
    assert last.measures["fisher_rao"]["norm"].value > 0
    with pytest.raises(UsageError, match="from before the training") as raised:
        TrainSettings(track=("distance-from-initialisation",))
    assert "what can be tracked: loss, " in raised.value.hint
    assert "distance" not in raised.value.hint
    with pytest.raises(UsageError, match="sgd has no preconditioner"):
        TrainSettings("sgd", track=("preconditioned-sharpness",))


def test_tracking_does_not_change_the_training():
    settings = {"lr": 0.5, "steps": 12, "ema": 0.9}
    names = ("loss", "gradient", "hessian", "trace")
    plain = train(task(), TrainSettings(**settings))
    trained, tracker = tracked(TrainSettings(**settings, track=names, every=5))
    for name, tensor in plain.tensors.items():
        assert torch.equal(tensor, trained.tensors[name])
    assert [each.step for each in tracker.steps] == [0, 5, 10, 12]
    keys = {"loss", "accuracy", "gradient", "hessian", "trace"}
    assert keys <= set(tracker.steps[0].measures)
    # The weights that are measured are averages, which no step starts from.
    assert tracker.steps[0].threshold is None


def test_a_resumed_training_keeps_what_was_tracked(tmp_path, monkeypatch):
    settings = TrainSettings(
        "adam", steps=20, track=("hessian", "preconditioned-hessian", "gradient"), every=5
    )
    _, whole = tracked(settings)
    step = module.Run.step

    def killed(run):
        if run.steps == 12:
            run.file.write(run._state())
            raise KeyboardInterrupt
        step(run)

    output = tmp_path / "model.safetensors"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module.Run, "step", killed)
        tracked(settings, state=StateFile(output))
    _, resumed = tracked(settings, state=StateFile(output))
    assert whole.state() == resumed.state()
    assert len(resumed.steps) == 5


def test_a_failure_is_noted_and_the_training_goes_on():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, gradient):
            return gradient

    def loss(outputs, batch):
        return nn.functional.cross_entropy(Once.apply(outputs), batch[1], reduction="none")

    settings = TrainSettings(steps=4, track=("trace", "gradient"), every=2)
    trained, tracker = tracked(settings, task(loss))
    assert trained.steps == 4
    for each in tracker.steps:
        assert "gradient" in each.measures
        assert "trace" in (each.failures or each.measures)


def test_the_sample_is_the_same_at_all_steps_and_follows_the_seed():
    settings = {"lr": 1e-9, "steps": 4, "track": ("hessian",), "every": 2, "track_samples": 70}
    _, first = tracked(TrainSettings(**settings))
    assert (first.tracked().examples, first.tracked().examples_in_all) == (70, COUNT)
    values = [each.value for each in of(first)]
    assert max(values) - min(values) <= 1e-4 * values[0]
    _, other = tracked(TrainSettings(**settings, seed=1))
    assert abs(of(other)[0].value / values[0] - 1) > 1e-3
