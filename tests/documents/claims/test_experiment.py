"""Reading an experiment's file."""

import pytest
from tiny_experiments import EXPERIMENT, write

from sharpcli.documents.claims.experiment import read_experiment
from sharpcli.errors import UsageError
from sharpcli.runs.experiments import experiments


def test_it_holds_what_the_file_says(tmp_path):
    found = read_experiment(write(tmp_path))
    assert (found.name, found.title) == ("longer", "Longer training fits better")
    assert [stage.name for stage in found.stages] == ["first", "second", "between"]
    assert found.claims[0].prediction.least == -0.001
    assert found.claims[1].arguments["value"] == "hessian.eigenvalues[0]"
    assert found.claims[0].source == "nobody 1900"
    assert [figure.kind for figure in found.figures] == ["levels", "courses", "lines"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Longer', 'titel = "Longer', "titel: did you mean 'title'"),
        ('direction = "above"', 'direction = "up"', "claim sharper: direction"),
        ('stage = "second"', 'stage = "secnd"', "claim goes-on: stage: did you mean 'second'"),
        ('name = "sharper"', 'name = "lower"', "two claims have one name"),
        ("[[claim]]", "[[clam]]", "clam: did you mean 'claim'"),
        (
            'value = "train.loss"\nof',
            'vlaue = "train.loss"\nof',
            "lower: vlaue: did you mean 'value'",
        ),
        ("least = 2", "least = 0.5", "claim sharper: least = 0.5 is not above null = 1"),
        ("least = 2", 'least = "2"', "claim sharper: least = '2': is not a number"),
        ("null = 1\n", "nul = 1\n", "claim sharper: nul: did you mean 'null'"),
        (
            'value = "hessian.eigenvalues[0]"',
            'value = ["hessian.eigenvalues[0]"]',
            "claim sharper: value = .*: is no name of a number",
        ),
        ('value = "hessian.eigenvalues[0]"', "value = 3", "claim sharper: value = 3: is no name"),
        ("least = 2", "low = 2", 'low and high are for direction = "within"'),
        ("of = {}", 'of = "all"', "claim goes-on: of = 'all': is no table of settings"),
        ('to_stage = "first"', 'to_stage = "frst"', "to_stage: did you mean 'first'"),
        ("minutes = 1", 'minutes = "one"', "minutes = 'one': is no time"),
        ("minutes = 1", "minutes = 1\nfew_seeds = 3", "few_seeds"),
        ('name = "second"', 'name = "experiment"', "its sweep file would be experiment.toml"),
        ('stage = "first"\na', 'stage = "between"\na', "interpolate: stage"),
        ("a = { lr", "aa = { lr", "between: interpolate: aa: did you mean 'a'"),
        ("a = { lr", "# a = { lr", "between: interpolate: a = {…} is missing"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, message):
    home = write(tmp_path)
    (home / "experiment.toml").write_text(EXPERIMENT.replace(old, new), "utf-8")
    with pytest.raises(UsageError, match=message):
        read_experiment(home)


@pytest.mark.parametrize("name", experiments())
def test_every_built_in_experiment_can_be_read(name):
    found = read_experiment(experiments()[name])
    assert found.minutes > 0
    for stage in found.stages:
        if stage.is_sweep:
            assert found.sweep_file(stage, "small").is_file()
            assert found.sweep_file(stage, "paper").is_file()
