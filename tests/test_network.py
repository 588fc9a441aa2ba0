"""The arithmetic that a model runs in, backward passes included."""

import torch
from networks import objective, squared_error, task
from torch import nn

from sharpcli.network import exact_arithmetic
from sharpcli.operators import Hessian


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
    hessian = Hessian(function, theta)
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
        assert _tf32() == set_by_the_task
    finally:
        for it, value in zip((matmul, cudnn.conv, cudnn.rnn), before, strict=True):
            it.fp32_precision = value
    assert _tf32() == [False, True]
