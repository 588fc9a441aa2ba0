"""Ranges of settings, as TOML has them."""

import pytest

from sharpcli.errors import UsageError
from sharpcli.training.ranges import Choice, Range, read_range


def test_a_table_is_a_range_and_a_list_a_choice():
    assert read_range({"low": 1e-4, "high": 1, "scale": "log"}) == Range(1e-4, 1, "log")
    assert read_range({"low": 16, "high": 256}) == Range(16, 256, "linear", whole=True)
    assert read_range(["sgd", "adamw"]) == Choice(("sgd", "adamw"))
    assert read_range({"choices": ["sgd", "adamw"]}) == Choice(("sgd", "adamw"))
    assert read_range([[0.9, 0.99], [0.9, 0.999]]).values[1] == [0.9, 0.999]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "is an empty list"),
        ({"choices": []}, "is an empty list"),
        ({"choices": [1], "low": 1}, "has choices and a range"),
        (0.1, "is no range"),
        ({"low": 1}, "high is missing"),
        ({"low": 1, "high": "2"}, "high is no number"),
        ({"low": True, "high": 2}, "low is no number"),
        ({"low": 0, "high": float("inf")}, "high is no number"),
        ({"low": 2, "high": 1}, "low is 2 and high 1"),
        ({"low": 0, "high": 1, "scale": "log"}, "low is 0 on a log scale"),
        ({"low": 1, "high": 2, "scale": "lag"}, "scale is no 'lag'"),
        ({"low": 1, "hihg": 2}, "a range has no 'hihg': did you mean 'high'?"),
    ],
)
def test_a_mistake_is_said(value, message):
    with pytest.raises(UsageError) as e:
        read_range(value)
    assert message in e.value.message
    assert e.value.hint
