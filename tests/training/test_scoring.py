"""The objective of a search, taken between the steps of a training."""

import math

import plain_loops as plain
import pytest

from sharpcli.tasks import load_task
from sharpcli.training import TrainSettings
from sharpcli.training.held_out import with_validation
from sharpcli.training.loop import train
from sharpcli.training.outcome import DivergedError
from sharpcli.training.scoring import ObjectiveError, Scorer

TASK = """
import torch
def model(): return torch.nn.Linear(3, 2)
def data(split):
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    return None if split == "test" else (x, (x[:, 0] > 0).long())
"""


@pytest.fixture
def task(tmp_path):
    (tmp_path / "task.py").write_text(TASK, "utf-8")
    return load_task(tmp_path / "task.py", {})


def scored(task, settings, objective="loss", split="train", every=None):
    points = []
    scorer = Scorer(task, objective, split, every, lambda at, value: points.append((at, value)))
    trained = train(task, settings, watchers=(scorer,))
    return points, scorer, trained


def test_the_training_loss_at_the_end_is_that_of_the_training(task):
    points, scorer, trained = scored(task, TrainSettings(epochs=3, batch_size=8))
    assert [at for at, _ in points] == [1, 2, 3]
    assert scorer.value == points[-1][1] == trained.train_loss


def test_every_so_many_steps_and_at_the_end(task):
    points, _, _ = scored(task, TrainSettings(steps=7, batch_size=8), every=3)
    assert [at for at, _ in points] == [3, 6, 7]


def test_the_validation_part_is_not_trained_on(task):
    parted = with_validation(task, 0.5, 0)
    points, _, trained = scored(parted, TrainSettings(epochs=2), "accuracy", "validation")
    inputs, classes = parted.data("validation")
    outputs = inputs @ trained.tensors["weight"].T + trained.tensors["bias"]
    right = (outputs.argmax(1) == classes).double().mean().item()
    assert points[-1] == (2, pytest.approx(right))
    assert trained.steps == 2  # of 10 examples in batches of 32


def test_what_a_task_lacks_ends_every_trial(task):
    with pytest.raises(ObjectiveError, match="has no metric 'f1'") as e:
        scored(task, TrainSettings(epochs=1), "f1")
    assert e.value.hint == "its objectives: loss, accuracy"
    with pytest.raises(ObjectiveError, match="has no test data"):
        scored(task, TrainSettings(epochs=1), "loss", "test")


def test_an_objective_that_is_not_finite_is_a_divergence():
    settings = TrainSettings("sgd", lr=1e30, epochs=2, batch_size=24)
    with pytest.raises(DivergedError, match="loss on train data is inf at step 1"):
        scored(plain.task(), settings)


def test_it_reports_again_what_it_saw_before(task):
    points, scorer, _ = scored(task, TrainSettings(epochs=2))
    seen = []
    again = Scorer(task, "loss", "train", None, lambda at, value: seen.append((at, value)))
    again.restore(scorer.state())
    assert seen == points == again.state()
    assert math.isnan(again.value)
