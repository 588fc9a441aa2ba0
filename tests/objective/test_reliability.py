"""When the error of a sample can be trusted: examples that carry a number, rare kinds, few rows."""

import math

import pytest
import torch
from scipy import stats
from sharpcli.documents.scalars import Scalar

from sharpcli.objective.reliability import (
    carriers,
    carriers_of_columns,
    doubt,
    sampling_status,
    student,
    warning,
    widened,
)

TOTAL = 2000


@pytest.mark.parametrize("degrees", [1, 1.2, 2, 2.7, 3.5, 7, 15, 24, 40, 200, 1e6])
def test_a_quantile_of_student_is_never_too_small_and_hardly_too_large(degrees):
    true = float(stats.t.ppf(0.975, degrees))
    assert true - 1e-3 <= student(degrees) <= true * 1.12
    assert widened(2.0, degrees) == pytest.approx(2 * student(degrees) / 1.96)


def test_below_one_degree_of_freedom_it_is_that_of_one():
    assert student(0.0) == student(1.0) == pytest.approx(12.706)


@pytest.mark.parametrize("heavy", [1, 3, 10])
def test_so_many_equal_examples_among_others_of_none_carry_a_variance(heavy):
    values = torch.zeros(TOTAL, dtype=torch.float64)
    values[:heavy] = 7.0
    off = values - values.mean()
    found = carriers(float(off.square().sum()), float(off.pow(4).sum()), TOTAL)
    assert found == pytest.approx(heavy, rel=0.02)


def test_of_normal_deviations_half_are_counted_and_of_two_values_all_but_one():
    off = torch.tensor(stats.norm.ppf((torch.arange(TOTAL) + 0.5).numpy() / TOTAL))
    found = carriers(float(off.square().sum()), float(off.pow(4).sum()), TOTAL)
    assert found == pytest.approx(TOTAL / 2, rel=0.02)
    assert carriers(100.0, 100.0, 100) == 99


def column_of(kind):
    """2,000 numbers or classes."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(TOTAL, generator=generator)
    which = torch.arange(TOTAL)
    return {
        "ten classes": which % 10,
        "a thousand classes": which % 1000,
        "long tail of classes": (20 * torch.rand(TOTAL, generator=generator) ** 2).long(),
        "one in a hundred": (which % 100 == 0).long(),
        "normal": normal,
        "outliers": normal + 15 * (which % 100 == 0),
        "heavy tail": (1.5 * normal).exp(),
        "images": torch.rand(TOTAL, 3, 4, 4, generator=generator),
        "sparse pixels": (torch.rand(TOTAL, 200, generator=generator) < 0.005).float(),
        "rows on other scales": normal.exp()[:, None] ** 2 * torch.ones(TOTAL, 3),
        "equal": torch.full((TOTAL,), 0.1),
        "normalised": torch.nn.functional.normalize(torch.rand(TOTAL, 9, generator=generator)),
        "phases": torch.polar(torch.ones(TOTAL), normal),
        "tokens": torch.randint(50, (TOTAL, 7), generator=generator),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "ten classes",
        "a thousand classes",
        "long tail of classes",
        "normal",
        "images",
        "sparse pixels",
        "equal",
        "normalised",
        "phases",
        "tokens",
    ],
)
def test_ordinary_columns_leave_samples_of_256_alone(kind):
    assert doubt(256, TOTAL, carriers_of_columns((column_of(kind),), TOTAL, 256)) is None


@pytest.mark.parametrize("kind", ["one in a hundred", "outliers", "heavy tail"])
def test_rare_kinds_of_example_put_samples_of_256_in_doubt(kind):
    ordinary = column_of("images")
    batch = {"inputs": ordinary, "extra": [column_of(kind), None, "name"]}
    found = carriers_of_columns(batch, TOTAL, 256)
    assert "so rare in the data" in doubt(256, TOTAL, found)
    assert doubt(TOTAL, TOTAL, found) is None


def test_rows_on_very_different_scales_are_rare_kinds_too():
    found = carriers_of_columns(column_of("rows on other scales"), TOTAL, 256)
    assert found < 6


def test_no_column_says_nothing():
    assert carriers_of_columns((["a", "b"], torch.zeros(()), torch.zeros(0)), 2, 1) == math.inf
    assert carriers_of_columns(torch.tensor([math.nan, 1.0]), 2, 1) == math.inf
    assert carriers_of_columns(column_of("outliers"), TOTAL - 1, 9) == math.inf


def test_a_small_sample_is_in_doubt_unless_it_is_most_of_the_data():
    assert "a sample of 64 often misses" in doubt(64, TOTAL)
    assert doubt(200, TOTAL) is None
    assert doubt(64, 66) is None
    assert doubt(64, 64) is None


def test_a_status_for_doubt_and_for_few_carriers():
    assert sampling_status(None, 1.5) is None
    assert sampling_status(None, 1.4) == "unreliable"
    assert sampling_status(None, 0.0) == "unreliable"
    assert sampling_status(None, None) == "unreliable"
    assert sampling_status("why", 99.0) == "unreliable"


def test_a_warning_names_each_measure_once_and_says_why():
    marked = Scalar(1.0, sampling_error=2.0, sampling_status="unreliable")
    numbers = {
        "loss": {"train": marked, "gap": marked},
        "epsilon_sharpness": [{"epsilon": 1e-3, "value": 1.0, "status": "lower_bound"}],
        "trace": marked,
    }
    said = warning(numbers, None)
    assert said.startswith(
        "the sampling errors of loss, trace are unreliable (marked ?): one example"
    )
    assert ": the reason; take more" in warning(numbers, "the reason")
    assert warning({"trace": Scalar(1.0)}, "the reason") is None
