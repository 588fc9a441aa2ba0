"""On a CUDA device: the same numbers as the dense reference on the CPU gives."""

import pytest
import torch
from networks import (
    CASES,
    dense_eigenvalues,
    dense_empirical_fisher,
    dense_gauss_newton,
    dense_hessian,
    relative,
    task,
)
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

import sharpcli
from sharpcli.checkpoint import save_checkpoint
from sharpcli.curvature import make_operator
from sharpcli.linalg.quadrature import quadrature
from sharpcli.runs.measure import measure_model
from sharpcli.runs.study import prepare
from sharpcli.runtime.devices import resolve_device

pytestmark = pytest.mark.gpu


def _measured(name, device, dtype):
    of = CASES[name]
    return measure_model(
        of.model(),
        of.data("train"),
        of.data("test"),
        loss=of.loss,
        predict=of.predict,
        metrics=of.metrics,
        run=RunSettings(device=device, dtype=dtype),
        settings=MeasureSettings(tol=1e-7, epsilons=(1e-3,)),
    ).results[0]


def _convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )


def test_a_gpu_is_what_auto_takes():
    assert resolve_device("auto").type == "cuda"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_eigenvalues_and_trace_are_the_dense_ones(name, dtype):
    found = _measured(name, "cuda", dtype).measures
    bar = 1e-8 if dtype == "float64" else 1e-4
    largest = dense_eigenvalues(name).max()
    for eigenvalue, true in zip(
        found["hessian"]["eigenvalues"], dense_eigenvalues(name), strict=False
    ):
        assert abs(eigenvalue.value - float(true)) <= bar * float(largest.abs())
        assert abs(eigenvalue.value - float(true)) <= eigenvalue.error
    true = float(dense_hessian(name).trace())
    assert abs(found["trace"]["value"] - true) <= 4 * found["trace"]["error"] + bar * abs(true)


@pytest.mark.parametrize("name", CASES)
def test_epsilon_sharpness_is_the_cpu_s(name):
    there, here = (
        _measured(name, device, "float64").measures["epsilon_sharpness"][0]["value"]
        for device in ("cuda", "cpu")
    )
    assert abs(there - here) <= 1e-6 * abs(here)


def test_convolutions_keep_float32_in_backward_passes_too():
    """TF32, which cuDNN takes unless told not to, gave a net like this an error of 3e-5."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 1, 8, 8, generator=generator)
    targets = torch.randint(0, 10, (256,), generator=generator)
    of = task(_convolutions, lambda *_: (inputs, targets), metrics=None)
    found = {}
    for dtype in ("float32", "float64"):
        study = prepare(of, RunSettings(device="cuda", dtype=dtype), resolve_device("cuda"))
        tensors = of.model().state_dict()
        function, theta = study.objectives(tensors)["train"], study.network.flatten(tensors)
        _, gradient = function.gradient(theta)
        found[dtype] = (gradient, make_operator(function, theta) @ torch.ones_like(theta))
    for single, double in zip(found["float32"], found["float64"], strict=True):
        assert float((single - double).norm()) <= 4e-6 * float(double.norm())


def test_global_random_states_stay_on_the_device():
    before = torch.cuda.get_rng_state()
    _measured(next(iter(CASES)), "cuda", "float32")
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("operator", ["ggn", "empirical-fisher"])
@pytest.mark.parametrize("name", CASES)
def test_gauss_newton_and_fisher_products_are_the_dense_ones(name, operator):
    dense = {"ggn": dense_gauss_newton, "empirical-fisher": dense_empirical_fisher}[operator](name)
    function, theta = _on_the_device(CASES[name], "float64")
    made = make_operator(function, theta, CurvatureSettings(operator))
    assert relative((made @ theta).cpu(), dense @ theta.cpu()) <= 1e-11


@pytest.mark.parametrize("hvp", ["auto", "double-backward", "finite-difference"])
@pytest.mark.parametrize("name", CASES)
def test_every_mode_of_a_product_gives_the_dense_hessian_s(name, hvp):
    function, theta = _on_the_device(CASES[name], "float32")
    made = make_operator(function, theta, CurvatureSettings(hvp=hvp))
    assert relative((made @ theta).cpu(), dense_hessian(name) @ theta.double().cpu()) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_density_is_the_cpu_s_wherever_its_bases_lie(name):
    here, theta = _on_the_device(CASES[name], "float64", "cpu")
    of = quadrature(make_operator(here, theta), probes=2, steps=5)
    there, theta = _on_the_device(CASES[name], "float64")
    operator = make_operator(there, theta)
    for place in (None, torch.device("cpu")):
        found = quadrature(operator, probes=2, steps=5, basis_device=place)
        for mine, true in zip(found.moments(), of.moments(), strict=True):
            assert mine.value == pytest.approx(true.value, rel=1e-8, abs=1e-12)
            assert mine.error == pytest.approx(true.error, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", ["tanh", "conv"])
def test_a_line_s_losses_are_the_cpu_s(name, tmp_path):
    of = CASES[name]
    for file, scale in (("a", 1.0), ("b", 0.5)):
        tensors = {key: scale * tensor for key, tensor in of.model().state_dict().items()}
        save_checkpoint(tmp_path / f"{file}.safetensors", tensors, {})
    there, here = (
        sharpcli.interpolate_checkpoints(
            [tmp_path / "a.safetensors", tmp_path / "b.safetensors"],
            of,
            run=RunSettings(device=device, dtype="float64"),
            settings=sharpcli.InterpolateSettings(sharpcli.GridSettings(points=(7,))),
        ).results[0]
        for device in ("cuda", "cpu")
    )
    for split, curve in here.curves.items():
        assert there.curves[split]["loss"] == pytest.approx(curve["loss"], rel=1e-10)


def _on_the_device(of, dtype, device="cuda"):
    study = prepare(of, RunSettings(device=device, dtype=dtype), resolve_device(device))
    tensors = of.model().state_dict()
    return study.objectives(tensors)["train"], study.network.flatten(tensors)
