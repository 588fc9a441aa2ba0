"""Sampling errors against closed forms and against the scatter over samples."""

import math

import pytest
import torch
from networks import context, mlp, real_targets, squared_error, task
from sharpcli.documents.scalars import flat_scalars
from torch import nn

from sharpcli.measures import choose, compute, known_measures
from sharpcli.measures.epsilon_sharpness import epsilon_sharpness
from sharpcli.measures.gradient import gradient
from sharpcli.measures.hessian import hessian, trace
from sharpcli.measures.loss import loss
from sharpcli.measures.sampling import degrees_of_freedom, sampled_of
from sharpcli.objective.reliability import widened
from sharpcli.objective.shards import shard_indices

TOTAL, COUNT, SEEDS = 1600, 400, 30


def regression(total=TOTAL, outputs=1):
    """Linear regression, whose loss is quadratic: an example's Hessian is 2·(x, 1)(x, 1)ᵀ."""

    def data(count, generator):
        inputs, targets = real_targets(3, outputs)(count, generator)
        return inputs * torch.tensor([0.3, 1.6, 2.5]), targets

    return task(
        lambda: nn.Linear(3, outputs),
        data,
        loss=squared_error,
        metrics=None,
        train=total,
    )


def over_samples(measure, **settings):
    """A measure's document on all of the data, and on samples of them by seed."""
    of = regression()
    whole = measure(context(of, **settings))
    return whole, [measure(context(of, samples=COUNT, seed=s, **settings)) for s in range(SEEDS)]


def covered(scalars, true):
    """The share of 95 % intervals that hold a value."""
    held = [
        abs(s.value - (s.sampling_bias or 0) - true) <= 1.96 * s.sampling_error + 1e-9
        for s in scalars
    ]
    return sum(held) / len(held)


def test_every_number_of_a_sample_has_an_error_and_none_of_all_the_data():
    def numbers(**settings):
        shared = context(regression(), top=2, **settings)
        found = flat_scalars(compute(choose(()), shared))
        return {key: each for key, each in found.items() if not key.endswith("test")}

    for key, scalar in numbers(samples=COUNT).items():
        assert scalar["sampling_error"] > 0, key
        assert math.isfinite(scalar["sampling_error"]), key
    for key, scalar in numbers().items():
        assert "sampling_error" not in scalar, key
        assert "sampling_bias" not in scalar, key


def test_the_error_of_a_trace_is_that_of_the_mean_of_the_examples_traces():
    of = regression()
    inputs, _ = of.data("train")
    traces = 2 * (inputs.double().square().sum(1) + 1)
    true = float(traces.std()) / math.sqrt(COUNT) * math.sqrt(1 - COUNT / TOTAL)
    true = widened(true, 15)  # from 16 shards
    _, found = over_samples(lambda shared: trace(shared)["trace"])
    errors = torch.tensor([each["sampling_error"] for each in found])
    assert float(errors.mean()) == pytest.approx(true, rel=0.1)
    assert float(errors.std()) < 0.3 * true


def test_the_trace_of_a_wide_network_is_told_by_probes():
    of = task(
        lambda: mlp(6, 20, 3), real_targets(6, 3), loss=squared_error, metrics=None, train=1000
    )
    found = [
        trace(context(of, samples=250, seed=seed, relative_error=0.05))["trace"]
        for seed in range(16)
    ]
    # What probes scatter from shard to shard is most of what shards show here.
    exact = [
        trace(context(of, samples=250, seed=seed, relative_error=1e-3))["trace"]["value"]
        for seed in range(16)
    ]
    scatter = float(torch.tensor(exact).std())
    expected = sum(each["sampling_error"] for each in found) / len(found)
    assert scatter <= expected <= 2 * scatter


def test_the_trace_has_one_error_with_eigenvalues_before_it_and_another_alone():
    of = task(lambda: mlp(4, 8, 3), real_targets(4, 3), loss=squared_error, metrics=None, train=200)
    alone = trace(context(of, samples=100, relative_error=0.1))["trace"]
    shared = context(of, samples=100, relative_error=0.1)
    hessian(shared)
    assert shared.quotients.shape == (16, 5)
    after = trace(shared)["trace"]
    assert after["sampling_error"] == pytest.approx(alone["sampling_error"], rel=0.5)


