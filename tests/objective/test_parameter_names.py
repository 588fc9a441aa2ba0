"""Which parameters a pattern means, and what is said where it means none."""

import pytest
import torch
from networks import CASES, mlp
from sharpcli.settings.measuring import RunSettings
from torch import nn

from sharpcli.errors import UsageError
from sharpcli.objective.parameter_names import layers_of, matching
from sharpcli.runs.study import prepare

CPU = torch.device("cpu")


def measured(name, *patterns):
    """How many parameters of a case the patterns leave to measure."""
    run = RunSettings(device="cpu", parameters=patterns)
    return prepare(CASES[name], run, CPU).network.size


def test_a_tensors_every_name_is_understood_and_it_counts_once():
    model = CASES["tied"].model()
    assert matching(model, ["head.*"]) == matching(model, ["embed.weight"]) == ["embed.weight"]
    assert matching(model, ["*.weight"]) == ["embed.weight", "hidden.weight"]
    assert list(layers_of(model, ["embed.weight", "hidden.weight"])) == ["embed", "hidden"]


def test_a_model_that_is_one_layer_is_called_by_its_class():
    model = nn.Linear(3, 2)
    assert layers_of(model, ["weight", "bias"]) == {"Linear": ["weight", "bias"]}


@pytest.mark.parametrize(
    ("name", "pattern", "said"),
    [
        ("tanh", "2", "'2.*'"),
        ("tanh", "2.wieght", "did you mean '2.weight'? layers: 0, 2, 4"),
        ("attention", "zzz", "layers: embed, project, head (`sharp inspect`"),
        ("tanh", "", "layers: 0, 2, 4"),
        ("tied", "haed.weight", "did you mean 'head.weight'?"),
    ],
)
def test_a_pattern_without_a_match_is_misuse(name, pattern, said):
    with pytest.raises(UsageError) as refused:
        measured(name, "*.weight", pattern)
    assert refused.value.message == f'parameters="{pattern}": matches no parameter of the model'
    assert said in refused.value.hint


def test_frozen_parameters_alone_are_misuse():
    with pytest.raises(
        UsageError, match=r"parameters=\"0\.\*\": matches frozen parameters only, 0\.weight first"
    ):
        measured("frozen", "0.*")
    assert measured("frozen", "[02].*") == 9 * 8 + 8


def test_a_deep_network_lists_a_dozen_layers():
    with pytest.raises(UsageError) as refused:
        matching(mlp(*[2] * 41), ["conv"])
    assert "20, 22 and 28 more" in refused.value.hint


def test_fixed_parameters_do_not_count_as_activations():
    of = CASES["tanh"]
    sizes = []
    for patterns in ((), ("*.bias",)):
        study = prepare(of, RunSettings(device="cpu", parameters=patterns), CPU)
        sizes.append(study.objectives(of.model().state_dict())["train"].saved_bytes)
    assert sizes[1] <= sizes[0]
