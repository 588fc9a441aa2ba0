"""`sharp measure … --decide` from the command line to the sentence, the JSON and the exit code."""

import json

import pytest
from minima import measure, write_minima

BOTH = ("sgd.safetensors", "adam.safetensors", "-t", "task.py", "--decide", "hessian")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARP_TASK", raising=False)


def test_the_table_ends_with_the_order_in_one_sentence():
    done = measure(*BOTH, "--samples", "40")
    assert done.exit_code == 0, done.output
    document = json.loads(measure(*BOTH, "--samples", "40", "--json").stdout)
    first, second = (path.partition(".")[0] for path in document["decision"]["order"])
    lines = done.stdout.splitlines()
    said = f"{first} is sharper than {second} by λ1: decided on all 48 examples, at 95 %"
    assert said in lines
    assert lines[lines.index(said) + 1].startswith("this took")
    assert "40 of 48 examples: λ1 of sgd" in done.stderr
    assert [look["examples"] for look in document["decision"]["looks"]] == [40, 48]
    assert document["settings"]["measure"]["decide"] == "hessian"


def test_a_baseline_limits_the_pairs_with_and_without_decide():
    third = ("sgd.safetensors", *BOTH[:4])
    document = json.loads(measure(*third, "-m", "loss", "--baseline", "adam", "--json").stdout)
    assert {pair["b"] for pair in document["pairs"]} == {"adam.safetensors"}
    assert "decision" not in document


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sampling-error", "0.1"), "--decide hessian and --sampling-error 0.1: both determine"),
        (("--by", "layer"), "--decide hessian and --by layer"),
        (("--baseline", "none"), "--baseline none: matches no checkpoint"),
        (("--decide", "hessan"), "--decide hessan: there is no such measure or number"),
    ],
)
def test_what_contradicts_is_refused_in_the_words_of_options(options, message):
    done = measure(*BOTH, *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_one_checkpoint_has_no_order():
    done = measure("sgd.safetensors", *BOTH[2:])
    assert done.exit_code == 2
    assert "--decide hessian: there is one checkpoint only" in done.stderr


def test_options_of_measures_that_are_not_asked_for_are_noted():
    done = measure(*BOTH, "--epsilon", "0.1", "--top", "2")
    assert "note: --epsilon has no effect: it is for -m epsilon-sharpness" in done.stderr
    assert "--top has no effect" not in done.stderr
