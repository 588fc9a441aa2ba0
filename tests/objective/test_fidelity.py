"""The network that is measured is the task's own, or it is refused with the parameter's name."""

import copy
import sys
from dataclasses import replace

import pytest
import strays
import torch
from networks import CASES
from sharpcli.settings.measuring import RunSettings
from torch import nn
from torch.utils.checkpoint import checkpoint

from sharpcli.curvature import make_operator
from sharpcli.errors import SharpError
from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.runs.preflight import check_fidelity, check_reach
from sharpcli.runs.study import prepare

CPU = torch.device("cpu")

# One of each kind: the benchmark `faithful` judges all, with dense matrices.
RIGHT = [
    "closure",
    "closure of a dropout layer",
    "list",
    "object with slots",
    "forward pre-hook",
    "global module",
    "tied weight in a list",
    "weight norm by hooks",
    "checkpointed",
    "checkpoint_sequential, reentrant",
    "clipped gradients",
    "functional call on a dictionary",
    "sparse embedding by a function",
    "complex",
    "pairs seen as complex",
    "slope by torch.func",
    "padding that is seen",
    "padding by a function",
    "step inside the forward pass",
    "step inside with gradients on",
    "force of an energy",
    "force by the flag",
    "bag of means",
    "bag of sums, sparse",
    "bag of maxima",
]
REFUSED = [name for name, case in strays.ZOO.items() if case.refused]


@pytest.fixture(autouse=True)
def _quiet():
    """torch.jit and old hooks say that they are deprecated."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", RIGHT)
def test_numbers_are_those_of_plain_pytorch(name, tmp_path):
    found = strays.judge(name, tmp_path)
    assert (found.kind, found.said) == ("right", "")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name, tmp_path):
    found = strays.judge(name, tmp_path)
    assert found.kind == "refused", found


def _studied(model, task_of="tanh", **run):
    task = replace(CASES[task_of], model=lambda: model)
    return prepare(task, RunSettings(device="cpu", **run), CPU)


def _checked(study, tensors, **how):
    warnings = []
    check_reach(study, tensors)
    check_fidelity(study, tensors, warnings, **how)
    assert study.original is None
    return warnings


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_ordinary_networks_pass_and_are_left_as_they_were(name, dtype):
    model = CASES[name].model()
    before = copy.deepcopy(model.state_dict())
    places = [(p.data_ptr(), p.grad) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    study = _studied(model, name, dtype=dtype)
    tensors = {key: value + 0 * value for key, value in before.items()}
    assert _checked(study, tensors) == []
    assert study.network.reach.strays is False
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [(p.data_ptr(), p.grad) for p in model.parameters()] == places
    assert [module.training for module in model.modules()] == modes


def test_parameters_that_share_memory_are_refused_by_name():
    """As where a decoder's weight is made of the encoder's: θ would hold it twice."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.back = nn.Linear(5, 3, bias=False), nn.Linear(3, 5, bias=False)
            self.back.weight = nn.Parameter(self.into.weight.data.T)

        def forward(self, inputs):
            return self.into(self.back(self.into(inputs).tanh()).tanh())

    model = Tied()
    with pytest.raises(SharpError, match=r"is not the model.*'into.weight'"):
        _checked(_studied(model), model.state_dict())


