"""`sharp demo`: what it trains, what it says of the numbers, and the commands that repeat it."""

import shlex
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from sharpcli.checkpoint import load_checkpoint
from sharpcli.cli.commands import demo as module
from sharpcli.cli.commands.demo import (
    LARGE,
    SETUPS,
    SMALL,
    checkpoint_paths,
    sentence,
    train_all,
    train_command,
)
from sharpcli.cli.main import sharp
from sharpcli.tasks import task_from_metadata


@pytest.fixture
def short(monkeypatch, tmp_path):
    """A demo that trains each network for one epoch, in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    setups = tuple(replace(setup, epochs=1) for setup in SETUPS)
    monkeypatch.setattr(module, "SETUPS", setups)
    return tmp_path


def test_the_setups_differ_by_batch_size_within_an_optimizer():
    by_optimizer = {}
    for setup in SETUPS:
        by_optimizer.setdefault(setup.optimizer, []).append(setup)
    assert set(by_optimizer) == {"sgd", "adam"}
    for small, large in by_optimizer.values():
        assert (small.batch_size, large.batch_size) == (SMALL, LARGE)
        assert replace(small, batch_size=LARGE) == large
        assert small.until_loss == SETUPS[0].until_loss


def test_training_saves_four_checkpoints_that_name_their_task(short):
    paths = checkpoint_paths(short / "folder")
    train_all(paths, seed=5, quiet=True)
    assert len({load_checkpoint(path).sha256 for path in paths}) == 4
    for path, setup in zip(paths, SETUPS, strict=True):
        metadata = load_checkpoint(path).metadata
        assert metadata["optimizer"] == setup.optimizer
        assert metadata["batch_size"] == setup.batch_size
        assert metadata["seed"] == 5
        name, options = task_from_metadata(metadata)
        assert name == "digits"
        assert options["depth"] == "4"


def test_the_printed_command_makes_the_same_checkpoint(short):
    paths = checkpoint_paths(short / "folder")
    train_all(paths, seed=5, quiet=True)
    path = paths[3]
    before = load_checkpoint(path)
    words = shlex.split(train_command(replace(module.SETUPS[3], seed=5), path))
    assert words.pop(0) == "sharp"
    path.unlink()
    done = CliRunner().invoke(sharp, words)
    assert done.exit_code == 0, done.output
    again = load_checkpoint(path)
    assert again.metadata == before.metadata
    assert all(torch.equal(again.tensors[name], before.tensors[name]) for name in before.tensors)


def results(phi, eigenvalue):
    """A measure document's results, with a small- and a large-batch value for each optimizer."""
    found = []
    for optimizer in ("sgd", "adam"):
        for index, batch_size in enumerate((SMALL, LARGE)):
            entry = {"epsilon": 1e-3, "subspace": None, "value": phi[index]}
            others = [{**entry, "subspace": 100, "value": 7.0}, {**entry, "epsilon": 5e-4}]
            found.append(
                {
                    "checkpoint": {"metadata": {"optimizer": optimizer, "batch_size": batch_size}},
                    "status": "ok",
                    "measures": {
                        "epsilon_sharpness": [*others, entry],
                        "hessian": {"eigenvalues": [{"value": eigenvalue[index]}]},
                    },
                }
            )
    return found


def test_the_sentence_when_large_batches_are_sharper():
    assert sentence(results((1.0, 12.0), (2.0, 10.0))) == (
        "Sharper are the large-batch (1,442) minima: φ is 12 (sgd) and 12 (adam) times, "
        "λ1 is 5 (sgd) and 5 (adam) times those of the small-batch (8) ones."
    )


def test_the_sentence_when_small_batches_are_sharper():
    said = sentence(results((12.0, 1.0), (10.0, 2.0)))
    assert said.startswith("Sharper are the small-batch (8) minima: φ is 12 (sgd)")


@pytest.mark.parametrize("numbers", [((1.0, 1.2), (1.0, 1.1)), ((1.0, 5.0), (5.0, 1.0))])
def test_the_sentence_when_it_is_not_clear(numbers):
    said = sentence(results(*numbers))
    assert said.startswith("No clear difference between the large-batch (1,442) and")


@pytest.mark.parametrize("value", [None, -1.0])
def test_the_sentence_when_a_number_is_missing(value):
    said = sentence(results((1.0, 2.0), (1.0, value)))
    assert said == "Nothing can be said: λ1 of sgd could not be measured for both batch sizes."
    failed = results((1.0, 2.0), (1.0, 2.0))
    failed[3]["status"] = "failed"
    assert "φ of adam could not be measured" in sentence(failed)


def test_a_folder_that_cannot_be_made(short):
    (short / "file").write_text("")
    done = CliRunner().invoke(sharp, ["demo", "--folder", "file/below"])
    assert done.exit_code == 1
    assert "file/below: cannot be made: Not a directory" in done.stderr


def test_the_whole_story(short, monkeypatch):
    monkeypatch.setattr(module, "TASK_OPTIONS", {"width": "4", "depth": "1"})
    done = CliRunner().invoke(sharp, ["demo", "--seed", "2"])
    assert done.exit_code == 0, done.output
    assert done.stderr.count("train loss") == 4
    assert "λ1" in done.stdout
    said, commands = done.stdout.split("To repeat each step by hand:")
    assert said.strip().endswith(("ones.", "sizes."))
    commands, chart = commands.split("The loss between the minima of sgd: A with batches of 8, B")
    lines = commands.strip().splitlines()
    assert [line.split()[1] for line in lines] == ["train"] * 4 + ["measure", "interpolate"]
    again = CliRunner().invoke(sharp, [*shlex.split(lines[-2])[1:], "-m", "loss"])
    assert again.exit_code == 0, again.output
    assert "digits (model=mlp, batch_norm=False, width=4, depth=1" in again.stdout
    line = CliRunner().invoke(sharp, shlex.split(lines[-1])[1:])
    assert line.exit_code == 0, line.output
    drawn = chart.strip().splitlines()[2:]
    assert any("⠤" in row for row in drawn)
    assert drawn[-1].split() == ["A", "B", "α"]
    assert all(row in line.stdout.splitlines() for row in drawn), "the command draws the same"
