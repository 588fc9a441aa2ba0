"""The arithmetic that a model runs in, backward passes included, and the tensors it runs on."""

import pytest
import torch
from networks import objective, squared_error, task
from sharpcli.settings.measuring import RunSettings
from torch import nn

from sharpcli.curvature import make_operator
from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.network import Network
from sharpcli.runs.study import prepare


def _tf32() -> list[bool | str]:
    """Whether TF32 may be used, by whichever switches can be read."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        return [matmul.allow_tf32, cudnn.allow_tf32]
    except RuntimeError:
        return [matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision]


_SEEN: list[tuple[str, list[bool | str]]] = []


class _Square(torch.autograd.Function):
    """Squares; notes the switches in its backward passes, the first and the second."""

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return inputs**2

    @staticmethod
    def backward(ctx, gradient):
        (inputs,) = ctx.saved_tensors
        _SEEN.append(("first", _tf32()))
        return _Slope.apply(inputs, gradient)


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, gradient):
        ctx.save_for_backward(inputs, gradient)
        return 2 * inputs * gradient

    @staticmethod
    def backward(ctx, again):
        inputs, gradient = ctx.saved_tensors
        _SEEN.append(("second", _tf32()))
        return 2 * gradient * again, 2 * inputs * again


class _Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs):
        return _Square.apply(self.linear(inputs))


def _data(count, generator):
    inputs, targets = (torch.randn(count, width, generator=generator) for width in (3, 2))
    return inputs, targets


def test_backward_passes_run_without_tf32():
    function, theta = objective(task(_Squares, _data, loss=squared_error, metrics=None))
    before = _tf32()
    _SEEN.clear()
    function.gradient(theta)
    hessian = make_operator(function, theta)
    for _ in range(2):  # the second product runs on kept graphs alone
        hessian @ theta
    assert {name for name, _ in _SEEN} == {"first", "second"}
    assert all(not any(switches) for _, switches in _SEEN)
    assert _tf32() == before


def test_a_task_that_used_the_newer_switches_of_tf32_is_measured_without_it():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not hasattr(matmul, "fp32_precision"):  # older than torch 2.9: there is one kind of switch
        return
    before = [it.fp32_precision for it in (matmul, cudnn.conv, cudnn.rnn)]
    try:
        matmul.fp32_precision = "tf32"
        cudnn.conv.fp32_precision = "ieee"
        set_by_the_task = _tf32()
        assert len(set_by_the_task) == 3
        with exact_arithmetic():
            assert _tf32() == ["ieee"] * 3
        with exact_arithmetic(tf32=True):
            assert _tf32() == ["tf32"] * 3
        assert _tf32() == set_by_the_task
    finally:
        for it, value in zip((matmul, cudnn.conv, cudnn.rnn), before, strict=True):
            it.fp32_precision = value
    assert _tf32() == [False, True]


def test_tf32_is_on_where_it_is_asked_for_and_as_it_was_afterwards():
    of = task(_Squares, _data, loss=squared_error, metrics=None)
    network = prepare(of, RunSettings(device="cpu", tf32=True), torch.device("cpu")).network
    before = _tf32()
    with network.arithmetic():
        assert _tf32() == [True, True]
    assert _tf32() == before
    with network.subset(network.names[:1]).arithmetic():
        assert _tf32() == [True, True]


def test_an_inner_block_of_exact_arithmetic_does_not_end_the_outer_one():
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with exact_arithmetic():
        with exact_arithmetic():
            pass
        assert not torch.backends.mha.get_fastpath_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.mha.get_fastpath_enabled() == fastpath


class _Tied(nn.Module):
    """One weight in two layers, a buffer in one, and a failure on request."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(()))

    def forward(self, inputs):
        if len(inputs) == 1:
            raise ValueError("one row")
        return self.second(self.first(inputs)) * self.scale


def test_tied_weights_are_replaced_everywhere_and_put_back_after_a_failure():
    model = _Tied()
    network = Network(model, task(_Tied, _data), device=torch.device("cpu"))
    own = {name: id(t) for name, t in network.model.state_dict(keep_vars=True).items()}
    inputs, weight, scale = torch.eye(3), 2 * torch.eye(3), torch.tensor(5.0)
    found = network.outputs([weight], {"scale": scale}, (inputs,))
    assert torch.equal(found, 20 * torch.eye(3))
    with pytest.raises(ValueError, match="one row"):
        network.outputs([weight], {"scale": scale}, (inputs[:1],))
    assert {name: id(t) for name, t in network.model.state_dict(keep_vars=True).items()} == own


def test_recurrent_layers_run_on_the_weights_they_are_given():
    network = Network(nn.GRU(3, 4), task(_Squares, _data), device=torch.device("cpu"))
    zeros = [torch.zeros(shape) for shape in network.shapes]
    outputs, _ = network.outputs(zeros, {}, (torch.ones(5, 2, 3),))
    assert not outputs.any()


def test_the_skeleton_holds_no_numbers_of_what_is_trained():
    model = _Tied()
    network = Network(model, task(_Tied, _data), device=torch.device("cpu"))
    own = network.model.first.weight
    assert own is network.model.second.weight
    assert (own.shape, own.untyped_storage().nbytes()) == ((3, 3), 4)
    assert network.model.scale.untyped_storage().data_ptr() != model.scale.data_ptr()
    assert model.first.weight.untyped_storage().nbytes() == 36
