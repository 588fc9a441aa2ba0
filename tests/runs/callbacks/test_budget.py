"""The time that measuring may take, by a clock of one's own."""

import pytest

from sharpcli.errors import UsageError
from sharpcli.runs.callbacks.budget import Budget


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_share_is_one_of_the_time_without_measuring():
    clock = Clock()
    budget = Budget(0.1, clock=clock)
    clock.now = 100.0
    assert budget.planned == pytest.approx(0.09)
    assert budget.allows(9)
    assert not budget.allows(9.1)
    with budget.spending():
        clock.now += 10  # longer than was planned
    assert budget.training == 100
    assert not budget.allows(0.1)
    clock.now += 100
    assert budget.allows(8)
    assert not budget.allows(8.1)


def test_setting_up_counts_by_what_is_done_of_the_training():
    clock = Clock()
    budget = Budget(1 / 9, clock=clock)
    with budget.spending():
        clock.now += 4
    budget.setup = 4.0
    clock.now += 20
    assert budget.allows(0.9, done=0.25)
    assert not budget.allows(1.1, done=0.25)
    assert not budget.allows(0)
    clock.now += 60
    assert budget.allows(3.9)
    assert not budget.allows(4.1)


def test_seconds_are_for_all_measurements_together():
    clock = Clock()
    budget = Budget(None, seconds=3, clock=clock)
    assert budget.allows(3)
    with budget.spending():
        clock.now += 2
    assert budget.allows(1)
    assert not budget.allows(1.1)


def test_a_block_that_fails_has_taken_its_time():
    clock = Clock()
    budget = Budget(1.0, clock=clock)
    with pytest.raises(ValueError, match="no"), budget.spending():
        clock.now += 4
        raise ValueError("no")
    assert budget.spent == 4


@pytest.mark.parametrize("given", [{"share": 0.0}, {"share": 0.1, "seconds": -1.0}])
def test_limits_are_above_zero(given):
    with pytest.raises(UsageError, match="out of range"):
        Budget(**given)


def test_setting_up_ahead_counts_by_what_is_done_too():
    clock = Clock()
    budget = Budget(1 / 9, clock=clock)
    clock.now = 20.0
    assert budget.allows(0.9, done=0.25, setup=4)
    assert not budget.allows(1.1, done=0.25, setup=4)
    assert not budget.allows(0, setup=2.1)
