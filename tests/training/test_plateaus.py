"""Schedules that look at the loss: against torch's, and against steps by hand."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler

from sharpcli.errors import UsageError
from sharpcli.tasks import load_task
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train
from sharpcli.training.order import Order
from sharpcli.training.plateaus import ChangeLROnPlateau, ReduceLROnPlateau
from sharpcli.training.schedules import parse_schedule

RATES = [parse_schedule(text) for text in ("1", "0.1", "0.01")]


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 3},
        {"factor": 0.1, "patience": 0, "cooldown": 4, "threshold": 0.05},
        {"factor": 0.5, "patience": 2, "min_lr": 0.02},
    ],
)
def test_reduction_is_torchs(options):
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    torchs = lr_scheduler.ReduceLROnPlateau(optimizer, eps=0, **options)
    ours = ReduceLROnPlateau(parse_schedule("0.1"), **options)
    chance = random.Random(0)
    for step in range(200):
        loss = 1 / (1 + step // 7) + 0.05 * chance.random()
        assert ours.at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        torchs.step(loss)
        ours.observe(loss, step)
    assert ours.state.reductions > 1


def test_a_reduced_schedule_keeps_its_shape():
    ours = ReduceLROnPlateau(parse_schedule("EXP(1, 0.5)"), factor=0.1, patience=0)
    ours.observe(1.0)
    ours.observe(1.0)
    assert [ours.at(step) for step in (0, 1)] == pytest.approx([0.1, 0.05])


def observed(losses, **options):
    """The schedule that is chosen after each loss, one a step."""
    ours = ChangeLROnPlateau(RATES, steps=100, start=1, window=3, threshold=0.05, **options)
    chosen = []
    for step, loss in losses:
        ours.observe(loss, step)
        chosen.append(ours.state.chosen)
    return chosen


def test_a_plateau_raises_the_rate_early_and_lowers_it_late():
    assert observed([(step, 1.0) for step in range(4)], cooldown=0) == [1, 1, 1, 0]
    assert observed([(80 + step, 1.0) for step in range(4)], cooldown=0) == [1, 1, 1, 2]


def test_a_loss_that_falls_is_no_plateau():
    assert observed([(step, 1.0 - 0.06 * step) for step in range(10)]) == [1] * 10


def test_nothing_is_chosen_during_a_cool_down_and_beyond_the_ends():
    assert observed([(80 + i, 1.0) for i in range(8)], cooldown=2) == [1, 1, 1, 2, 2, 2, 2, 2]
    late_then = [(step, 1.0) for step in (80, 81, 82, 83, 10, 11, 12)]
    assert observed(late_then, cooldown=2) == [1, 1, 1, 2, 2, 2, 1]


@pytest.mark.parametrize("kind", ["reduce", "change"])
def test_a_state_that_is_set_again_goes_on_as_before(kind):
    def make():
        if kind == "reduce":
            return ReduceLROnPlateau(RATES[0], patience=2)
        return ChangeLROnPlateau(RATES, steps=40, start=1, window=3, cooldown=1)

    ours, losses = make(), [1 / (1 + step // 5) for step in range(40)]
    again = make()
    for step, loss in enumerate(losses):
        if step == 20:
            again.state = copy.deepcopy(ours.state)
        ours.observe(loss, step)
        if step >= 20:
            again.observe(loss, step)
            assert (again.at(step), again.state) == (ours.at(step), ours.state)


def test_what_cannot_work_is_refused():
    with pytest.raises(UsageError, match="factor=2 does not reduce"):
        ReduceLROnPlateau(RATES[0], factor=2)
    with pytest.raises(UsageError, match="start=3 is none of the 3 schedules"):
        ChangeLROnPlateau(RATES, steps=10, start=3)
    with pytest.raises(UsageError, match="window=1 shows no plateau"):
        ChangeLROnPlateau(RATES, steps=10, window=1)


def test_a_training_takes_the_steps_of_torchs_loop():
    """On digits: the same losses and rates as PyTorch's optimizer and its ReduceLROnPlateau."""
    options = {"factor": 0.5, "patience": 0, "threshold": 0.3, "cooldown": 1}
    written = ", ".join(f"{name}={value}" for name, value in options.items())
    settings = TrainSettings(
        "sgd", batch_size=128, epochs=8, momentum=0.9, schedule=f"plateau(0.1, {written})"
    )
    task = load_task("digits", {})
    curves = train(task, settings).curves

    torch.manual_seed(settings.seed)
    model = task.model()
    images, classes = task.data("train")
    order = Order(len(images), settings.seed)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    torchs = lr_scheduler.ReduceLROnPlateau(optimizer, eps=0, **options)
    losses, rates = [], []
    for _ in range(settings.epochs):
        total = 0.0
        while not order.ended or not total:
            chosen = order.take(128)
            loss = nn.functional.cross_entropy(model(images[chosen]), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            total += loss.item() * len(chosen)
        torchs.step(total / len(images))
    assert len({*rates}) > 2
    assert curves.lr == pytest.approx(rates, rel=1e-12)
    assert curves.loss == pytest.approx(losses, rel=1e-5)


def test_a_part_counts_from_its_own_start_and_looks_at_its_own_epochs():
    schedule = parse_schedule("0.5:10, plateau(EXP(1, 0.5), factor=0.1, patience=0):10, 0.25")
    assert schedule.observes
    for steps in (5, 10, 15, 20, 25):  # only after steps 15 and 20 it is in force
        schedule.observe(1.0, steps)
    assert [schedule.at(step) for step in (9, 10, 11, 20)] == pytest.approx([0.5, 0.1, 0.05, 0.25])
    again = parse_schedule(schedule.spec)
    again.restore(schedule.state())
    assert again.at(11) == schedule.at(11)
    assert parse_schedule(schedule.spec).at(11) == 0.5


def test_changes_count_the_steps_of_their_part():
    schedule = parse_schedule("1:100, ChangeLROnPlateau([1, 0.1, 0.01], 10, window=2, start=1)")
    for steps in (103, 106, 109):  # nine of ten steps: the next smaller one
        schedule.observe(1.0, steps)
    assert schedule.at(109) == 0.01


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("plateau()", "lacks schedule"),
        ("plateau(0.1, patience=1.5)", "patience is a whole number of epochs"),
        ("plateau(plateau(0.1))", "ReduceLROnPlateau has no place inside of ReduceLROnPlateau"),
        ("plateau(FIX(0.1):5)", "a length has no place inside"),
        ("plateau(FIX(k1=2))", "FIX has no parameter 'k1'"),
        ("plateau(-1)", "-1 is negative"),
        ("ChangeLROnPlateau([0.1], 100)", "schedules is a list of rates or policies"),
        ("ChangeLROnPlateau([0.1, 0.01])", "lacks steps"),
        ("ChangeLROnPlateau([0.1, 0.01], 100, start=2)", "start=2 is none of the 2 schedules"),
        ("plato(0.1)", "there is no policy 'plato'"),
    ],
)
def test_a_mistake_is_said(spec, message):
    with pytest.raises(UsageError) as e:
        parse_schedule(spec)
    assert message in e.value.message
    assert spec in e.value.message


def test_a_batch_size_looks_at_no_losses():
    with pytest.raises(UsageError, match=r"batch_schedule.*looks at the loss"):
        TrainSettings(batch_schedule="plateau(32)")
