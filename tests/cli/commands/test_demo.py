"""`sharp demo`: the whole story, and the commands that repeat it."""

import shlex
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from sharpcli.checkpoint import load_checkpoint
from sharpcli.cli.commands.demo import checkpoint_paths, train_command
from sharpcli.cli.main import sharp
from sharpcli.runs import demo as module
from sharpcli.runs.demo import SETUPS, train_all


@pytest.fixture
def short(monkeypatch, tmp_path):
    """A demo that trains each network for one epoch, in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    setups = tuple(replace(setup, epochs=1) for setup in SETUPS)
    monkeypatch.setattr(module, "SETUPS", setups)
    return tmp_path


def test_the_printed_command_makes_the_same_checkpoint(short):
    paths = checkpoint_paths(short / "folder")
    train_all(paths, seed=5)
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


def test_a_folder_that_cannot_be_made(short):
    (short / "file").write_text("")
    done = CliRunner().invoke(sharp, ["demo", "--folder", "file/below"])
    assert done.exit_code == 1
    assert "file/below: cannot be created: Not a directory" in done.stderr


def test_the_whole_story(short, monkeypatch):
    monkeypatch.setattr(module, "TASK_OPTIONS", {"width": "4", "depth": "1"})
    done = CliRunner().invoke(sharp, ["demo", "--seed", "2"])
    assert done.exit_code == 0, done.output
    assert done.stderr.count("train loss") == 4
    assert "λ1" in done.stdout
    said, commands = done.stdout.split("To repeat each step by hand:")
    assert said.strip().endswith(("as high.", "of SGD.", "of Adam."))
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
