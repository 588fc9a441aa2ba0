"""Paired ratios against closed forms and against the scatter over samples."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from sharpcli.documents.scalars import Scalar

from sharpcli.documents.pairing import Measured, pair_of, pairs_of

KEY = "hessian.eigenvalues[0]"


def scalar(value: float, shards: list[float] | None = None, **more: Any) -> dict[str, Any]:
    found = {"value": value, "error": 0.0, "error_kind": "residual", "status": "converged"}
    if shards is not None:
        found |= {"shards": shards, "sampling_error": 0.5}
    return found | more


def test_what_both_share_cancels() -> None:
    shards = [10.0 + index for index in range(16)]
    twice = scalar(35.0, [2 * each for each in shards])
    pair = pair_of(twice, scalar(17.5, shards), KEY, 100, 1000)
    assert pair.ratio.value == pytest.approx(2)
    assert pair.ratio.interval == pytest.approx([2, 2], rel=1e-5)
    assert (pair.verdict, pair.paired) == ("sharper", True)
    assert pair_of(scalar(17.5, shards), twice, KEY, 100, 1000).verdict == "flatter"


def test_the_error_is_that_of_the_differences_by_shard() -> None:
    a, b = [1.0, 2.0, 4.0, 5.0], [2.0, 2.0, 3.0, 3.0]
    pair = pair_of(scalar(3.0, a), scalar(2.5, b), KEY, 100, 400)
    ratio = 3 / 2.5
    offs = [(x - 3) / 3 - (y - 2.5) / 2.5 for x, y in zip(a, b, strict=True)]
    error = math.sqrt(sum(off * off for off in offs) / 3 / 4 * (1 - 100 / 400))
    assert pair.ratio.value == pytest.approx(ratio)
    assert pair.log_error == pytest.approx(error)


def test_the_shifts_cancel_in_part() -> None:
    shards = [9.0, 11.0] * 8
    a, b = scalar(10.0, shards, sampling_shift=1.0), scalar(10.0, shards, sampling_shift=0.7)
    assert pair_of(a, b, KEY, 100, 1000).log_error == pytest.approx(0.03)


@pytest.mark.parametrize("same_rows", [True, False])
def test_intervals_cover_a_ratio_of_means(same_rows: bool) -> None:
    draw = random.Random(3)
    covered = wrong = 0
    for _ in range(400):
        common = [draw.gauss(0, 1) for _ in range(16)]
        sides = []
        for true in (12.0, 10.0):
            own = common if same_rows else [draw.gauss(0, 1) for _ in range(16)]
            shards = [true * (1 + 0.3 * x + 0.1 * draw.gauss(0, 1)) for x in own]
            mean = sum(shards) / 16
            error = math.sqrt(sum((x - mean) ** 2 for x in shards) / 15 / 16)
            sides.append(scalar(mean, shards, sampling_error=error * 2.131 / 1.96))
        pair = pair_of(*sides, KEY, 1, 10**9, same_rows=same_rows)
        low, high = pair.ratio.interval or (-math.inf, math.inf)
        covered += low <= 1.2 <= high
        wrong += pair.verdict == "flatter"
    assert 0.91 <= covered / 400 <= 0.985
    assert wrong <= 0.025 * 400


def test_the_verdict_agrees_with_both_intervals() -> None:
    draw = random.Random(4)
    for _ in range(200):
        a, b = ([value + draw.gauss(0, 1) for _ in range(16)] for value in (10.5, 10.0))
        pair = pair_of(scalar(sum(a) / 16, a), scalar(sum(b) / 16, b), KEY, 10, 10**6)
        assert pair.ratio.interval and pair.difference.interval
        apart = not pair.ratio.interval[0] <= 1 <= pair.ratio.interval[1]
        assert apart == (not pair.difference.interval[0] <= 0 <= pair.difference.interval[1])
        assert apart == (pair.verdict != "undecided")


def test_more_examples_would_decide() -> None:
    shards = [8.0, 12.0] * 8
    a, b = scalar(10.5, shards), scalar(10.0, [20 - x for x in shards])
    pair = pair_of(a, b, KEY, 100, 100_000)
    assert pair.verdict == "undecided" and pair.more_examples

    def verdict(count: int) -> str:
        share = math.sqrt(100 / count)  # a shard of more examples scatters less
        both = [
            scalar(each["value"], [each["value"] + share * (x - 10) for x in each["shards"]])
            for each in (a, b)
        ]
        return pair_of(*both, KEY, count, 100_000).verdict

    enough = 100 + pair.more_examples
    assert (verdict(enough - 5), verdict(enough + 5)) == ("undecided", "sharper")


def test_equal_numbers_are_undecided_and_more_data_do_not_help() -> None:
    shards = [9.0, 11.0] * 8
    pair = pair_of(scalar(10.0, shards), scalar(10.0, shards), KEY, 100, 1000)
    assert (pair.verdict, pair.more_examples) == ("undecided", None)


def test_residuals_and_random_errors_decide_on_all_data() -> None:
    assert pair_of(scalar(11.0, error=0.4), scalar(10.0, error=0.5), KEY).verdict == "sharper"
    assert pair_of(scalar(11.0, error=0.6), scalar(10.0, error=0.5), KEY).verdict == "undecided"
    rough = {"error": 0.4, "error_kind": "standard_error"}
    assert pair_of(scalar(11.0, **rough), scalar(10.0, **rough), "trace").verdict == "undecided"
    assert pair_of(scalar(11.2, **rough), scalar(10.0, **rough), "trace").verdict == "sharper"


def test_two_lower_bounds_have_no_interval_and_a_verdict_beyond_what_a_search_misses() -> None:
    bound = {"error": None, "error_kind": "lower_bound", "status": "lower_bound"}
    near = pair_of(scalar(10.3, **bound), scalar(10.0, **bound), "epsilon_sharpness[1e-3]")
    far = pair_of(scalar(30.0, **bound), scalar(10.0, **bound), "epsilon_sharpness[1e-3]")
    assert near.ratio.interval is None and far.ratio.interval is None
    assert (near.verdict, far.verdict) == ("undecided", "sharper")


@pytest.mark.parametrize(
    "more",
    [
        {"status": "max_products"},
        {"sampling_status": "unreliable"},
        {"value": None, "status": "not_finite"},
        {"error": None, "error_kind": "upper_bound", "status": "upper_bound"},
    ],
)
def test_what_is_not_known_gives_no_verdict(more: dict[str, Any]) -> None:
    pair = pair_of(scalar(30.0, [29.0, 31.0] * 8) | more, scalar(10.0, [9.5, 10.5] * 8), KEY, 9, 99)
    assert pair.verdict == "undecided" and pair.reason


def test_numbers_that_are_no_sharpness_are_higher_or_lower() -> None:
    pair = pair_of(scalar(2.0), scalar(1.0), "loss.train", larger_is_sharper=None)
    assert pair.verdict == "higher"
    assert pair_of(scalar(2.0), scalar(1.0), "m", larger_is_sharper=False).verdict == "flatter"


def test_a_denominator_that_may_be_zero_has_no_ratio_interval() -> None:
    pair = pair_of(scalar(5.0, error=0.1), scalar(0.1, error=0.2), KEY)
    assert pair.ratio.interval is None
    assert pair.difference.interval == pytest.approx([4.6, 5.2])
    assert pair_of(scalar(1.0), scalar(0.0), KEY).ratio.value is None


def test_other_rows_are_independent() -> None:
    shards = [9.0, 11.0] * 8
    one = Measured("a", {KEY: scalar(10.0, shards)}, 100, 1000, "x")
    same, other = replace(one, label="b"), replace(one, label="c", sample="y")
    assert [pair.paired for pair in pairs_of([one, same, other], {})] == [True, False, False]


def test_many_checkpoints_are_compared_with_the_first_or_a_baseline() -> None:
    many = [Measured(str(index), {KEY: scalar(10.0)}) for index in range(8)]
    assert len(pairs_of(many[:6], {})) == 15
    assert {pair.b for pair in pairs_of(many, {})} == {"0"}
    assert {pair.b for pair in pairs_of(many[:3], {}, baseline=1)} == {"1"}


def test_hundreds_of_checkpoints_are_compared_with_a_baseline_only() -> None:
    many = [Measured(str(index), {KEY: scalar(10.0)}) for index in range(200)]
    assert len(pairs_of(many[:50], {})) == 49
    assert not pairs_of(many[:51], {})
    assert len(pairs_of(many, {}, baseline=7)) == 199


def test_shards_are_fields_of_a_scalar() -> None:
    assert Scalar(1.0).shards is None and Scalar(1.0).sampling_shift is None


def test_a_sample_is_compared_with_all_data_by_its_own_error() -> None:
    shards = [9.0, 11.0] * 8
    sample = Measured("sample", {KEY: scalar(10.0, shards)}, 100, 1000, "x")
    smaller = replace(sample, label="smaller", count=50, sample="y")
    full = Measured("full", {KEY: scalar(10.6)})
    pairs = pairs_of([sample, full], {KEY: True}) + pairs_of([full, sample], {KEY: True})
    for pair in pairs:
        assert pair.reason is None and pair.paired is False
        low, high = pair.difference.interval or (0.0, 0.0)
        assert (high - low) / 2 == pytest.approx(1.96 * 0.5, rel=1e-3)
        assert pair.verdict == "undecided" and pair.more_examples
    assert pairs[0].more_examples == pairs[1].more_examples
    far = replace(full, scalars={KEY: scalar(20.0)})
    assert [p.verdict for p in pairs_of([sample, far], {KEY: True})] == ["flatter"]
    needs = [pairs_of(each, {})[0].more_examples for each in ([full, smaller], [smaller, full])]
    assert needs[0] == needs[1] is not None
    unknown = replace(sample, scalars={KEY: scalar(10.0)})
    for each in ([full, unknown], [unknown, full]):
        assert pairs_of(each, {})[0].reason == "the error of one of them is not known"


def test_numbers_of_the_weights_alone_have_no_sampling_error() -> None:
    a, b = ({"value": each, "error": None, "error_kind": None} for each in (2.0, 1.0))
    weights = pair_of(a, b, "path_norm.norm", 100, 1000, exact={"path_norm": False})
    assert (weights.verdict, weights.reason) == ("sharper", None)
    assert weights.ratio.interval == pytest.approx([2.0, 2.0], rel=1e-5)
    data = pair_of(a, b, "gradient.norm", 100, 1000, exact={"gradient": True})
    assert (data.verdict, data.reason) == ("undecided", "the error of one of them is not known")
