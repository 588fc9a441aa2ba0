"""Deciding an order on looks at growing samples: the error is spent once, verdicts follow."""

import itertools
import math

import numpy as np
import pytest

from sharpcli.documents.decision import Decider, level_of, looks_to
from sharpcli.documents.pairing import Measured

KEY = "hessian.eigenvalues[0]"
SHARDS, TOTAL = 16, 10_000


def number(value, shards=None, error=0.0, **others):
    """A λ1 as in a document."""
    found = {"value": value, "error": error, "error_kind": "residual", "status": "converged"}
    if shards is not None:
        mean = sum(shards) / len(shards)
        variance = sum((each - mean) ** 2 for each in shards) / (len(shards) - 1)
        found |= {"shards": shards, "sampling_error": math.sqrt(variance / len(shards))}
    return found | others


def on(count, label, scalar, total=TOTAL):
    part = count < total
    return Measured(
        label,
        {KEY: scalar},
        count if part else None,
        total if part else None,
        "s" if part else None,
    )


def exact(*values):
    """Checkpoints measured on all data."""
    return {i: on(TOTAL, str(i), number(value)) for i, value in enumerate(values)}


def decider(count, **options):
    return Decider(KEY, count, larger_is_sharper=options.pop("larger_is_sharper", True), **options)


def test_the_levels_of_all_looks_and_pairs_spend_the_error_once():
    for looks, pairs in itertools.product((1, 2, 7), (1, 3)):
        spent = [1 - level_of(look, looks, pairs) for look in range(1, looks + 1)]
        assert pairs * sum(spent) == pytest.approx(0.05)
        assert spent == sorted(spent)


@pytest.mark.parametrize(
    ("first", "total", "looks"), [(256, 256, 1), (256, 100, 1), (256, 257, 2), (256, 10_000, 7)]
)
def test_the_number_of_looks_is_that_of_doublings(first, total, looks):
    assert looks_to(first, total) == looks


def test_exact_numbers_are_ordered_and_equal_ones_are_not():
    found = decider(3)
    level, pairs = found.look(exact(2.0, 3.0, 1.0), 1, 1)
    assert level == pytest.approx(1 - 0.05 / 3)
    assert [each.verdict for each in pairs] == ["flatter", "sharper", "sharper"]
    assert found.order == [1, 0, 2]
    equal = decider(2)
    equal.look(exact(2.0, 2.0 * (1 + 1e-9)), 1, 1)
    assert equal.open == [(0, 1)]
    assert equal.order is None


def test_residuals_that_overlap_leave_an_order_open():
    found = decider(2)
    numbers = {i: on(TOTAL, str(i), number(v, error=0.06)) for i, v in enumerate((1.0, 1.1))}
    (pair,) = found.look(numbers, 1, 1)[1]
    assert pair.verdict == "undecided"
    assert pair.ratio.interval == pytest.approx((0.94 / 1.16, 1.06 / 1.04), rel=1e-5)


def test_what_is_flatter_when_larger_is_ordered_by_sharpness():
    found = decider(2, larger_is_sharper=False)
    (pair,) = found.look(exact(1.0, 2.0), 1, 1)[1]
    assert (pair.verdict, found.order) == ("sharper", [0, 1])
    found = decider(2, larger_is_sharper=None)
    (pair,) = found.look(exact(1.0, 2.0), 1, 1)[1]
    assert (pair.verdict, found.order) == ("lower", [1, 0])


def test_a_baseline_is_compared_with_each_other_one_only():
    found = decider(3, baseline=1)
    found.look(exact(2.0, 3.0, 1.0), 1, 1)
    assert [(each.a, each.b, each.verdict) for each in found.pairs] == [
        ("0", "1", "flatter"),
        ("2", "1", "flatter"),
    ]
    assert (found.open, found.order) == ([], None)
    gone = decider(3, baseline=1)
    gone.leave_out({1})
    assert gone.chosen == []


