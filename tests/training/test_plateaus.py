"""Schedules that look at the loss: against torch's, and against steps by hand."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from sharpcli.errors import UsageError
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
