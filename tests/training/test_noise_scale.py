"""The noise scale, and schedules rewritten at the same noise scale, against figures by hand."""

from __future__ import annotations

import itertools
from bisect import bisect_right

import pytest

from sharpcli.training.noise_scale import (
    Plan,
    as_batch_size,
    as_linear_scaling,
    as_momentum,
    batch_size_at,
    default_max_batch,
    lr_at,
    noise_scale,
)
from sharpcli.training.schedules import parse_schedule

N = 50_000


def plan(spec, steps, batch=128, momentum=0.0):
    schedule = parse_schedule(spec)
    return Plan([schedule.at(t) for t in range(steps)], [batch] * steps, momentum)


def by_hand(plan, examples=N):
    """The published formulas once more."""
    return [
        lr * examples / (batch * (1 - plan.momentum))
        if plan.momentum
        else lr * (examples / batch - 1)
        for lr, batch in zip(plan.lr, plan.batch_size, strict=True)
    ]


def deviations(old, new):
    """How far each update's noise scale is from that of the old plan after the same examples."""
    ends = [*itertools.accumulate(old.batch_size)]
    before = [0, *itertools.accumulate(new.batch_size)]
    wanted = by_hand(old)
    found = []
    for scale, seen in zip(by_hand(new), before, strict=False):
        asked = wanted[bisect_right(ends, seen)]
        found.append(abs(scale - asked) / asked if asked else scale)
    return found


def test_the_formulas():
    assert noise_scale(0.1, 128, N) == pytest.approx(0.1 * (50_000 / 128 - 1))
    assert noise_scale(0.1, 128, N, 0.9) == pytest.approx(0.1 * 50_000 / (128 * 0.1))
    assert noise_scale(0.1, N, N) == 0
    for momentum in (0.0, 0.9):
        own = plan("EXP(0.1, 0.9)", 5, momentum=momentum)
        assert own.noise_scales(N) == pytest.approx(by_hand(own))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_batch_size_and_rate_are_inverse_to_the_noise_scale(momentum):
    scale = noise_scale(0.1, 300, N, momentum)
    assert batch_size_at(scale, 0.1, N, momentum) == pytest.approx(300)
    assert lr_at(scale, 300, N, momentum) == pytest.approx(0.1)


def test_steps_of_a_rate_become_steps_of_the_batch():
    """128 → N/(1+g/η): 634.1 and 3015.4 by hand; ⌈38400/634⌉ and ⌈(38400 − 274)/3015⌉ updates."""
    old = plan("STEP(0.1, gamma=0.2, l=300)", 900)
    new = as_batch_size(old, N, 5000)
    runs = [(size, len([*same])) for size, same in itertools.groupby(new.batch_size)]
    assert runs == [(128, 300), (634, 61), (3015, 13)]
    assert {*new.lr} == {0.1}
    assert max(deviations(old, new)) < 0.01


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    "spec",
    [
        "cosine(0.1, steps=1000, warmup=100)",
        "EXP(0.1, gamma=0.995)",
        "TRI2(k0=0.001, k1=0.1, l=100)",
        "wsd(0.1, steps=1000, decay=300, warmup=50)",
        "0.1:400, 0.01:300, 0.001",
    ],
)
@pytest.mark.parametrize("batch", [3, 128, 1000])
def test_the_noise_scale_stays_within_a_percent_at_every_update(spec, momentum, batch):
    old = plan(spec, 1000, batch, momentum)
    new = as_batch_size(old, N, default_max_batch(old, N))
    assert max(deviations(old, new)) <= 0.01
    assert len(new.lr) < 1000
    assert max(new.batch_size) <= N // 10
    assert sum(new.batch_size) - sum(old.batch_size) < new.batch_size[-1]


def test_a_warm_up_is_left_as_it_is():
    old = plan("cosine(0.1, steps=1000, warmup=100)", 1000)
    new = as_batch_size(old, N, 5000)
    assert [*new.lr[:101]] == [*old.lr[:101]]
    assert {*new.batch_size[:101]} == {128}


def test_at_the_largest_batch_the_rate_takes_over():
    old = plan("0.1:100, 0.0001", 2000)
    new = as_batch_size(old, N, 5000)
    assert new.batch_size[-1] == 5000
    assert new.lr[-1] == pytest.approx(0.0001 * (N / 128 - 1) / (N / 5000 - 1))


def test_a_rate_of_zero_ends_with_the_largest_batch_and_no_rate():
    new = as_batch_size(plan("0.1:10, 0", 50), N, 5000)
    assert (new.lr[-1], new.batch_size[-1]) == (0, 5000)


def test_linear_scaling_keeps_the_noise_scale():
    old = plan("STEP(0.1, gamma=0.2, l=300)", 900)
    new = as_linear_scaling(old, 512, N)
    assert len(new.lr) == 225  # 900 · 128/512
    assert new.lr[0] == pytest.approx(0.1 * (N / 128 - 1) / (N / 512 - 1))
    assert max(deviations(old, new)) < 1e-12
    assert as_linear_scaling(old, 512, None).lr[0] == pytest.approx(0.4)


def test_a_larger_momentum_is_a_larger_batch():
    old = plan("STEP(0.1, gamma=0.2, l=300)", 900, momentum=0.9)
    new = as_momentum(old, 0.98, N, 5000)
    assert {*new.batch_size} == {640}  # 128 · (1 − 0.9)/(1 − 0.98)
    assert (len(new.lr), new.momentum, new.lr[0]) == (180, 0.98, 0.1)
    assert max(deviations(old, new)) < 1e-12


def test_momentum_for_a_rate_without_one_and_beyond_the_largest_batch():
    old = plan("warmup(0.1, steps=10)", 900)
    new = as_momentum(old, 0.99, N, 5000)
    assert {*new.batch_size} == {5000}
    assert new.lr[0] == 0
    assert by_hand(new)[-1] == pytest.approx(by_hand(old)[-1])
