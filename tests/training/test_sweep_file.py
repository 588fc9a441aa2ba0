"""Sweep files: which runs they ask for, and what is wrong with them."""

import re
from pathlib import Path

import pytest
from tiny_sweeps import FOUR, NAMES, write

from sharpcli.errors import UsageError
from sharpcli.training.sweep_file import read_sweep


def names(tmp_path, content):
    return [run.name for run in read_sweep(write(tmp_path, content)).runs]


def test_a_grid_is_every_combination(tmp_path):
    plan = read_sweep(write(tmp_path))
    assert [run.name for run in plan.runs] == NAMES
    assert (plan.task, plan.task_path) == ("task.py", str(tmp_path / "task.py"))
    last = plan.runs[-1]
    assert (last.settings.optimizer, last.settings.seed, last.settings.epochs) == ("adam", 1, 1)
    assert last.options == {"width": "3"}


def test_a_list_adds_single_runs_which_may_have_names(tmp_path):
    best = '[[list]]\nname = "best"\noptimizer = "adam"\nbetas = [0.8, 0.9]\n'
    more = '[[list]]\noptimizer = "sgd"\nlr = 0.5\n' + best
    plan = read_sweep(write(tmp_path, FOUR + more))
    assert [run.name for run in plan.runs] == [*NAMES, "optimizer=sgd,lr=0.5", "best"]
    assert plan.runs[-1].settings.betas == (0.8, 0.9)
    assert plan.runs[-2].settings.lr == 0.5


def test_options_of_the_task_can_vary(tmp_path):
    content = 'task = "digits"\n[grid]\noptions.width = [8, 16]\n'
    plan = read_sweep(write(tmp_path, content))
    assert [(run.name, run.options) for run in plan.runs] == [
        ("width=8", {"width": "8"}),
        ("width=16", {"width": "16"}),
    ]


def test_the_files_of_the_guide(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "guide.md").read_text("utf-8")
    files = [each for each in re.findall(r"```toml\n(.*?)```", page, re.S) if "[grid]" in each]
    plan, schedules = (read_sweep(write(tmp_path, each)) for each in files)
    assert len(schedules.runs) == 12
    assert len(plan.runs) == 13
    assert "optimizer=sgd,batch_size=16,seed=0" in [run.name for run in plan.runs]
    assert plan.runs[-1].name == "hot"
    assert plan.measure == {"measures": ["loss", "hessian"]}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[fixed]\nlr = 0.1\n[grid]\nseed = [0]\n", "[fixed]\nlr = 0.1\n[grid]\nseed = [0, 1]\n"),
        ("[fixed]\nlr = 0.1\n[grid]\nseed = [0, 1]\n", "[[list]]\nlr = 0.5\n"),
        ("[fixed]\nlr = 0.1\n[[list]]\nseed = 1\n", "[[list]]\nseed = 2\n"),
        ("[fixed]\nlr = 0.1\n[[list]]\nseed = 1\n", "[[list]]\nseed = 1\nlr = 0.2\n"),
    ],
)
def test_runs_keep_their_names_when_others_are_added(tmp_path, before, after):
    head = 'task = "digits"\n'
    first = names(tmp_path, head + before)
    later = names(tmp_path, head + (after if "[grid]" in after else before + after))
    assert later[: len(first)] == first
    assert len(later) > len(first)


def test_one_run_needs_no_grid(tmp_path):
    assert names(tmp_path, 'task = "digits"\n[fixed]\nlr = 1\n') == ["run"]


def test_names_are_names_of_folders(tmp_path):
    content = 'task = "digits"\n[grid]\noptions.path = ["a/../b", "c d", "' + "x" * 200 + '"]\n'
    first, second, long = names(tmp_path, content)
    assert (first, second) == ("path=a-..-b", "path=c-d")
    assert 120 < len(long) < 140


def test_a_fixed_batch_is_the_batch_size(tmp_path):
    (run,) = read_sweep(write(tmp_path, 'task = "digits"\n[fixed]\nfixed_batch = 8\n')).runs
    assert (run.settings.batch_size, run.settings.fixed_batch) == (8, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("task = ", "is not TOML"),
        ("[fixed]\nlr = 0.1\n", 'task = "…" is missing'),
        ('task = "digits"\n[gird]\nlr = [0.1]\n', "gird: did you mean 'grid'?"),
        ('task = "digits"\nlr = 0.1\n', "settings of all runs go into [fixed]"),
        ('task = "digits"\n[fixed]\nbatchsize = 8\n', "did you mean 'batch_size'?"),
        ('task = "digits"\n[grid]\nlr = 0.1\n', "write lr = [0.1]"),
        ('task = "digits"\n[grid]\nlr = []\n', "give at least one value"),
        ('task = "digits"\n[fixed]\nlr = "0.1"\n', 'lr = "0.1": is not a finite number'),
        ('task = "digits"\n[fixed]\nlr = nan\n', "is not a finite number"),
        ('task = "digits"\n[fixed]\nepochs = 1.5\n', "epochs = 1.5: is not a whole number"),
        ('task = "digits"\n[fixed]\nepochs = true\n', "epochs = true: is not a whole number"),
        ('task = "digits"\n[fixed]\nepochs = 0\n', "epochs = 0: is out of range"),
        ('task = "digits"\n[grid]\nlr = [0.1, -1.0]\n', "lr = -1.0: is out of range"),
        ('task = "digits"\n[fixed]\nseed = -1\n', "seed = -1: is out of range"),
        ('task = "digits"\n[fixed]\nbetas = 0.9\n', "betas = 0.9: is not a list"),
        ('task = "digits"\n[fixed]\nlr = { a = 1 }\n', "[fixed] lr: is a table"),
        ('task = "digits"\n[fixed]\nseed = 1\n[grid]\nseed = [2]\n', "both in [grid] and fixed"),
        ('task = "digits"\n[grid]\nseed = [0, 0]\n', "two runs have the name"),
        ('task = "digits"\n[grid]\nlr = [1, 1.0]\noptions.a = ["x/y", "x-y"]\n', "two runs have"),
        ('task = "digits"\n[[list]]\nname = "../up"\n', "is no name of a folder"),
        ('task = "digits"\n[[list]]\nname = "sweep.json"\n', "is no name of a folder"),
        ('task = "digits"\n[[list]]\nname = ""\n', "is no name of a folder"),
        ('task = "digits"\ngrid = 3\n', "grid is a table"),
        ('task = "digits"\n[list]\nlr = 1\n', "a table for each run"),
        ('task = "digits"\n[fixed]\noptimizer = "sdg"\n', "sdg"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path, content, message):
    file = write(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_sweep(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file"):
        read_sweep(tmp_path / "none.toml")
