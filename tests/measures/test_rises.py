"""Rises around θ: of batches with one sum, below what float64 resolves, and their estimates."""

import pytest
import torch
from networks import CASES, context, real_targets, squared_error, task
from sharpcli.documents.scalars import Scalar, flat_scalars
from torch import nn

from sharpcli.measures import choose, compute, options_of
from sharpcli.measures.rises import Surroundings, estimated, normal_draws, signed_draws, vanished
from sharpcli.measures.sampling import Sampled


def test_a_loss_with_one_sum_for_a_batch_has_no_sampling_error_and_says_so():
    def summed(outputs, batch):
        losses = squared_error(outputs, batch)
        return losses.sum(), torch.tensor(float(len(losses)), dtype=losses.dtype)

    of = task(lambda: nn.Linear(4, 1), real_targets(4, 1), loss=summed, metrics=None)
    own = context(of, samples=15)
    around = Surroundings(own)
    rise = around.rise(0.1 * torch.ones_like(own.theta))
    assert rise.changes is None
    assert around.scalar(rise, 0.0).sampling_status == "unreliable"
    alike = task(lambda: nn.Linear(4, 1), real_targets(4, 1), loss=squared_error, metrics=None)
    paired = Surroundings(context(alike, samples=15)).rise(0.1 * torch.ones_like(own.theta))
    assert paired.value == pytest.approx(rise.value, rel=1e-12)


def test_rises_that_float64_does_not_resolve_are_marked():
    numbers = {"mean": Scalar(1e-15), "worst": {"value": 1e-3, "status": "lower_bound"}, "rho": 1.0}
    found = vanished(numbers, "train", "too small")
    assert found["mean"].status == "precision"
    assert found["worst"] == numbers["worst"]
    assert found["rho"] == 1.0
    small = vanished({"worst": {"value": 1e-15, "status": "lower_bound"}}, "train", "too small")
    assert small["worst"]["advice"] == "too small"


def test_an_estimate_that_may_be_zero_is_unresolved():
    none = Sampled()
    assert estimated(1.0, 0.4, 0.0, none, "draws", wide=True).status == "converged"
    assert estimated(1.0, 0.6, 0.0, none, "draws", wide=True).status == "unresolved"
    assert estimated(1.0, 0.1, 0.2, none, "draws", wide=False).status == "precision"


def test_draws_do_not_depend_on_the_precision():
    for draws in (normal_draws, signed_draws):
        narrow, wide = (
            list(draws(context(CASES["tanh"], dtype), "test", 3))
            for dtype in ("float32", "float64")
        )
        for one, two in zip(narrow, wide, strict=True):
            assert torch.equal(one.double(), two)
    assert float(wide[0].abs().max()) <= 1


@pytest.mark.parametrize("samples", [1, 20, 64])
def test_every_number_of_a_small_sample_is_marked(samples):
    names = ("adaptive-sharpness", "sam-sharpness", "low-pass", "local-entropy")
    chosen = choose(names)
    of = task(
        lambda: nn.Linear(4, 1), real_targets(4, 1), loss=squared_error, metrics=None, train=400
    )
    own = context(of, samples=samples, options=options_of(chosen, {"average_draws": 2}))
    for key, each in flat_scalars(compute(chosen, own)).items():
        assert each.get("sampling_status") == "unreliable", key