def test_intervals_of_both_ends_of_the_spectrum_hold_the_value_of_all_data():
    whole, found = over_samples(lambda shared: hessian(shared)["hessian"], top=2)
    for pick in (lambda h: h["eigenvalues"][0], lambda h: h["smallest"]):
        assert covered([pick(each) for each in found], pick(whole).value) >= 0.85


def test_a_gradient_of_noise_alone_has_an_interval_that_reaches_down_to_the_truth():
    of = regression()
    inputs, targets = of.data("train")
    best = torch.linalg.lstsq(
        torch.cat([inputs, torch.ones(TOTAL, 1)], 1).double(), targets.double()
    ).solution

    def at_the_minimum(seed, samples):
        shared = context(of, samples=samples, seed=seed)
        shared.theta = best[:, 0]
        return gradient(shared)["gradient"]

    whole = at_the_minimum(0, None)
    assert whole["norm"].value < 1e-12
    found = [at_the_minimum(seed, COUNT) for seed in range(SEEDS)]
    for name in ("norm", "l1", "max"):
        assert covered([each[name] for each in found], whole[name].value) >= 0.85
        assert all(each[name].error == each[name].sampling_error for each in found)


def test_the_bias_of_sharpness_is_what_maximising_over_a_sample_adds():
    def first(shared):
        return epsilon_sharpness(shared)["epsilon_sharpness"][0]

    def wide(seed=0, samples=None):
        of = task(
            lambda: mlp(10, 40, 2), real_targets(10, 2), loss=squared_error, metrics=None, train=400
        )
        shared = context(of, samples=samples, seed=seed, epsilons=(1e-3,), maximizer="corner")
        return first(shared), shared

    whole, _ = wide()
    assert "sampling_bias" not in {k for k, v in whole.items() if v is not None}
    found = [wide(seed, 64)[0] for seed in range(16)]
    added = sum(each["value"] for each in found) / len(found) - whole["value"]
    told = sum(each["sampling_bias"] for each in found) / len(found)
    assert added > 0
    assert told == pytest.approx(added, rel=0.6)


def test_a_bias_beyond_half_the_error_is_warned_of():
    shared = context(regression(), samples=40, epsilons=(1e-3,))
    entry = epsilon_sharpness(shared)["epsilon_sharpness"][0]
    said = [each for each in shared.warnings if "a maximum fits the examples" in each]
    assert bool(said) == (entry["sampling_bias"] > entry["sampling_error"] / 2)


def test_few_shards_that_stand_out_leave_few_degrees_of_freedom():
    even = torch.tensor([-1.0, 1.0] * 8)
    assert degrees_of_freedom(even, 100.0) == 15
    assert degrees_of_freedom(even, 2.5) == 5
    assert degrees_of_freedom(torch.full((16,), 3.0), math.inf) == 15
    one = torch.zeros(16)
    one[3] = 1e-20
    assert degrees_of_freedom(one, 100.0) == pytest.approx(2.449, rel=1e-3)


