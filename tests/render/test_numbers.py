from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpcli.render.numbers import format_number, format_scalar, format_signed, format_uncertain

values = st.floats(-1e12, 1e12).map(lambda x: x or 0.0) | st.floats(-1e-4, 1e-4)
errors = st.floats(1e-15, 1e9)


def parsed(text: str) -> tuple[Decimal, Decimal, Decimal]:
    """Value, error in parentheses and spread of a printed number."""
    whole = re.fullmatch(r"\((.*)\)e([+-]\d+)|(.*)", text)
    assert whole
    body, power = (whole[1], int(whole[2])) if whole[1] else (whole[3], 0)
    match = re.fullmatch(r"(-?[\d.]+)(?:\(([\d.]+)\))?(?:±([\d.]+))?(?:e([+-]\d+))?", body)
    assert match, text
    power += int(match[4] or 0)
    places = len(match[1].partition(".")[2])
    error = Decimal(match[2] or 0)
    if match[2] and "." not in match[2]:
        error = error.scaleb(-places)
    return (
        Decimal(match[1]).scaleb(power),
        error.scaleb(power),
        Decimal(match[3] or 0).scaleb(power),
    )


@given(values, errors)
def test_the_printed_interval_contains_the_computed_one(value: float, error: float) -> None:
    shown, bound, _ = parsed(format_uncertain(value, error))
    exact, around = Decimal(repr(value)), Decimal(repr(error))
    assert shown - bound <= exact - around
    assert exact + around <= shown + bound


@given(values, errors)
def test_the_error_is_not_much_larger_than_computed(value: float, error: float) -> None:
    shown, bound, _ = parsed(format_uncertain(value, error))
    assert float(bound) <= 1.5 * error + 2e-4 * abs(value)
    assert abs(float(shown) - value) <= 0.5 * error + 1e-4 * abs(value)


@given(values, errors, errors)
def test_error_and_spread_are_both_there_unless_one_is_lost_in_the_other(
    value: float, error: float, spread: float
) -> None:
    _, bound, around = parsed(format_uncertain(value, error, spread))
    assert around > 0
    assert (bound > 0) == (Decimal(repr(error)) * 10 > Decimal(repr(spread)))


@given(values)
def test_a_number_without_an_error_keeps_four_digits(value: float) -> None:
    shown, _, _ = parsed(format_number(value))
    assert abs(float(shown) - value) <= 5.001e-4 * abs(value)


@given(values)
def test_a_lower_bound_is_never_rounded_up(value: float) -> None:
    text = format_scalar({"value": value, "status": "lower_bound"})
    shown, _, _ = parsed(text.removeprefix("≥"))
    assert shown <= Decimal(repr(value))
    assert float(shown) >= value - 0.0101 * abs(value)


@given(values)
def test_an_upper_bound_is_never_rounded_down(value: float) -> None:
    text = format_scalar({"value": value, "status": "upper_bound", "error_kind": "upper_bound"})
    shown, _, _ = parsed(text.removeprefix("≤"))
    assert shown >= Decimal(repr(value))
    assert float(shown) <= value + 0.0101 * abs(value)


@given(values, errors)
def test_numbers_stay_short(value: float, error: float) -> None:
    assert len(format_uncertain(value, error)) <= 17
    assert len(format_number(value)) <= 11


@pytest.mark.parametrize(
    ("value", "error", "spread", "text"),
    [
        (12.31, 0.04, None, "12.31(4)"),
        (18.1, 1.2, None, "18.1(1.2)"),
        (205.14, 69.52, None, "210(80)"),
        (1.5234e-5, 3e-7, None, "1.523(31)e-05"),
        (12.345678, 1e-9, None, "12.346(1)"),
        (-1e-9, 0.1, None, "0.00(11)"),
        (0.0, None, None, "0"),
        (0.6931472, None, None, "0.6931"),
        (1.5e-5, None, None, "1.500e-05"),
        (123456.7, None, None, "123457"),
        (999999.6, None, None, "1.000e+06"),
        (15.21, 0.04, 0.7, "15.2±0.7"),
        (15.21, 0.3, 0.7, "15.2(4)±0.7"),
        (1.5e-5, None, 2e-6, "(1.50±0.20)e-05"),
        (3.0, 0.0, 0.0, "3.000"),
    ],
)
def test_examples(value: float, error: float | None, spread: float | None, text: str) -> None:
    assert format_uncertain(value, error, spread) == text


def test_what_did_not_converge_is_marked() -> None:
    scalar = {"value": 12.3, "error": 0.4, "error_kind": "residual", "status": "max_products"}
    assert format_scalar(scalar) == "12.3(4)!"
    assert format_scalar({**scalar, "status": "converged"}) == "12.3(4)"
    assert format_scalar({"value": None, "status": "not_finite"}) == "not finite!"


def test_a_sampled_lower_bound_follows_its_sampling_error() -> None:
    scalar = {"value": 0.1247, "status": "lower_bound", "sampling_error": 0.0063}
    assert format_scalar(scalar) == "≥0.124±0.006"


def test_an_unreliable_sampling_error_ends_in_a_question_mark() -> None:
    doubted = {"sampling_status": "unreliable"}
    scalar = {"value": 15.24, "sampling_error": 0.7, "status": "converged", **doubted}
    assert format_scalar(scalar) == "15.2±0.7?"
    assert format_scalar({**scalar, "status": "lower_bound"}) == "≥15.2±0.7?"
    assert format_scalar({**scalar, "status": "max_products"}) == "15.2±0.7?!"
    assert format_scalar({"value": 15.24, "status": "converged", **doubted}) == "15.24?"


def test_an_upper_bound_has_the_digits_of_a_lower_one() -> None:
    scalar = {"value": 0.10012, "error": None, "error_kind": "upper_bound", "status": "upper_bound"}
    assert format_scalar(scalar) == "≤0.101"
    assert format_scalar({**scalar, "value": -0.014291}) == "≤-0.0142"
    assert format_scalar({**scalar, "status": "suspect"}) == "≤0.101!"
    assert format_scalar({**scalar, "sampling_error": 0.0063}) == "≤0.101±0.006"


def test_an_error_that_is_the_sampling_error_is_said_once() -> None:
    scalar = {"value": 0.012, "error": 0.004, "error_kind": "standard_error", "status": "converged"}
    assert format_scalar({**scalar, "sampling_error": 0.004}) == "0.012±0.004"
    assert format_scalar(scalar) == "0.012(4)"


def test_differences_have_a_sign() -> None:
    assert format_signed(1.25) == "+1.250"
    assert format_signed(-1.25, spread=0.4) == "-1.2±0.4"
    assert format_signed(6e-4, spread=7e-4) == "(+6±7)e-04"


def test_a_count_is_written_as_it_is():
    assert format_number(4) == "4"
    assert format_number(4.0) == "4.000"
