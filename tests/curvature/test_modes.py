"""Orders of differentiation: each right or refused, and which one is taken."""

import pytest
import torch
from networks import CASES, context, dense_hessian, objective, relative
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings

from sharpcli.curvature import make_operator, modes, self_check
from sharpcli.curvature.modes import MODES, Modes, choose_modes
from sharpcli.documents.results import to_document
from sharpcli.errors import SharpError
from sharpcli.measures.hessian import hessian
from sharpcli.render.pages.measurements import measure_page
from sharpcli.runs.measure import measure_model
from sharpcli.runs.preflight import check_curvature
from sharpcli.runs.study import prepare

# What PyTorch's forward mode lacks or has wrong on these networks.
MISSING = {("mapping", "forward-over-reverse")}  # the derivative of SiLU's backward pass
WRONG = {("layer_norm", "reverse-over-forward"), ("encoder", "reverse-over-forward")}
USUAL = Modes("double-backward", "double-backward")


def block(size):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_each_mode_gives_the_dense_hessian_or_fails_its_check(name, mode):
    function, theta = objective(CASES[name], batch_size=10)
    made = make_operator(function, theta, CurvatureSettings(hvp=mode))
    vectors = block(function.size)
    if (name, mode) in MISSING:
        with pytest.raises(SharpError, match="no second derivative"):
            made @ vectors
        return
    right = (name, mode) not in WRONG
    assert self_check(function, theta, mode=mode).passed == right
    if right:
        assert relative(made @ vectors, dense_hessian(name) @ vectors) <= 1e-12


@pytest.mark.parametrize("name", ["conv", "layer_norm", "encoder", "mapping", "tanh"])
def test_no_wrong_or_missing_mode_is_taken_however_slow_the_right_one(name, monkeypatch):
    monkeypatch.setattr(modes, "_UNBEATEN", 0.0)
    monkeypatch.setattr(modes, "_CLEARLY", 1e9)
    function, theta = objective(CASES[name], "float32", batch_size=10)
    chosen = choose_modes(function, theta)
    assert chosen.kept != "double-backward" or name == "mapping"
    for mode in (chosen.kept, chosen.passing):
        assert (name, mode) not in WRONG | MISSING
    for memory in (None, 0):
        made = make_operator(function, theta, CurvatureSettings(memory=memory))
        vectors = block(function.size).float()
        assert relative(made @ vectors, dense_hessian(name) @ vectors.double()) <= 1e-5


def test_a_mode_that_a_model_cannot_be_run_in_is_passed_over(monkeypatch):
    def fails(*_):
        raise RuntimeError("you are attempting to call Tensor.requires_grad_() inside jvp")

    monkeypatch.setattr(modes, "_UNBEATEN", 0.0)
    monkeypatch.setattr(modes, "_CLEARLY", 1e9)
    for name in ("forward-over-reverse", "reverse-over-forward"):
        monkeypatch.setitem(MODES, name, fails)
    assert choose_modes(*objective(CASES["tanh"], batch_size=10)) == USUAL


def test_a_choice_is_made_once_for_a_network_and_costs_no_product():
    function, theta = objective(CASES["conv"])
    assert choose_modes(function, theta) is choose_modes(function, theta * 2)
    assert make_operator(function, theta).products == 0


def test_a_product_that_none_can_beat_is_not_rivalled(monkeypatch):
    monkeypatch.setattr(modes, "_UNBEATEN", 1e9)
    monkeypatch.setitem(MODES, "forward-over-reverse", None)  # which would fail if it were called
    function, theta = objective(CASES["conv"])
    assert choose_modes(function, theta) == USUAL


def test_a_mode_that_is_forced_is_the_one_that_is_checked():
    of = CASES["layer_norm"]
    study = prepare(of, RunSettings(device="cpu"), torch.device("cpu"))
    tensors = of.model().state_dict()
    for mode in MODES:
        check = check_curvature(study, tensors, [], CurvatureSettings(hvp=mode))
        assert check.passed == (mode != "reverse-over-forward")
    for other in (CurvatureSettings("ggn"), CurvatureSettings(hvp="finite-difference")):
        assert check_curvature(study, tensors, [], other).passed


@pytest.mark.parametrize("name", ["tanh", "conv", "attention"])
def test_products_in_bfloat16_have_its_error_and_sum_in_float32(name):
    function, theta = objective(CASES[name], "bfloat16")
    vectors = block(function.size).to(theta)
    true = dense_hessian(name) @ vectors.double()
    for operator in ("hessian", "ggn"):
        found = make_operator(function, theta, CurvatureSettings(operator)) @ vectors
        assert found.dtype == torch.float32
    found = make_operator(function, theta) @ vectors
    error = float((found - true).norm() / true.norm())
    assert 1e-4 < error < 0.1  # a number in bfloat16 has three digits
    # A sum in bfloat16 would grow the error with the number of batches.
    split, _ = objective(CASES[name], "bfloat16", batch_size=1)
    found = make_operator(split, theta) @ vectors
    assert float((found - true).norm() / true.norm()) < 2 * error


def test_a_checkpoint_in_bfloat16_is_measured_in_float32():
    of = CASES["tanh"]
    stored = {name: tensor.bfloat16() for name, tensor in of.model().state_dict().items()}
    study = prepare(of, RunSettings(device="cpu"), torch.device("cpu"))
    theta = study.network.flatten(stored)
    assert theta.dtype == torch.float32
    single = study.objectives(stored)["train"]
    double, wide = objective(of)
    wide.copy_(theta)
    vectors = block(single.size)
    found = make_operator(single, theta) @ vectors.float()
    assert relative(found, make_operator(double, wide) @ vectors) <= 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_the_measure_takes_the_mode(mode):
    shared = context(CASES["conv"], curvature=CurvatureSettings(hvp=mode))
    found = hessian(shared)["hessian"]["eigenvalues"]
    true = torch.linalg.eigvalsh(dense_hessian("conv")).flip(0)
    for scalar, value in zip(found, true.tolist(), strict=False):
        assert abs(scalar.value - value) <= scalar.error


@pytest.mark.parametrize(("name", "noted"), [("attention", 1), ("encoder", 1), ("conv", 0)])
def test_what_attention_does_is_noted_with_its_reason(name, noted):
    of = CASES[name]
    settings = MeasureSettings(measures=("hessian",), top=1)
    found = measure_model(of.model(), of.data("train"), loss=of.loss, settings=settings)
    notes = found.results[0].checkpoint["notes"]
    assert (
        sum("math kernel: its fused ones have no second derivative" in it for it in notes) == noted
    )


def test_a_table_says_which_matrix_its_eigenvalues_are_of():
    of = CASES["tanh"]
    for operator, said in (("hessian", "of the Hessian,"), ("ggn", "generalized Gauss-Newton")):
        settings = MeasureSettings(
            measures=("hessian",), top=1, curvature=CurvatureSettings(operator)
        )
        report = measure_model(of.model(), of.data("train"), loss=of.loss, settings=settings)
        assert any(said in line for line in measure_page(to_document(report)).legend)