def wide(value, *, phase, spread=0.3):
    """A number whose shards differ by a pattern that is orthogonal for another phase."""
    shards = [value * (1 + spread * math.cos(2 * math.pi * phase * i / 16)) for i in range(16)]
    return number(value, shards)


def test_a_checkpoint_is_needed_until_its_pairs_are_decided_and_verdicts_follow():
    found = decider(3)
    values = {0: wide(1.0, phase=1), 1: wide(10.0, phase=2), 2: wide(1.05, phase=3)}
    found.look({i: on(256, str(i), each) for i, each in values.items()}, 1, 3)
    assert found.open == [(0, 2)]
    assert found.needed == {0, 2}
    found.look({i: on(512, str(i), values[i]) for i in (0, 2)}, 2, 3)
    assert found.open == [(0, 2)]
    found.look({i: on(TOTAL, str(i), number(values[i]["value"])) for i in (0, 2)}, 3, 3)
    assert found.order == [1, 2, 0]
    assert [each.verdict for each in found.pairs] == ["flatter", "flatter", "sharper"]


def test_an_open_pair_whose_order_follows_from_others_is_decided():
    found = decider(3)
    shards = [4.0 + 6 * (-1) ** i for i in range(16)]
    numbers = {
        0: number(4.0, shards, sampling_status="unreliable"),
        1: wide(3.0, phase=2, spread=1e-3),
        2: wide(2.0, phase=3, spread=1e-3),
    }
    found.look({i: on(256, str(i), each) for i, each in numbers.items()}, 1, 2)
    assert found.open == [(0, 1), (0, 2)]
    numbers[0] = wide(4.0, phase=1, spread=1e-3)
    found.look(
        {
            0: on(512, "0", numbers[0]),
            1: on(512, "1", numbers[1]),
            2: on(512, "2", number(2.0, shards, sampling_status="unreliable")),
        },
        2,
        2,
    )
    assert found.open == []
    assert found.order == [0, 1, 2]
    assert [each.verdict for each in found.pairs] == ["sharper"] * 3


def test_a_checkpoint_that_fails_is_left_out():
    found = decider(3)
    found.leave_out({1})
    found.look({i: each for i, each in exact(1.0, 2.0, 3.0).items() if i != 1}, 1, 1)
    assert (found.chosen, found.order) == ([(0, 2)], [2, 0])


def grown(ratio, seed, *, shared=0.5):
    """Decide on nested samples of 4,096 values a checkpoint; the end's verdict and its examples."""
    generator = np.random.RandomState(seed)
    total, first = 4096, 256
    common, *own = generator.exponential(size=(3, total))
    both = [shared * common + (1 - shared) * each for each in own]
    both[0] *= ratio * both[1].mean() / both[0].mean()
    found, looks = decider(2), looks_to(first, total)
    for look in range(1, looks):
        count = first * 2 ** (look - 1)
        shards = [each[:count].reshape(SHARDS, -1).mean(1).tolist() for each in both]
        numbers = [number(sum(each) / SHARDS, each) for each in shards]
        found.look(
            {i: on(count, str(i), each, total) for i, each in enumerate(numbers)}, look, looks
        )
        if not found.open:
            return found.pairs[0].verdict, count
    return "undecided", total


def test_equal_numbers_are_decided_on_samples_in_no_more_than_five_percent():
    early = [grown(1.0, seed) for seed in range(120)]
    wrong = sum(verdict != "undecided" for verdict, _ in early)
    # Two standard errors above 5 % of 120; at 95 % for each look alone it is 20 %.
    assert wrong <= 6 + 2 * math.sqrt(120 * 0.05 * 0.95)


def test_unequal_numbers_are_decided_in_the_right_order_and_early():
    found = [grown(2.0, seed) for seed in range(20)]
    assert {verdict for verdict, _ in found} == {"sharper"}
    assert max(count for _, count in found) <= 512
