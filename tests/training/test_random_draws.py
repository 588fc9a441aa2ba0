"""Random settings of sweep files: which ones are drawn, and what is wrong with a table."""

import math
from fractions import Fraction

import pytest
from tiny_sweeps import write

from sharpcli.errors import UsageError
from sharpcli.training.sweep_file import read_sweep

RANDOM = """
task = "task.py"
[fixed]
epochs = 1
[random]
runs = 40
lr = { low = 1e-4, high = 1, scale = "log" }
batch_size = { low = 2, high = 5 }
weight_decay = { low = 0.0, high = 0.5 }
optimizer = ["sgd", "adam"]
options.width = { choices = [3, 5] }
"""


def runs(tmp_path, content=RANDOM):
    return read_sweep(write(tmp_path, content)).runs


def settings(tmp_path, content=RANDOM):
    return [run.settings for run in runs(tmp_path, content)]


def test_values_are_in_their_ranges_and_cover_them(tmp_path):
    drawn = settings(tmp_path)
    assert len(drawn) == 40
    assert all(1e-4 <= each.lr <= 1 for each in drawn)
    # Each of the four decades has its share, a binomial of 40 and 1/4: 10 ± 2.7.
    decades = [
        sum(math.floor(math.log10(each.lr)) == power for each in drawn)
        for power in (-4, -3, -2, -1)
    ]
    assert min(decades) >= 2
    assert {each.batch_size for each in drawn} == {2, 3, 4, 5}
    assert all(0 <= each.weight_decay <= 0.5 for each in drawn)
    assert {each.optimizer for each in drawn} == {"sgd", "adam"}
    assert {each.options["width"] for each in runs(tmp_path)} == {"3", "5"}


def test_these_are_drawn_on_any_machine(tmp_path):
    first = runs(tmp_path)[0]
    assert first.name == "lr=0.251,batch_size=5,weight_decay=0.285,optimizer=adam,width=3"


def test_more_runs_and_another_key_keep_the_first_ones(tmp_path):
    drawn = settings(tmp_path)
    assert settings(tmp_path, RANDOM.replace("40", "50"))[:40] == drawn
    without = RANDOM.replace("batch_size = { low = 2, high = 5 }\n", "")
    assert [each.lr for each in settings(tmp_path, without)] == [each.lr for each in drawn]
    other = settings(tmp_path, RANDOM.replace("runs = 40", "runs = 40\nseed = 1"))
    assert len({each.lr for each in other} & {each.lr for each in drawn}) < 5


def test_values_have_few_digits(tmp_path):
    for each in settings(tmp_path):
        assert len(f"{Fraction(str(each.lr)).numerator}") <= 4
        assert len(str(each.weight_decay)) <= 5


def test_each_draw_has_every_combination_of_the_grid(tmp_path):
    found = settings(tmp_path, RANDOM + "[grid]\nseed = [0, 1]\n")
    assert [each.seed for each in found] == [0, 1] * 40
    assert [each.lr for each in found[::2]] == [each.lr for each in found[1::2]]
    assert [each.lr for each in found[::2]] == [each.lr for each in settings(tmp_path)]


def test_equal_draws_are_one_run(tmp_path):
    content = 'task = "task.py"\n[random]\nruns = 3\nbatch_size = { low = 1, high = 3 }\n'
    assert sorted(each.batch_size for each in settings(tmp_path, content)) == [1, 2, 3]
    with pytest.raises(UsageError, match="only 3 different runs"):
        runs(tmp_path, content.replace("runs = 3", "runs = 4"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "draws nothing"),
        ("lr = 0.1", "is no range"),
        ("lr = []", "is an empty list"),
        ("lr = { low = 1 }", "high is missing"),
        ("lr = { low = 2, high = 1 }", "low is 2 and high 1"),
        ("lr = { low = 0, high = 1, scale = 'log' }", "low is 0 on a log scale"),
        ("lr = { low = 0.1, high = 1, scale = 'cubic' }", "scale is no 'cubic'"),
        ("lr = { low = 0.1, high = 1, step = 1 }", "a range has no 'step'"),
        ('lr = { low = 1e-300, high = 1e300, scale = "log" }', "too wide or too narrow"),
        ("lr = { low = -1e308, high = 1e308 }", "too wide or too narrow"),
        ("lr = { low = 0.0, high = 5e-324 }", "too wide or too narrow"),
        ("lr = { choices = [1], low = 1 }", "has choices and a range"),
        ("batch_size = { low = 1.5, high = 4 }", "is a whole number"),
        ("optimizer = { low = 1, high = 4 }", "is no number"),
        ("seed = { low = 1, high = 4 }", "seeds of trainings go into"),
        ("momentun = { low = 1, high = 4 }", "did you mean 'momentum'"),
        ("epochs = [1, 2]", "both in [random] and fixed"),
        ("momentum = { low = 0.1, high = 1.5 }", "out of range"),
    ],
)
def test_mistakes_are_named(tmp_path, line, message):
    content = f'task = "task.py"\n[fixed]\nepochs = 1\n[random]\nruns = 20\n{line}\n'
    with pytest.raises(UsageError) as caught:
        runs(tmp_path, content)
    assert "sweep.toml: " in str(caught.value)
    assert message in str(caught.value)


def test_how_many_runs_is_asked(tmp_path):
    content = 'task = "task.py"\n[random]\nlr = [0.1]\n'
    with pytest.raises(UsageError, match="runs is missing"):
        runs(tmp_path, content)
    with pytest.raises(UsageError, match="= 0: is no number of runs"):
        runs(tmp_path, content.replace("lr", "runs = 0\nlr"))
    with pytest.raises(UsageError, match=r"both in \[random\] and in \[grid\]"):
        runs(tmp_path, content.replace("lr", "runs = 1\nlr") + "[grid]\nlr = [0.2]\n")