def skewed(total=1600):
    """Targets of which one in a hundred lies far out."""

    def data(count, generator):
        inputs, targets = real_targets(3, 1)(count, generator)
        targets[torch.randperm(count, generator=generator)[: count // 100]] += 20
        return inputs, targets

    return task(lambda: nn.Linear(3, 1), data, loss=squared_error, metrics=None, train=total)


def marks(of, **settings):
    """The status of each number's sampling error, by flat key."""
    shared = context(of, top=2, epsilons=(1e-3,), **settings)
    found = flat_scalars(compute(choose(()), shared))
    return {k: each.get("sampling_status") for k, each in found.items() if not k.endswith("test")}


def test_every_number_of_a_sample_that_may_lack_rare_examples_is_marked():
    assert set(marks(skewed(), samples=256).values()) == {"unreliable"}
    assert set(marks(skewed()).values()) == {None}


def test_numbers_of_an_ordinary_sample_are_not_marked():
    assert set(marks(regression(), samples=256).values()) == {None}


@pytest.mark.parametrize("samples", [1, 20, 64])
def test_every_number_of_a_small_sample_is_marked(samples):
    assert set(marks(regression(), samples=samples).values()) == {"unreliable"}


def test_errors_from_shards_are_wider_where_few_examples_carry_the_losses():
    def numbers(carried):
        shared = context(regression(), samples=COUNT, top=2)
        shared.carriers = carried
        measures = {**hessian(shared), **trace(shared), **gradient(shared)}
        return {k: v for k, v in flat_scalars(measures).items() if "sampling_error" in v}

    many, few, one = numbers(100.0), numbers(2.0), numbers(1.0)
    for key, scalar in many.items():
        # Student's quantile of 4 degrees of freedom, in place of 15 at most.
        ratio = few[key]["sampling_error"] / scalar["sampling_error"]
        assert 1 <= ratio <= 2.777 / 2.131 + 1e-3, key
        assert "sampling_status" not in few[key]
        assert one[key]["sampling_status"] == "unreliable"
    assert few["gradient.norm"]["sampling_error"] > 1.2 * many["gradient.norm"]["sampling_error"]


def test_carriers_are_those_of_the_losses_evaluated_or_not():
    fresh, evaluated = (context(regression(), samples=COUNT) for _ in range(2))
    assert evaluated.evaluations["train"].loss.carriers == evaluated.carriers
    assert fresh.carriers == evaluated.carriers
    assert "evaluations" not in vars(fresh)
    assert context(regression()).carriers == math.inf


def test_outliers_are_covered_or_marked():
    of = skewed()
    true = loss(context(of))["loss"]["train"].value
    found = [loss(context(of, samples=COUNT, seed=s))["loss"]["train"] for s in range(SEEDS)]
    good = [s.sampling_status or abs(s.value - true) <= 1.96 * s.sampling_error for s in found]
    assert sum(map(bool, good)) >= 0.9 * SEEDS
    assert all(s.error == s.sampling_error for s in found)


def test_too_few_examples_are_said_once_for_each_measure():
    shared = context(regression(), samples=20, top=2)
    hessian(shared)
    trace(shared)
    gradient(shared)
    few = [each for each in shared.warnings if "20 examples are too few" in each]
    assert [each.split(" of ")[1].split(":")[0] for each in few] == [
        "the eigenvalues",
        "the trace",
        "the gradient",
    ]


def test_values_by_shard_are_those_of_the_numbers():
    names = ("loss", "epsilon-sharpness", "gradient", "hessian", "trace")
    of = [known_measures()[name] for name in names]
    found = flat_scalars(compute(of, context(regression(), top=2, samples=COUNT)))
    del found["loss.test"]
    for key, number in found.items():
        shards = torch.tensor(number["shards"], dtype=torch.float64)
        assert len(shards) == (64 if key.startswith("loss") else 16), key
        error = float(shards.std()) / len(shards) ** 0.5
        off = abs(float(shards.mean()) - number["value"])
        assert off <= 3 * error + abs(number.get("sampling_shift") or 0), key
    largest = found["hessian.eigenvalues[0]"]
    assert largest["sampling_shift"] > 0
    whole = flat_scalars(compute(of, context(regression(), top=2)))
    assert not any("shards" in number for number in whole.values())


def test_a_gap_has_the_shards_of_the_sampled_split():
    found = loss(context(regression(), samples=COUNT))["loss"]
    gaps = [found["test"].value - each for each in found["train"].shards]
    assert found["gap"].shards == pytest.approx(gaps)
    assert found["test"].shards is None


def test_shards_of_the_loss_are_means_of_the_examples():
    made = context(regression(), samples=COUNT)
    sums, _ = made.objective.per_example_losses(made.theta)
    shards = [sums[each].mean() for each in shard_indices(COUNT, made.seed, 64)]
    expected = [
        float(sums.mean() + (each - sums.mean()) * n * 64 / COUNT)
        for each, n in zip(shards, map(len, shard_indices(COUNT, made.seed, 64)), strict=True)
    ]
    assert loss(made)["loss"]["train"].shards == pytest.approx(expected, rel=1e-9)


def test_sampled_of_gives_the_error_of_values_by_shard():
    made = context(regression(), samples=COUNT)
    values = [1.0, 3.0] * 8
    found = sampled_of(made, values, shift=0.1)
    first = math.sqrt(16 / 15 / 16 * (1 - COUNT / TOTAL))
    plain = math.hypot(first, 0.1)
    assert found.error == pytest.approx(widened(plain, 15.0), rel=1e-6)
    assert (found.shards, found.shift) == (values, 0.1)
    assert sampled_of(context(regression()), values).error is None