def test_a_pruned_network_at_kinks_passes():
    """Units whose weights are zero sit at ReLU's kink for every row."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    model.append(nn.Linear(16, 3))
    for layer in (model[0], model[2]):
        layer.weight.data[::2], layer.bias.data[:] = 0, 0
    assert _checked(_studied(model), copy.deepcopy(model.state_dict())) == []


def test_a_gradient_that_is_no_slope_does_not_matter_to_the_loss_alone():
    model = strays.ZOO["detached"].build()
    tensors = copy.deepcopy(model.state_dict())
    task = replace(strays.task("detached"), model=lambda: model)
    run = RunSettings(device="cpu")
    assert _checked(prepare(task, run, CPU), tensors, gradients=False) == []
    with pytest.raises(SharpError, match="not the slope of the loss in 'g'"):
        _checked(prepare(task, run, CPU), tensors)


def _in_float32(model, batch):
    return model(batch[0]).float()


def _autocast(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(batch[0]).float()


def _by_hand(model, batch):
    return model(batch[0]).bfloat16().float()


@pytest.mark.parametrize("predict", [_in_float32, _autocast, _by_hand])
def test_coarse_rounding_in_the_model_is_no_wrong_slope(predict):
    model = CASES["tanh"].model()
    task = replace(CASES["tanh"], model=lambda: model, predict=predict)
    study = prepare(task, RunSettings(device="cpu"), CPU)
    assert _checked(study, copy.deepcopy(model.state_dict())) == []


def test_a_wrong_slope_shows_in_float32_too():
    model = strays.ZOO["detached"].build()
    task = replace(strays.task("detached"), model=lambda: model, predict=_in_float32)
    study = prepare(task, RunSettings(device="cpu"), CPU)
    with pytest.raises(SharpError, match="not the slope of the loss in 'g'"):
        _checked(study, copy.deepcopy(model.state_dict()))


def test_checkpointing_is_as_it_was_outside_of_passes():
    calls = []

    def square(inputs):
        calls.append(len(calls))
        return inputs**2

    code = checkpoint.__wrapped__.__code__
    inputs = torch.ones(3, requires_grad=True)
    for reentrant in (True, False):
        calls.clear()
        with exact_arithmetic():
            inside = checkpoint(square, inputs, use_reentrant=reentrant).sum()
        inside.backward()
        assert calls == [0]
        checkpoint(square, inputs, use_reentrant=reentrant).sum().backward()
        assert calls == [0, 1, 2]
    with pytest.raises(ValueError, match="inside"), exact_arithmetic():
        raise ValueError("inside")
    assert checkpoint.__wrapped__.__code__ is code


class _Compiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.compiles = 0
        self.run = torch.compile(self._run, backend=self._backend)

    def _backend(self, graph, _):
        self.compiles += 1
        return graph.forward

    def _run(self, inputs):
        return self.linear(inputs).tanh()

    def forward(self, inputs):
        return self.run(inputs)


def test_compiled_code_runs_uncompiled():
    model = _Compiled()
    assert "torch._dynamo" in sys.modules
    tensors = copy.deepcopy(model.state_dict())
    study = _studied(model)
    assert _checked(study, tensors) == []
    objective = study.objectives(tensors)["train"]
    theta = study.network.flatten(tensors)
    make_operator(objective, theta) @ theta
    assert model.compiles == 0


def test_a_lazy_layer_gets_its_shape_from_the_data():
    model = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    study = _studied(model)
    inputs = CASES["tanh"].data("train")[0].shape[1]
    assert study.network.shapes[0] == torch.Size([5, inputs])
    assert study.network.size == 5 * inputs + 5 + 10 + 18
    assert all(module.training for module in study.original.modules())
    assert int(study.original[2].num_batches_tracked) == 0


def test_a_lazy_layer_that_no_pass_uses_is_refused_by_name():
    model = nn.Sequential(nn.Linear(CASES["tanh"].data("train")[0].shape[1], 3))
    model[0].unused = nn.LazyLinear(3)
    with pytest.raises(SharpError, match=r"'0\.unused\.weight' is lazy"):
        _studied(model)


def test_complex_parameters_count_as_pairs_of_real_numbers():
    study = _studied(strays.ZOO["complex"].build())
    assert (study.network.size, study.network.shapes[1]) == (3 + 36, torch.Size([6, 3, 2]))
    assert study.size == 39


def test_where_parameters_are_reached_is_kept_for_networks_in_another_dtype(tmp_path):
    case = strays.ZOO["closure"]
    model = case.build()
    study = prepare(replace(strays.task("closure"), model=lambda: model), RunSettings(), CPU)
    assert study.network.reach.strays is None
    _checked(study, copy.deepcopy(model.state_dict()))
    assert study.network.reach.strays is True
    double = type(study.network)(study.network.model, study.task, device=CPU, dtype=torch.float64)
    assert double.reach.strays is True
