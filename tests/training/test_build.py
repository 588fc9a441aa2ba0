"""Optimizers against plain float64 loops, and those that need more than one gradient a step."""

import math
from dataclasses import replace

import numpy as np
import plain_loops as plain
import pytest
import torch
from torch import nn

from sharpcli.errors import SharpError, UsageError
from sharpcli.training import TrainSettings, catalogue
from sharpcli.training.build import take_step, tensors_together
from sharpcli.training.loop import train

STEPS = 100


@pytest.fixture
def in_float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def weights(**settings):
    trained = train(plain.task(), TrainSettings(batch_size=24, epochs=STEPS, **settings))
    return trained.tensors["weight"][0].numpy()


def check(found, expected, tolerance=1e-9):
    assert np.linalg.norm(expected - plain.START) > 0.1
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.usefixtures("in_float64")
def test_torch_optimizers_against_their_formulas():
    constant = [0.03] * STEPS
    check(weights(lr=0.03, momentum=0.9, weight_decay=0.1), plain.sgd(constant, 0.9, 0.1))
    found = weights(optimizer="adam", lr=0.03, betas=(0.8, 0.95), weight_decay=0.1)
    check(found, plain.adam(constant, (0.8, 0.95), 0.1))
    found = weights(optimizer="AdamW", lr=0.03, weight_decay=0.1, optimizer_options={"eps": 1e-3})
    check(found, plain.adam(constant, decay=0.1, decoupled=True, eps=1e-3))


def falling(step):
    return 0.05 * 0.98**step


@pytest.mark.usefixtures("in_float64")
def test_schedules_against_the_formulas(monkeypatch):
    plain.with_schedule(monkeypatch, falling)
    rates = [falling(step) for step in range(STEPS)]
    found = weights(schedule="any", momentum=0.9, weight_decay=0.1)
    check(found, plain.sgd(rates, 0.9, 0.1))
    check(weights(optimizer="adam", schedule="any"), plain.adam(rates))
    found = weights(optimizer="adamw", schedule="any", weight_decay=0.1)
    check(found, plain.adam(rates, decay=0.1, decoupled=True))


@pytest.mark.usefixtures("in_float64")
def test_clipping_and_averaging_against_their_formulas():
    check(weights(lr=0.03, clip_norm=0.5), plain.sgd([0.03] * STEPS, clip=0.5))
    check(weights(lr=0.03, ema=0.9), plain.sgd([0.03] * STEPS, average=0.9))
    check(weights(lr=0.03, swa=20), plain.sgd([0.03] * STEPS, swa=20))  # a step is an epoch
    check(weights(lr=0.03, swa=0.75), plain.sgd([0.03] * STEPS, swa=75))
    check(weights(lr=0.03, swa=10_000), plain.sgd([0.03] * STEPS))


@pytest.mark.usefixtures("in_float64")
def test_a_batch_in_parts_is_the_same_batch():
    check(weights(lr=0.03, accumulate=5), weights(lr=0.03), 1e-12)


@pytest.mark.usefixtures("in_float64")
def test_ademamix_against_its_formula():
    pytest.importorskip("pytorch_optimizer")
    shared = {"optimizer": "AdEMAMix", "lr": 0.01, "weight_decay": 0.1}
    options = {"betas": "0.9,0.99,0.999", "alpha": 2, "weight_decouple": True}
    found = weights(**shared, optimizer_options=options)
    check(found, plain.ademamix([0.01] * STEPS, (0.9, 0.99, 0.999), 2.0, 0.1))
    found = weights(**shared, optimizer_options={**options, "t_alpha_beta3": STEPS})
    check(found, plain.ademamix([0.01] * STEPS, (0.9, 0.99, 0.999), 2.0, 0.1, over=STEPS))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.usefixtures("in_float64")
def test_sam_against_its_formula(adaptive):
    options = {"rho": 0.2, "adaptive": adaptive}
    found = weights(optimizer="SAM", lr=0.005, momentum=0.5, optimizer_options=options)
    check(found, plain.sam([0.005] * STEPS, 0.2, 0.5, adaptive=adaptive))


@pytest.mark.usefixtures("in_float64")
def test_asam_has_the_radius_and_the_eta_of_its_paper():
    found = weights(optimizer="asam", lr=0.005)
    check(found, plain.sam([0.005] * STEPS, 0.5, adaptive=True, eta=0.01))


@pytest.mark.usefixtures("in_float64")
def test_sam_clips_the_gradient_that_it_steps_with():
    found = weights(optimizer="sam", lr=0.03, clip_norm=0.5, accumulate=3)
    check(found, plain.sam([0.03] * STEPS, 0.05, clip=0.5))


def test_sam_stays_where_the_gradient_vanishes():
    weight = torch.ones(3, requires_grad=True)
    optimizer = TrainSettings("SAM").kind.build([weight], TrainSettings("SAM"))

    def gradient():
        weight.grad = torch.zeros(3)
        return weight.sum()

    take_step(optimizer, gradient, gradient())
    assert torch.equal(weight, torch.ones(3))


def test_sam_in_float32_has_the_weights_back_before_its_step():
    """θ + e − e is not θ: at a rate of almost nothing the weights stay bit for bit."""
    settings = TrainSettings("SAM", lr=1e-30, batch_size=8, epochs=3)
    found = train(plain.task(), settings).tensors["weight"][0]
    assert torch.equal(found, torch.tensor(plain.START).float())


