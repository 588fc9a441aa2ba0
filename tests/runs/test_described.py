"""Options in a checkpoint's metadata: taken where they describe the model of its tensors."""

import time

import pytest
import torch
from torch import nn

from sharpcli.checkpoint import Checkpoint
from sharpcli.errors import SharpError
from sharpcli.runs.described import check_described
from sharpcli.tasks import Task, defaults, load_task


def checkpoint(**options):
    given = {name: str(value) for name, value in options.items()}
    model = load_task("digits", given).model()
    return Checkpoint("a.safetensors", dict(model.state_dict()), {}, "")


def check(found, **options):
    given = {name: str(value) for name, value in options.items()}
    check_described(load_task("digits", given), found)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": 8, "depth": 1},
        {"model": "cnn", "width": 4, "depth": 3},
        {"batch_norm": "true", "width": 5},
    ],
)
def test_options_that_made_the_checkpoint_are_taken(options):
    state = torch.get_rng_state()
    found = checkpoint(**options)
    torch.set_rng_state(state)
    check(found, **options)
    check(Checkpoint("a", {f"module.{k}": v for k, v in found.tensors.items()}, {}, ""), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 60_000, "depth": 8}, "of shape (60000, 64), have 3840000 elements: far more"),
        ({"width": 10**30}, f"width is {10**30}, and all tensors together have 8970 elements"),
        ({"depth": 10**8}, "depth is 100000000, and all tensors together have 8970"),
        ({"depth": 60_000}, "far more than the file has"),
        ({"width": 60_000, "depth": 60_000, "model": "cnn"}, "far more than the file has"),
        ({"width": 32}, "'1.weight' is (64, 64) in the file and (32, 64) in the model"),
        ({"batch_norm": "true"}, "does not fit the task's model"),
        ({"width": 0}, "width 0 and depth 2 must be between 1 and"),
    ],
)
def test_options_of_another_model_are_refused_before_it_is_built(options, words):
    found = checkpoint()
    started = time.process_time()
    with pytest.raises(SharpError) as caught:
        check(found, **options)
    assert time.process_time() - started < 2
    assert words in caught.value.message
    assert "its metadata name the task digits with " in caught.value.message
    assert "a.safetensors: " in caught.value.message or "width 0" in words
    assert 'options.name="value"' in caught.value.hint


def test_nothing_stays_behind():
    with pytest.raises(SharpError):
        check(checkpoint(), depth=60_000)
    assert nn.Linear(2, 1000).weight.device.type == "cpu"


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_a_tied_tensor_may_be_stored_once():
    task = Task("tied", {}, "", Tied, lambda _: None, defaults.predict, defaults.loss_for("tied"))
    check_described(task, Checkpoint("a", {"embed.weight": torch.ones(5, 3)}, {}, ""))
