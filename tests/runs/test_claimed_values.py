"""A claim about a number that nothing measures is refused before the training."""

import dataclasses

import pytest
from tiny_experiments import write

from sharpcli.documents.claims.experiment import SCALES, read_experiment
from sharpcli.errors import UsageError
from sharpcli.runs.claimed_values import check_values
from sharpcli.runs.experiments import experiments
from sharpcli.runs.reproduce import reproduce
from sharpcli.training.sweep_file import read_sweep

SHARPER = 1  # the tiny experiment's claim about λ1


def with_value(experiment, value):
    claims = list(experiment.claims)
    arguments = claims[SHARPER].arguments | {"value": value}
    claims[SHARPER] = dataclasses.replace(claims[SHARPER], arguments=arguments)
    return dataclasses.replace(experiment, claims=claims)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("hesian.eigenvalues[0]", "no sweep file measures hesian: did you mean 'hessian'"),
        ("trace", "no sweep file measures trace: "),
        ("rescaled.hessian.eigenvalues[0]", "no sweep file with rescale_check measures hessian"),
        (
            "tracked.hessian.eigenvalues[0]/threshold",
            "no sweep file tracks hessian: there are none",
        ),
    ],
)
def test_nothing_is_trained_for_a_number_that_nothing_measures(tmp_path, value, said):
    experiment = with_value(read_experiment(write(tmp_path)), value)
    with pytest.raises(UsageError) as refused:
        reproduce(experiment, tmp_path / "out")
    assert said in refused.value.message
    assert "claim sharper: " in refused.value.message
    assert not (tmp_path / "out" / "first").exists()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", experiments())
def test_the_built_in_experiments_measure_what_they_claim(name, scale):
    experiment = read_experiment(experiments()[name])
    stages = [stage for stage in experiment.stages if stage.is_sweep]
    check_values(experiment, [read_sweep(experiment.sweep_file(each, scale)) for each in stages])
