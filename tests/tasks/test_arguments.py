"""The options of a task: their types, and which function gets which."""

from __future__ import annotations

import typing
from typing import Literal, Optional, Union

import pytest

from sharpcli.errors import UsageError
from sharpcli.tasks.arguments import bind_options, declared_options


def data(split):
    return split


def one(kind, text, default=None):
    """`text` as the value of one option annotated with `kind`."""

    def model(x):
        return x

    model.__annotations__ = {} if kind is None else {"x": kind}
    model.__defaults__ = (default,)
    return bind_options(model, data, {"x": text}, "task.py")[0]["x"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "3", 3),
        (float, "1e-3", 1e-3),
        (str, "3", "3"),
        (bool, "yes", True),
        (bool, "False", False),
        (Literal["a", 2], "2", 2),
        (Literal[True, None], "none", None),
        (Optional[int], "none", None),  # noqa: UP045 (both spellings are tested)
        (int | None, "4", 4),
        (str | None, "none", None),
        (Union[int, float], "4.5", 4.5),  # noqa: UP007 (both spellings are tested)
        ("int | None", "5", 5),
    ],
)
def test_types_from_annotations(kind, text, value):
    got = one(kind, text)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [(1, "2", 2), (1.0, "2", 2.0), (True, "no", False), ("a", "2", "2"), (None, "2", "2")],
)
def test_types_from_defaults(default, text, value):
    got = one(None, text, default)
    assert got == value
    assert type(got) is type(value)


def test_an_annotation_that_cannot_be_resolved_is_left_to_the_default():
    assert one("NoSuchName", "2", 1) == 2
    assert one(typing.Any, "2", 1) == 2


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (int, "3.5", "task.py: -O x=3.5: is not int"),
        (bool, "maybe", "task.py: -O x=maybe: is not bool"),
        (Literal["relu", "tanh"], "elu", "task.py: -O x=elu: is not relu|tanh"),
        (int | None, "many", "task.py: -O x=many: is not int|none"),
    ],
)
def test_bad_values_name_option_and_type(kind, text, said):
    with pytest.raises(UsageError) as caught:
        one(kind, text)
    assert caught.value.message == said
    assert caught.value.hint.startswith("the option is x: ")


def both(**given):
    def model(width: int = 1, seed: int = 0, *, deep: bool = False):
        return width, seed, deep

    def data(split, seed: float = 0.5, rows=10):
        return split, seed, rows

    return bind_options(model, data, given, "task.py")


def test_each_function_gets_what_it_names():
    for_model, for_data, resolved = both(width="2", seed="3", rows="4", deep="on")
    assert for_model == {"width": 2, "seed": 3, "deep": True}
    assert for_data == {"seed": 3.0, "rows": 4}
    assert resolved == {"width": 2, "seed": 3, "deep": True, "rows": 4}


def test_defaults_are_resolved_but_not_passed():
    assert both() == ({}, {}, {"width": 1, "seed": 0, "deep": False, "rows": 10})


def test_an_option_that_none_names_lists_those_there_are():
    with pytest.raises(UsageError) as caught:
        both(widht="2")
    assert caught.value.message == "task.py: has no option 'widht': did you mean 'width'?"
    assert caught.value.hint == (
        "its options: width: int = 1; seed: int = 0; deep: bool = false; rows: int = 10"
    )


def test_split_is_no_option():
    with pytest.raises(UsageError, match="has no option 'split'"):
        both(split="train")


def test_a_task_without_options():
    with pytest.raises(UsageError) as caught:
        bind_options(lambda: None, data, {"width": "2"}, "task.py")
    assert caught.value.message.endswith("there are none")
    assert caught.value.hint == "its options: none"


def test_a_needed_option():
    with pytest.raises(UsageError, match=r"needs the option 'width' \(width: int\)") as caught:
        bind_options(needs, data, {}, "task.py")
    assert caught.value.hint == "give it with -O width=…"
    assert bind_options(needs, data, {"width": "3"}, "task.py")[0] == {"width": 3}


def needs(width: int):
    return width


def test_a_function_that_takes_any_option_gets_the_rest_as_text():
    def model(width: int = 1, **rest):
        return width, rest

    for_model, for_data, resolved = bind_options(model, data, {"width": "2", "other": "3"}, "t")
    assert for_model == {"width": 2, "other": "3"}
    assert for_data == {}
    assert resolved == {"width": 2, "other": "3"}


def test_a_default_that_is_no_plain_value_is_shown_as_text():
    def model(layers=(1, 2)):
        return layers

    assert bind_options(model, data, {}, "t")[2] == {"layers": "(1, 2)"}


def test_declared_options():
    assert [str(option) for option in declared_options(needs, data)] == ["width: int"]
