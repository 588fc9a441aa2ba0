"""What a checkpoint's metadata may say of a task's options: values of their types, never code."""

from typing import Literal

import pytest

from sharpcli.tasks.options_in_metadata import options_in_metadata


def model(
    width: int,
    rate: float = 0.5,
    norm: bool = False,
    kind: Literal["mlp", "cnn"] = "mlp",
    act: str = "relu",
    heads: int | None = None,
):
    pass


def data(split, n: int = 10, root: str = "data", seed: int = 0, width: int = 8):
    pass


def loss(outputs, batch, smoothing: float = 0.0):
    pass


FUNCTIONS = {"model": model, "data": data, "loss": loss}


def found(metadata, **given):
    return options_in_metadata(FUNCTIONS, metadata, given)


@pytest.mark.parametrize(
    ("metadata", "values"),
    [
        ({"width": 64}, {"width": "64"}),
        ({"width": 64, "rate": 1}, {"width": "64", "rate": "1"}),
        (
            {"norm": True, "kind": "cnn", "act": "tanh"},
            {"norm": "true", "kind": "cnn"} | {"act": "tanh"},
        ),
        ({"model.width": 64, "training_args.rate": 3.0}, {"width": "64"}),
        ({"config.heads": 2, "head.heads": 3}, {"heads": "2"}),
        ({"config.n": 99, "config.width": 99}, {}),  # a config.json is not of the data
        ({"a.width": 16, "b.width": 16}, {"width": "16"}),
        ({"heads": 4, "smoothing": 0.1, "lr": 0.1}, {"heads": "4"}),
        ({"rate": 0.5, "norm": False, "kind": "mlp", "act": "relu", "n": 10}, {}),
        (
            {"task_options": "width=64,kind=cnn,heads=none,n=10", "rate": 3.0},
            {"width": "64", "kind": "cnn"},
        ),
        ({}, {}),
    ],
)
def test_values_of_the_options_type_are_taken(metadata, values):
    assert found(metadata).values == values
    assert not found(metadata).passed_over


def test_what_the_user_gives_is_not_looked_up():
    assert found({"width": 64, "rate": 0.1}, width="8").values == {"rate": "0.1"}
    assert found({"width": "abc"}, width="8").passed_over == {}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"width": "64x"}, "width=64x in its metadata is passed over: it is not int"),
        ({"width": 64.0}, "it is not int"),
        ({"width": True}, "it is not int"),
        ({"norm": 1}, "it is not bool"),
        ({"kind": "rnn"}, "it is not mlp|cnn"),
        ({"rate": "high"}, "it is not float"),
        ({"root": "elsewhere"}, "a checkpoint may not say where something is"),
        ({"act": "os.system"}, "a checkpoint may not name a file or a module"),
        ({"act": "/etc/passwd"}, "a checkpoint may not name a file or a module"),
        ({"act": "../x"}, "a checkpoint may not name a file or a module"),
        ({"act": "package:name"}, "a checkpoint may not name a file or a module"),
        ({"act": "__import__"}, "a checkpoint may not name a file or a module"),
        ({"act": "a\x1b[2Jb"}, "act=a\\x1b[2Jb in its metadata"),
        ({"seed": 3}, "seed in its metadata is passed over: it is the training's"),
        ({"a.width": 16, "b.width": 32}, "there is more than one: a.width=16, b.width=32"),
        ({"task_options": "width=wide,root=/data"}, "width=wide in its metadata is passed over"),
    ],
)
def test_what_is_passed_over_is_named_with_the_reason(metadata, words):
    told = found(metadata)
    assert told.values == {}
    assert words in "; ".join(told.notes())
    assert "options." in told.notes()[0]


def test_a_file_of_that_name_is_none_of_an_options_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert found({"act": "tanh"}).values == {"act": "tanh"}
    (tmp_path / "tanh").write_text("")
    assert found({"act": "tanh"}).values == {}


def test_notes_say_where_values_come_from_and_which_choose_the_data():
    told = found({"width": 64, "config.rate": 0.25, "n": 99, "norm": True})
    assert told.of_data == {"width", "n"}
    assert told.notes() == [
        "norm=true from its metadata",
        "width=64, n=99 from its metadata: this chooses its data",
        "rate=0.25 from its config.json",
    ]


def scaled_loss(outputs, batch, rate: float = 0.5, smoothing: float = 0.0):
    pass


def test_an_option_of_the_model_that_changes_the_loss_is_said():
    functions = {**FUNCTIONS, "loss": scaled_loss}
    taken = options_in_metadata(functions, {"rate": 2.0, "act": "tanh"}, {})
    assert taken.of_loss == {"rate"} and not taken.of_data
    assert taken.notes() == [
        "act=tanh from its metadata",
        "rate=2.0 from its metadata: this changes its loss",
    ]
    assert taken.without(["rate"], "it does not fit").of_loss == set()


def test_an_option_of_the_loss_alone_that_the_training_had_is_passed_over_and_said():
    metadata = {"task_options": "width=64,smoothing=0.3"}
    (said,) = found(metadata).passed_over.values()
    assert said == (
        "smoothing=0.3 in its metadata is passed over: only options of model and data are taken "
        'from a checkpoint (options.smoothing="…")'
    )
    assert not found(metadata, smoothing="0.1").passed_over
    assert not found({"task_options": "width=64,smoothing=0"}).passed_over
