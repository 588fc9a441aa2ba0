"""Search files: what they ask for, and a message for each mistake."""

import pytest
from tiny_searches import FIVE, write

from sharpcli.errors import UsageError
from sharpcli.training.ranges import Choice, Range
from sharpcli.training.search_file import read_search


def test_what_is_chosen_makes_a_training(tmp_path):
    search = read_search(write(tmp_path))
    assert search.space == {
        "optimizer": Choice(("sgd", "adam")),
        "k0": Range(1e-3, 1, "log"),
        "gamma": Range(0.9, 1.0),
    }
    assert (search.settings.trials, search.settings.split) == (5, "validation")
    assert search.options == {"width": "3"}
    run = search.trial("t", {"optimizer": "adam", "k0": 0.05, "gamma": 0.95})
    assert (run.settings.optimizer, run.settings.epochs) == ("adam", 2)
    assert run.settings.schedule == "EXP(0.05, 0.95)"
    assert run.options == {"width": "3"}


def test_a_number_has_four_digits_and_stays_in_its_range(tmp_path):
    search = read_search(write(tmp_path, FIVE.replace("low = 1e-3", "low = 0.00123446")))
    assert search.value("k0", 0.012345678) == 0.01235
    assert search.value("k0", 0.00123446) == 0.00123446  # 0.001234 is below
    assert search.value("gamma", 0.99999999) == 1.0


def test_a_name_may_be_one_of_several_in_several_templates(tmp_path):
    content = FIVE.replace(
        'schedule = "EXP({k0}, {gamma})"',
        'schedule = "EXP({k0}, {gamma}):{n}, {k0}"\nn = { low = 2, high = 9 }\n'
        "options.width = [2, 4]\noptimizer_options.nesterov = [true, false]",
    ).replace("options = { width = 3 }", "")
    search = read_search(write(tmp_path, content))
    chosen = {"k0": 0.5, "gamma": 0.9, "n": 7, "optimizer": "sgd", "options.width": 4}
    run = search.trial("t", {**chosen, "optimizer_options.nesterov": False})
    assert run.settings.schedule == "EXP(0.5, 0.9):7, 0.5"
    assert run.settings.optimizer_options == {"nesterov": False}
    assert run.options == {"width": "4"}


def test_the_highest_metric_and_the_lowest_loss_are_the_best(tmp_path):
    def highest(line):
        return read_search(write(tmp_path, line + FIVE)).settings.highest

    assert not highest("")
    assert highest('objective = "accuracy"\n')
    assert not highest('objective = "error"\ndirection = "minimize"\n')


def test_the_task_is_named_once(tmp_path):
    file = write(tmp_path, FIVE.replace('task = "task.py"', ""))
    assert read_search(file, "digits").sweep.task_path == "digits"
    with pytest.raises(UsageError, match="is missing"):
        read_search(file)
    with pytest.raises(UsageError, match=r'task = "task\.py" is not digits'):
        read_search(write(tmp_path), "digits")
    assert read_search(write(tmp_path)).sweep.task_path == str(tmp_path / "task.py")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials = 5", "trails = 5", "trails: did you mean 'trials'?"),
        ("trials = 5", "trials = 0", "trials = 0: is out of range"),
        ("trials = 5", 'split = "valid"', 'split = "valid": is not one of validation, train, test'),
        ("trials = 5", "lr = 0.1", "lr: "),
        ("trials = 5", "validation = 1.0", "validation = 1.0: is out of range"),
        ("trials = 5", 'sampler = "grid"', 'k0: sampler = "grid" needs lists'),
        ("[fixed]", "[fixed]\nk0 = 1", "[fixed] k0: is no setting of a training"),
        ("[fixed]", '[fixed]\noptimizer = "sgd"', "optimizer is both in [search] and fixed"),
        ("epochs = 2", "epochs = 2.5", "epochs = 2.5: is not a whole number"),
        ("gamma = { low = 0.9, high = 1.0 }", "", "schedule: there is no range for {gamma}"),
        ("{gamma}", "0.9", "[search] gamma: is no setting of a training, and no template has"),
        ("EXP({k0}, {gamma})", "EXP(1, 0.9)", "does not vary"),
        ("{gamma})", "{gamma}):{seed}, {k0}", "{seed} is the name of a setting"),
        ("high = 1.0 }", "high = 0.5 }", "[search] gamma = "),
        ('["sgd", "adam"]', "[1, 2]", "optimizer = 1: is not a text"),
        ("[search]", "[serach]", "serach: did you mean 'search'?"),
    ],
)
def test_a_mistake_is_said_with_file_and_key(tmp_path, old, new, message):
    assert old in FIVE
    with pytest.raises(UsageError) as e:
        read_search(write(tmp_path, FIVE.replace(old, new)))
    assert e.value.message.startswith(f"{tmp_path / 'search.toml'}: ")
    assert message in e.value.message
