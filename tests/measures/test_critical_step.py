"""The bracket of the first crossing, on functions whose crossing is known."""

import math

import pytest

from sharpcli.measures.critical_step import crossing

MOST = 9


def tried(function, start, **given):
    steps = []

    def rise(step):
        steps.append(step)
        return function(step)

    found = crossing(rise, start, **{"noise": 0.0, "most": MOST, **given})
    assert found.evaluations == len(steps) <= MOST
    return found


def quadratic(step):
    return step * step - 3 * step


@pytest.mark.parametrize("off", [1e-4, 1e-2, 0.3, 0.99, 1.01, 3.0, 100.0, 1e4])
@pytest.mark.parametrize("slope", [None, -3.0])
def test_a_quadratic_from_any_start(off, slope):
    found = tried(quadratic, 3 * off, slope=slope)
    assert found.low <= 3 < found.high <= found.low * (1 + 1 / 16)
    assert found.best == pytest.approx(3, rel=1e-9)
    assert found.evaluations <= 7


@pytest.mark.parametrize(
    ("function", "zero"),
    [
        (lambda x: x**4 - 2 * x, 2 ** (1 / 3)),
        (lambda x: math.expm1(x) - 3 * x, 1.9038136944),
        (lambda x: abs(x - 1) - 1, 2.0),  # a kink
        (lambda x: math.inf if x > 1.5 else -x, 1.5),  # it jumps
        (lambda x: -x + 1e3 * max(x - 1, 0.0), 1000 / 999),
    ],
)
@pytest.mark.parametrize("off", [0.03, 0.5, 2.0, 30.0])
def test_other_functions(function, zero, off):
    found = tried(function, zero * off)
    assert found.low <= zero * (1 + 1e-9)
    assert found.high >= zero * (1 - 1e-9)
    assert found.low <= found.best <= found.high
    assert found.narrow or (found.evaluations == MOST and found.high < 1.3 * found.low)


def test_the_first_of_several_crossings_from_a_start_before_it():
    found = tried(lambda x: -math.sin(x), 1.0)
    assert found.narrow
    assert found.low <= math.pi < found.high


def test_what_never_rises_and_what_always_rises():
    falling = tried(lambda x: -x, 1.0)
    assert (falling.high, falling.narrow) == (math.inf, False)
    assert falling.low > 1e6
    rising = tried(lambda x: x, 1.0)
    assert (rising.low, rising.narrow) == (0, False)
    assert rising.high < 1e-6


def test_noise_is_no_rise():
    def rounded(step):
        return quadratic(step) + (1e-4 if step < 1e-4 else 0.0)

    found = tried(rounded, 1e-5, noise=2e-4)
    assert found.low <= 3.001
    assert found.high >= 2.999
    assert found.high < 3 * found.low