def seen_by(optimizer):
    """The masks of dropout of each pass in a step, and the counter of batch normalisation."""
    masks = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(4, affine=False), nn.Linear(4, 1)

        def forward(self, inputs):
            mask = nn.functional.dropout(torch.ones(24, 4), 0.5, self.training)
            if self.training:
                masks.append(mask)
            return self.last(self.norm(inputs) * mask[: len(inputs)])

    task = replace(plain.task(), model=Model)
    trained = train(task, TrainSettings(optimizer, lr=0.01, batch_size=24, epochs=3))
    return masks, trained.tensors


def test_both_passes_of_sam_see_one_mask_and_count_once():
    (once, of_sgd), (twice, of_sam) = seen_by("sgd"), seen_by("SAM")
    taken = twice[-6:]
    assert all(
        torch.equal(first, second) for first, second in zip(taken[::2], taken[1::2], strict=True)
    )
    assert not torch.equal(taken[0], taken[2])
    assert all(map(torch.equal, taken[::2], once[-3:]))
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(of_sam[name], of_sgd[name])


@pytest.mark.usefixtures("in_float64")
def test_lbfgs_evaluates_the_loss_itself():
    trained = train(plain.task(), TrainSettings("LBFGS", batch_size=24, epochs=5))
    solution = np.linalg.lstsq(plain.INPUTS, plain.TARGETS, rcond=None)[0]
    assert np.abs(trained.tensors["weight"][0].numpy() - solution).max() < 1e-5


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon since 2.9")
def test_muon_takes_matrices_and_adamw_the_rest():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    theirs = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    theirs.load_state_dict(ours.state_dict())
    settings = TrainSettings("muon", lr=0.01, weight_decay=0.2, optimizer_options={"ns_steps": 3})
    both = settings.kind.build(ours.parameters(), settings)
    parts = (
        torch.optim.Muon(
            [theirs[0].weight, theirs[2].weight], lr=0.01, weight_decay=0.2, ns_steps=3
        ),
        torch.optim.AdamW([theirs[0].bias, theirs[2].bias], lr=0.01, weight_decay=0.2),
    )
    inputs = torch.randn(30, 4)
    for _ in range(5):
        for model, optimizers in ((ours, (both,)), (theirs, parts)):
            model.zero_grad()
            model(inputs).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
        for group in (*both.param_groups, *(p.param_groups[0] for p in parts)):
            group["lr"] *= 0.5
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert len(both.state) == 4


def test_schedule_free_weights_are_those_to_evaluate():
    library = pytest.importorskip("pytorch_optimizer")
    settings = TrainSettings("ScheduleFreeSGD", lr=0.1, batch_size=24, epochs=9)
    weight = nn.Parameter(torch.tensor(plain.START, dtype=torch.float32)[None])
    optimizer = library.ScheduleFreeSGD([weight], lr=0.1)
    optimizer.train()
    inputs, targets = torch.tensor(plain.INPUTS).float(), torch.tensor(plain.TARGETS).float()
    for _ in range(9):
        weight.grad = None
        ((inputs @ weight[0] - targets).square() / 2).mean().backward()
        optimizer.step()
    optimizer.eval()
    found = train(plain.task(), settings).tensors["weight"]
    assert torch.allclose(found, weight, rtol=1e-5)


NEEDED = {"bsam": {"num_data": 24}, "ranger21": {"num_iterations": 100}}


@pytest.mark.parametrize("name", catalogue.names())
def test_every_optimizer_takes_steps_or_says_why_it_cannot(name):
    if catalogue.names()[name].partition(":")[2] in catalogue.REFUSED:
        with pytest.raises(UsageError, match="cannot be used: it "):
            TrainSettings(name)
        return
    settings = TrainSettings(name, batch_size=8, epochs=5, optimizer_options=NEEDED.get(name, {}))
    try:
        found = train(plain.task(), settings)
    except SharpError as error:
        assert "cannot take a step on this model" in error.message
        return
    assert math.isfinite(found.train_loss)
    assert not torch.equal(found.tensors["weight"][0], torch.tensor(plain.START).float())


def test_an_option_that_an_optimizer_needs():
    pytest.importorskip("pytorch_optimizer")
    with pytest.raises(UsageError, match=r"BSAM: .*num_data"):
        train(plain.task(), TrainSettings("bsam"))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Muon"])
def test_tensors_that_a_step_takes_together_get_the_same_numbers(name):
    if not hasattr(torch.optim, name):
        pytest.skip("PyTorch has Muon since 2.9")

    def weights(*, together):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        settings = TrainSettings(name, lr=0.01)
        optimizer = settings.kind.build(model.parameters(), settings)
        if together:
            tensors_together(optimizer)
            assert any(group.get("foreach") for group in optimizer.param_groups)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(30, 4)).square().mean().backward()
            optimizer.step()
        return [*model.parameters()]

    assert all(map(torch.equal, weights(together=True), weights(together=False)))


def test_an_implementation_that_was_chosen_stays():
    settings = TrainSettings("adam", optimizer_options={"foreach": False})
    optimizer = settings.kind.build([torch.zeros(2, requires_grad=True)], settings)
    tensors_together(optimizer)
    assert optimizer.param_groups[0]["foreach"] is False
