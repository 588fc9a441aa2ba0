"""The options of a task: their types, and which function gets which."""

from __future__ import annotations

import functools
import typing
from typing import Literal, Optional, Union

import pytest
from torch import nn

from sharpcli.errors import UsageError
from sharpcli.tasks.arguments import bind_options, declared_options


def data(split):
    return split


def bound(given, where="task.py", **functions):
    """Each function's options and all of them; `data` has none where it is not given."""
    return bind_options({"data": data, **functions}, given, where)


def one(kind, text, default=None):
    """`text` as the value of one option annotated with `kind`."""

    def model(x):
        return x

    model.__annotations__ = {} if kind is None else {"x": kind}
    model.__defaults__ = (default,)
    return bound({"x": text}, model=model)[0]["model"]["x"]


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
        (int, "3.5", 'task.py: options.x="3.5": is not int'),
        (bool, "maybe", 'task.py: options.x="maybe": is not bool'),
        (Literal["relu", "tanh"], "elu", 'task.py: options.x="elu": is not relu|tanh'),
        (int | None, "many", 'task.py: options.x="many": is not int|none'),
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

    per_function, resolved = bind_options({"model": model, "data": data}, given, "task.py")
    return per_function["model"], per_function["data"], resolved


def test_each_function_gets_what_it_names():
    for_model, for_data, resolved = both(width="2", seed="3", rows="4", deep="on")
    assert for_model == {"width": 2, "seed": 3, "deep": True}
    assert for_data == {"seed": 3.0, "rows": 4}
    assert resolved == {"width": 2, "seed": 3, "deep": True, "rows": 4}


def test_defaults_are_resolved_but_not_passed():
    assert both(seed="0") == (
        {"seed": 0},
        {"seed": 0.0},
        {"width": 1, "seed": 0, "deep": False, "rows": 10},
    )


def test_defaults_that_differ_are_told_apart():
    resolved = both()[2]
    assert resolved == {"width": 1, "model.seed": 0, "data.seed": 0.5, "deep": False, "rows": 10}


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
        bound({"width": "2"}, model=lambda: None)
    assert caught.value.message.endswith("there are none")
    assert caught.value.hint.startswith("an option is a keyword argument of one of its functions")


def test_a_needed_option():
    with pytest.raises(UsageError, match=r"needs the option 'width' \(width: int\)") as caught:
        bound({}, model=needs)
    assert caught.value.hint == 'give it with options.width="…"'
    assert bound({"width": "3"}, model=needs)[0]["model"] == {"width": 3}


def needs(width: int):
    return width


def test_a_function_that_takes_any_option_gets_the_rest_as_text():
    def model(width: int = 1, **rest):
        return width, rest

    per_function, resolved = bound({"width": "2", "other": "3"}, model=model)
    assert per_function == {"model": {"width": 2, "other": "3"}, "data": {}}
    assert resolved == {"width": 2, "other": "3"}


def test_a_default_that_is_no_plain_value_is_shown_as_text():
    def model(layers=(1, 2)):
        return layers

    assert bound({}, model=model)[1] == {"layers": "(1, 2)"}


def test_a_default_with_an_address_is_the_same_in_every_process():
    def loss(outputs, batch, of=needs):
        return of

    assert bound({}, loss=loss)[1] == {"of": "<function needs>"}


SIGNATURES = {
    "keyword": lambda outputs, batch, smoothing=0.0: smoothing,
    "keyword only": lambda outputs, batch, *, smoothing=0.0: smoothing,
    "behind positional-only ones": lambda outputs, batch, /, smoothing=0.0: smoothing,
    "behind any number": lambda *arguments, smoothing=0.0: smoothing,
}


@pytest.mark.parametrize("function", SIGNATURES.values(), ids=SIGNATURES)
@pytest.mark.parametrize("name", ["loss", "predict", "metrics"])
def test_options_of_a_function_of_two_arguments(name, function):
    per_function, resolved = bound({"smoothing": "0.1"}, **{name: function})
    assert per_function[name] == {"smoothing": 0.1}
    assert resolved == {"smoothing": 0.1}
    assert function(None, None, **per_function[name]) == 0.1


