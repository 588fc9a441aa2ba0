"""The objective: independent of batches, faithful to the model, strict with what it is given."""

import copy

import pytest
import torch
from networks import (
    CASES,
    CPU,
    UNEVEN,
    dense_gradient,
    dense_loss,
    mlp,
    objective,
    real_targets,
    relative,
    squared_error,
    task,
    tokens,
    vectors,
)
from torch import nn
from torch.nn import functional

from sharpcli.errors import SharpError
from sharpcli.objective.arithmetic import exact_arithmetic
from sharpcli.objective.checks import check_deterministic, check_finite
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.reading import read_rows
from sharpcli.objective.rows import Rows
from sharpcli.tasks import defaults

LIMITS = {"float64": 1e-12, "float32": 1e-5}


def model_task(model, **parts):
    return task(model, vectors(5, 3), **parts)


class Forward(nn.Module):
    """A linear layer followed by a function."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.function = function

    def forward(self, inputs):
        return self.function(self.linear(inputs))


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_plain_pytorch(name):
    for dtype, limit in (("float64", 1e-13), ("float32", 2e-6)):
        function, theta = objective(CASES[name], dtype)
        value, gradient = function.gradient(theta)
        assert relative(value, dense_loss(name)) <= limit
        assert relative(function.loss(theta), dense_loss(name)) <= limit
        assert relative(gradient, dense_gradient(name)) <= limit


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("name", CASES)
def test_one_two_or_eight_uneven_batches_give_the_same(name, dtype):
    whole, theta = objective(CASES[name], dtype, batch_size=10_000)
    value, gradient = whole.gradient(theta)
    evaluation = whole.evaluate(theta)
    for size in UNEVEN:
        split, _ = objective(CASES[name], dtype, batch_size=size)
        assert len(list(split.batches())) == {23: 1, 12: 2, 3: 8}[size]
        other, other_gradient = split.gradient(theta)
        assert relative(other, value) <= LIMITS[dtype]
        assert relative(split.loss(theta), value) <= LIMITS[dtype]
        assert relative(other_gradient, gradient) <= LIMITS[dtype]
        again = split.evaluate(theta)
        assert relative(again.loss.value, evaluation.loss.value) <= LIMITS[dtype]
        assert again.metrics.keys() == evaluation.metrics.keys()
        for metric, mean in again.metrics.items():
            assert abs(mean.value - evaluation.metrics[metric].value) <= 1e-15


def test_uneven_batches_are_weighted_by_what_counts_in_them():
    # The first example counts no token, the sixth all five: a mean of batch means is not it.
    function, theta = objective(CASES["ignored_tokens"], batch_size=2)
    model = CASES["ignored_tokens"].model().double()
    words, targets = CASES["ignored_tokens"].data("train")
    with torch.no_grad():
        scores = model(words)
    token = functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert function.loss(theta) == pytest.approx(float(token), rel=1e-13)
    means = [
        functional.cross_entropy(scores[i : i + 2].flatten(0, 1), targets[i : i + 2].flatten())
        for i in range(0, 23, 2)
    ]
    assert abs(float(torch.stack(means).nanmean()) - float(token)) > 1e-3


def test_a_pair_of_one_sum_and_one_weight_is_the_same_as_one_for_each_example():
    def whole(outputs, batch):
        losses = functional.cross_entropy(outputs, batch[1], reduction="none")
        return losses.sum(), torch.tensor(float(len(losses)))

    single, theta = objective(model_task(lambda: mlp(5, 4, 3), loss=whole), batch_size=3)
    each, _ = objective(model_task(lambda: mlp(5, 4, 3)), batch_size=3)
    assert single.loss(theta) == pytest.approx(each.loss(theta), rel=1e-14)
    assert relative(single.gradient(theta)[1], each.gradient(theta)[1]) <= 1e-13
    with pytest.raises(SharpError, match="one sum for a batch") as caught:
        single.per_example_losses(theta)
    assert "sum and the weight of each example" in caught.value.hint


def test_per_example_losses_make_up_the_mean():
    function, theta = objective(CASES["ignored_tokens"], batch_size=5)
    sums, weights = function.per_example_losses(theta)
    assert weights.tolist() == [float(i % 6) for i in range(23)]
    assert float(sums.sum() / weights.sum()) == pytest.approx(function.loss(theta), rel=1e-14)


# θ


def test_theta_holds_what_is_trained_in_order_and_tied_weights_once():
    tied, theta = objective(CASES["tied"])
    assert tied.network.names == ["embed.weight", "hidden.weight", "hidden.bias"]
    assert tied.size == len(theta) == 7 * 6 + 6 * 6 + 6
    frozen, theta = objective(CASES["frozen"])
    assert frozen.network.names == ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert frozen.size == len(theta) == 9 * 8 + 8 + 8 * 3 + 3
    assert frozen.network.locate(9 * 8) == "2.bias"


def test_moving_a_tied_weight_moves_both_its_uses():
    function, theta = objective(CASES["tied"])
    direction = torch.zeros_like(theta)
    direction[0] = 1e-6
    slope = (function.loss(theta + direction) - function.loss(theta - direction)) / 2e-6
    assert slope == pytest.approx(float(dense_gradient("tied")[0]), rel=1e-7)


def test_parameters_that_are_not_used_have_no_gradient():
    function, theta = objective(CASES["unused"])
    _, gradient = function.gradient(theta)
    start = function.network.names.index("unused.weight")
    offset = sum(function.network.sizes[:start])
    assert not gradient[offset : offset + 4].any()
    assert gradient[:offset].any()
    assert gradient[offset + 4 :].any()


def test_nothing_to_measure_is_said():
    with pytest.raises(SharpError, match="has no parameter that requires a gradient"):
        objective(model_task(lambda: mlp(5, 3).requires_grad_(False)))


def test_the_model_that_is_given_is_left_alone():
    model = CASES["batch_norm"].model().train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[5].requires_grad_(False)
    before = copy.deepcopy(model)
    network = Network(model, CASES["batch_norm"], device=CPU, dtype=torch.float64)
    tensors = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    rows = read_rows(CASES["batch_norm"].data("train"), name="train data")
    function = Objective(network, rows, network.fixed(tensors))
    function.gradient(network.flatten(tensors))
    function.evaluate(network.flatten(tensors))
    for (name, old), new in zip(
        before.state_dict(keep_vars=True).items(),
        model.state_dict(keep_vars=True).values(),
        strict=True,
    ):
        assert torch.equal(old, new), name
        assert old.requires_grad == new.requires_grad, name
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]


def test_buffers_are_the_checkpoints_and_not_the_models():
    of = CASES["batch_norm"]
    function, theta = objective(of)
    moved = {k: v + 1 if "running" in k else v for k, v in of.model().state_dict().items()}
    other = Objective(function.network, function.rows, function.network.fixed(moved))
    assert abs(other.loss(theta) - function.loss(theta)) > 1e-3


# What a pass must not be


def test_active_dropout_is_refused():
    function, theta = objective(
        model_task(lambda: Forward(lambda x: functional.dropout(x, 0.5, training=True)))
    )
    with pytest.raises(SharpError, match="two evaluations of the same batch differ") as caught:
        check_deterministic(function, theta)
    assert "F.dropout needs training=self.training" in caught.value.hint


def test_a_dropout_module_that_predict_switches_on_is_named():
    def predict(model, batch):
        model[1].train()
        return model(batch[0])

    model = model_task(
        lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 3)), predict=predict
    )
    function, theta = objective(model)
    with pytest.raises(SharpError, match=r"active dropout in 1 \(Dropout\)"):
        check_deterministic(function, theta)


def test_dropout_is_off_by_itself():
    function, theta = objective(
        model_task(lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 3)).train())
    )
    check_deterministic(function, theta)


def test_batch_norm_that_predict_puts_into_train_mode_is_refused():
    def predict(model, batch):
        return model.train()(batch[0])

    of = task(CASES["batch_norm"].model, lambda n, g: CASES["batch_norm"].data("train"))
    function, theta = objective(task(of.model, lambda n, g: of.data("train"), predict=predict))
    with pytest.raises(SharpError, match=r"changes the buffer '1\.(running|num)") as caught:
        check_deterministic(function, theta)
    assert "evaluation mode in predict" in caught.value.hint


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_a_fixed_function(name):
    function, theta = objective(CASES[name])
    check_deterministic(function, theta)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda o, b: functional.cross_entropy(o, b[1]),
            "loss gave a single number for a batch of 23",
        ),
        (
            lambda o, b: functional.cross_entropy(o, b[1]).item(),
            "loss gave a value of type float for a batch",
        ),
        (lambda o, b: o, r"loss gave a tensor of shape \(23, 3\) for a batch of 23 examples"),
        (
            lambda o, b: (o.sum(), torch.ones(23)),
            r"sum of shape \(\) and a weight of shape \(23,\)",
        ),
        (lambda o, b: (o, torch.ones_like(o)), r"sum of shape \(23, 3\)"),
    ],
)
def test_a_loss_that_is_already_a_mean_or_of_another_shape_is_refused(loss, said):
    function, theta = objective(model_task(lambda: mlp(5, 3), loss=loss), batch_size=23)
    with pytest.raises(SharpError, match=said) as caught:
        function.loss(theta)
    hints = ("one value for each example", "of shape (23,)", ".flatten(1).mean(1)")
    assert any(hint in caught.value.hint for hint in hints)


def test_a_metric_of_a_wrong_shape_is_named():
    function, theta = objective(
        model_task(lambda: mlp(5, 3), metrics=lambda o, b: {"top5": torch.tensor(0.5)})
    )
    with pytest.raises(SharpError, match="metric 'top5' gave"):
        function.evaluate(theta)


def test_all_tokens_ignored_is_said():
    def ignored(count, generator):
        words, targets = tokens(count, generator)
        return words, torch.full_like(targets, defaults.IGNORED)

    function, theta = objective(task(CASES["attention"].model, ignored))
    for measure in (function.loss, function.gradient, function.evaluate):
        with pytest.raises(SharpError, match="every target of the data is ignored"):
            measure(theta)


def test_a_loss_that_does_not_depend_on_the_parameters_is_said():
    detached = model_task(lambda: mlp(5, 3), predict=lambda model, batch: model(batch[0]).detach())
    function, theta = objective(detached)
    with pytest.raises(SharpError, match="the loss has no gradient") as caught:
        function.gradient(theta)
    assert "no_grad" in caught.value.hint


# NaN and Inf


def test_a_nan_loss_names_the_first_module_and_the_examples():
    class Logarithm(nn.Module):
        def forward(self, inputs):
            return inputs.log()

    def data(count, generator):
        inputs, targets = vectors(5, 3)(count, generator)
        inputs = inputs.abs()
        inputs[9] = -1
        return inputs, targets

    of = task(lambda: nn.Sequential(nn.Identity(), Logarithm(), nn.Linear(5, 3)), data)
    function, theta = objective(of, batch_size=4)
    value = function.loss(theta)
    with pytest.raises(SharpError, match="the output of '1' is not finite for example 9 of "):
        check_finite(function, value, theta)


def test_a_nan_gradient_names_the_parameter():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Linear(5, 3)
            self.zero = nn.Parameter(torch.zeros(3))

        def forward(self, inputs):
            return self.fine(inputs) + self.zero.square().sum().sqrt()

    function, theta = objective(model_task(Root))
    value, gradient = function.gradient(theta)
    with pytest.raises(SharpError, match="the gradient is not finite, first in 'zero'"):
        check_finite(function, value, theta, gradient)


# Arithmetic


def test_the_encoder_never_takes_its_inference_only_path(monkeypatch):
    def taken(*_):
        raise AssertionError("the inference-only path was taken")

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", taken)
    of = CASES["encoder"]
    with torch.no_grad(), pytest.raises(AssertionError, match="inference-only"):
        of.model().eval()(of.data("train")[0])
    function, theta = objective(of)
    function.loss(theta)
    function.evaluate(theta)
    check_deterministic(function, theta)


def test_the_switches_of_exact_arithmetic_are_put_back():
    def switches():
        return (
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.is_grad_enabled(),
        )

    before = switches()
    with exact_arithmetic():
        assert switches()[:5] == (False, False, False, True, False)
    assert switches() == before
    with pytest.raises(ZeroDivisionError), exact_arithmetic():
        _ = 1 / 0
    assert switches() == before


def test_bfloat16_computes_narrow_and_keeps_theta():
    narrow, theta = objective(CASES["tanh"], "bfloat16")
    assert theta.dtype == torch.float32
    value, gradient = narrow.gradient(theta)
    assert gradient.dtype == torch.float32
    assert 1e-5 < relative(value, dense_loss("tanh")) < 2e-2
    assert 1e-4 < relative(gradient, dense_gradient("tanh")) < 5e-2


# Memory


def hungry(limit, of=CASES["tanh"]):
    """A task whose forward pass runs out of memory above `limit` examples."""
    seen = []

    def predict(model, batch):
        seen.append(len(batch[0]))
        if len(batch[0]) > limit:
            raise torch.OutOfMemoryError("tried to allocate 9.00 GiB")
        return model(batch[0])

    return task(of.model, lambda n, g: of.data("train"), predict=predict), seen


def test_out_of_memory_halves_the_batch_and_changes_nothing():
    of, seen = hungry(6)
    function, theta = objective(of, batch_size=20)
    value, gradient = function.gradient(theta)
    assert max(seen) == 20
    assert function.batch_size == 5
    whole, _ = objective(CASES["tanh"])
    true, true_gradient = whole.gradient(theta)
    assert value == pytest.approx(true, rel=1e-13)
    assert relative(gradient, true_gradient) <= 1e-13


def test_what_does_not_fit_at_all_says_so():
    of, _ = hungry(0)
    function, theta = objective(of, batch_size=4)
    with pytest.raises(SharpError, match=r"out of memory on cpu with batches of 1 .*9\.00 GiB"):
        function.loss(theta)


def test_other_errors_of_the_runtime_pass_through():
    def predict(model, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    function, theta = objective(model_task(lambda: mlp(5, 3), predict=predict), batch_size=4)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        function.loss(theta)


def test_the_batch_is_chosen_evenly_and_never_beyond_the_data():
    function, _ = objective(CASES["tanh"])
    assert 1 <= function.batch_size <= 23
    assert function.saved_bytes > 0
    given, _ = objective(CASES["tanh"], batch_size=1000)
    assert given.batch_size == 23


def test_a_microbatch_saves_twice_the_bytes_of_the_parameters_at_least(monkeypatch):
    whole, _ = objective(CASES["tanh"])
    assert whole.batch_size == 23
    monkeypatch.setattr("sharpcli.objective.batch_size._MICROBATCH_BYTES", {"cpu": 1})
    function, _ = objective(CASES["tanh"])
    most = 2 * function.size * 8 / function.saved_bytes
    assert function.most_at_once == int(most)
    assert function.batch_size <= most


# Sampling


def test_the_sampling_error_is_the_scatter_over_samples():
    of = task(lambda: mlp(5, 3), real_targets(5, 3), loss=squared_error, metrics=None, train=400)
    whole, theta = objective(of)
    true = whole.evaluate(theta).loss
    assert true.sampling_error is None
    found = [objective(of, samples=100, seed=seed)[0].evaluate(theta).loss for seed in range(60)]
    scatter = float(torch.tensor([mean.value for mean in found]).std())
    errors = torch.tensor([mean.sampling_error for mean in found])
    assert float(errors.mean()) == pytest.approx(scatter, rel=0.25)
    within = [abs(m.value - true.value) <= 3 * m.sampling_error for m in found]
    assert sum(within) >= 58


def test_a_power_evens_out_the_examples():
    function, theta = objective(CASES["tanh"], batch_size=5)
    value, gradient = function.gradient(theta, power=0.3)
    of = CASES["tanh"]
    model = of.model().double()
    inputs, targets = of.data("train")
    losses = functional.cross_entropy(model(inputs.double()), targets, reduction="none")
    mean = (losses**0.3).mean()
    true = torch.autograd.grad(mean, list(model.parameters()))
    assert value == pytest.approx(mean.item(), rel=1e-13)
    assert relative(gradient, torch.cat([part.flatten() for part in true])) <= 1e-12


@pytest.mark.parametrize("name", ["tanh", "conv", "ignored_tokens", "tied", "mapping"])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_losses_at_many_points_are_each_point_s_own(name, batch_size):
    at, theta = objective(CASES[name], batch_size=batch_size)
    generator = torch.Generator().manual_seed(0)
    thetas = theta + 0.1 * torch.randn(4, len(theta), generator=generator).to(theta)
    alone = [at.loss(each) for each in thetas]
    assert at.losses(thetas).tolist() == pytest.approx(alone, rel=1e-12)


def test_another_precision_is_tried_and_left_where_work_fails():
    function, theta = objective(CASES["tanh"], "float32")
    value, kind = function.try_in(
        torch.float64, theta, lambda there, point: (there.loss(point), point.dtype)
    )
    assert value == pytest.approx(function.loss(theta), rel=1e-5)
    assert kind == torch.float64

    def fails(there, point):
        raise TypeError("a model of float32")

    assert function.try_in(torch.float64, theta, fails) is None


def test_a_batch_of_a_training_has_the_rows_of_its_indices():
    images = torch.randn(6, 2, 3, 3).to(memory_format=torch.channels_last)
    for batch in ((torch.randn(6, 2), torch.arange(6)), (images, torch.arange(6)), [images]):
        rows = Rows(batch, 6, 6)
        chosen = torch.tensor([4, 1, 5])
        found, expected = rows.batch_of(chosen), rows.take(chosen).batch
        assert type(found) is type(batch)
        assert all(map(torch.equal, found, expected))
        assert all(a.stride() == b.stride() for a, b in zip(found, expected, strict=True))
