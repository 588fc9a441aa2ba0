"""`sharp compare --score` and `sharp train --evaluate-every` as a user calls them."""

import json

import pytest
from click.testing import CliRunner
from tiny_sweeps import write

from sharpcli.cli.main import sharp

SWEEP = """
task = "task.py"
[fixed]
epochs = 2
evaluate_every = "epoch"
[grid]
lr = [0.1, 1.0]
seed = [0, 1]
"""


def run(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(sharp, list(arguments))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    output = folder / "runs"
    found = run("sweep", str(write(folder, SWEEP)), "--output", str(output), "--quiet")
    assert found.exit_code == 0, found.output
    return output


def test_tables_and_a_chart(trained):
    found = run("compare", str(trained), "--score")
    assert found.exit_code == 0, found.output
    assert "accuracy (test), higher is better" in found.stdout
    assert "final value over learning rates" in found.stdout
    assert max(map(len, found.stdout.splitlines())) <= 80
    assert "note: intervals of two runs are very wide" in found.stderr


def test_json_goes_to_plot(trained, tmp_path):
    result = tmp_path / "scores.json"
    found = run("compare", str(trained), "--score", "--over", "seconds", "--output", str(result))
    assert found.exit_code == 0, found.output
    figure = tmp_path / "curves.npz"
    found = run("plot", str(result), "--plot", str(figure))
    assert found.exit_code == 0, found.output
    assert figure.exists()


def test_the_loss_of_the_training_data(trained):
    found = run(
        "compare", str(trained), "--score", "--metric", "loss", "--split", "train", "--json"
    )
    document = json.loads(found.stdout)
    assert document["settings"]["score"]["lower_is_better"] is True
    assert document["settings"]["score"]["split"] == "train"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "0.9"), "--target: has no effect without --score"),
        (("--over", "epochs"), "--over: has no effect without --score"),
        (("--scatter", "λ1"), "--scatter λ1: has no effect without --plot"),
        (("--heat", "λ1", "--by", "lr"), "--heat λ1: needs the two keys"),
        (("--score", "--within", "seed"), "--within: has no effect with --score"),
        (("--score", "--baseline", "lr=0.1"), "--baseline lr=0.1: has no effect with --score"),
        (("--score", "--metric", "acuracy"), "--metric acuracy: is not known of any run"),
        (("--score", "--by", "lrr"), "--by lrr: the runs have no such setting"),
    ],
)
def test_bad_input(trained, arguments, said):
    found = run("compare", str(trained), *arguments)
    assert found.exit_code == 2
    assert said in found.stderr


@pytest.mark.parametrize("every", ["0", "-1", "1.5", "epochs"])
def test_how_often_is_a_number_or_a_word(every):
    found = run("train", "digits", "--evaluate-every", every)
    assert found.exit_code == 2
    assert "is not a number of steps from 1 or 'epoch'" in found.stderr