def test_options_of_collate():
    assert bound({"pad": "7"}, collate=lambda rows, pad=0: rows)[0]["collate"] == {"pad": 7}


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def smoothed(outputs, batch, smoothing: "float" = 0):  # noqa: UP037 (read as text)
    return smoothing


class Smoothed:
    def loss(self, outputs, batch, smoothing: "float" = 0):  # noqa: UP037
        return smoothing

    __call__ = loss


@pytest.mark.parametrize(
    "loss",
    [
        smoothed,
        logged(smoothed),
        functools.partial(smoothed, smoothing=0.5),
        functools.partial(logged(smoothed)),
        logged(functools.partial(smoothed)),
        Smoothed().loss,
        Smoothed(),
    ],
    ids=["plain", "wraps", "partial", "partial of wraps", "wraps of partial", "method", "instance"],
)
def test_a_wrapped_function_names_what_the_wrapped_one_names(loss):
    per_function, resolved = bound({"smoothing": "0.1"}, loss=loss)
    assert resolved == {"smoothing": 0.1}
    assert loss(None, None, **per_function["loss"]) == 0.1


def test_a_module_as_a_loss_names_what_its_forward_names():
    class Loss(nn.Module):
        def forward(self, outputs, batch, smoothing=0.0):
            return smoothing

    per_function, _ = bound({"smoothing": "0.1"}, loss=Loss())
    assert per_function["loss"] == {"smoothing": 0.1}
    with pytest.raises(UsageError, match="has no option 'smothing': did you mean 'smoothing'"):
        bound({"smothing": "0.1"}, loss=Loss())


def test_a_class_as_the_model_names_what_its_constructor_names():
    class Model(nn.Module):
        def __init__(self, width: "int | None" = None):  # noqa: UP037
            super().__init__()

    assert bound({"width": "3"}, model=Model)[0]["model"] == {"width": 3}


def test_two_functions_share_an_option_and_each_reads_it_by_its_own_type():
    def data(split, smoothing: str = ""):
        return split

    def loss(outputs, batch, smoothing: float = 0.0):
        return smoothing

    per_function, resolved = bound({"smoothing": ".1"}, data=data, loss=loss)
    assert per_function == {"data": {"smoothing": ".1"}, "loss": {"smoothing": 0.1}}
    assert resolved == {"data.smoothing": ".1", "loss.smoothing": 0.1}


def test_what_a_function_with_any_options_does_not_get_is_told_apart():
    def data(split, smoothing=0.0):
        return split

    def loss(outputs, batch, **options):
        return options

    per_function, resolved = bound({"smoothing": ".1", "other": "x"}, data=data, loss=loss)
    assert per_function == {"data": {"smoothing": 0.1}, "loss": {"other": "x"}}
    assert resolved == {"data.smoothing": 0.1, "other": "x"}


def test_a_decorator_that_hides_a_shared_option_is_refused():
    def data(split, smoothing=0.0):
        return split

    def hidden(*args, **kwargs):
        return smoothed(*args, **kwargs)

    with pytest.raises(UsageError, match="cannot tell whether `loss` takes the option 'smoothing'"):
        bound({"smoothing": ".1"}, data=data, loss=hidden)
    assert bound({}, data=data, loss=hidden)[1] == {"smoothing": 0.0}
    assert bound({"other": "1"}, loss=hidden)[0]["loss"] == {"other": "1"}


def test_a_needed_option_of_the_loss():
    with pytest.raises(UsageError, match=r"needs the option 'smoothing' \(smoothing: float\)"):

        def loss(outputs, batch, smoothing: float):
            return smoothing

        bound({}, loss=loss)


def test_metrics_may_be_none():
    assert bound({}, metrics=None) == ({"data": {}}, {})


def test_declared_options():
    declared = declared_options({"model": needs, "data": data, "loss": smoothed, "other": 1})
    assert [str(option) for option in declared] == ["width: int", "smoothing: float = 0"]
