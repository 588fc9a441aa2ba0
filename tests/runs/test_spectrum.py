"""Checkpoints and a task to a spectrum: numbers beside the dense one, failures in their place."""

import statistics

import numpy as np
import pytest
import torch
from networks import CASES, dense_eigenvalues, mlp, relative, task, vectors
from sharpcli.settings.curvature import CurvatureSettings, SpectrumSettings
from sharpcli.settings.measuring import RunSettings
from spectra import total_variation, true_moments

from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.results import to_document
from sharpcli.errors import UsageError
from sharpcli.linalg.quadrature import quadrature
from sharpcli.runs.spectrum import spectra_of_checkpoints
from sharpcli.runtime.progress import Notes, silent

DOUBLE = RunSettings(dtype="float64", device="cpu")
FEW = SpectrumSettings(probes=2, steps=20)
# A seed at which no edge of the twenty bins lies within the spike at zero.
MEDIUM = task(lambda: mlp(10, 24, 20, 5), vectors(10, 5), name="medium", train=64, seed=2)


@pytest.fixture
def saved(tmp_path):
    def save(of, name="a.safetensors"):
        path = tmp_path / name
        save_checkpoint(path, of.model().state_dict(), {})
        return path

    return save


def spectrum(paths, of, settings=None, run=DOUBLE, **more):
    document = to_document(spectra_of_checkpoints(paths, of, None, run, settings, **more))
    return document["results"]


def dense(of):
    """All eigenvalues, from products that share nothing with the command."""
    model = of.model().double()
    inputs, targets = (x.double() if x.is_floating_point() else x for x in of.data("train"))
    parameters = list(model.parameters())
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    gradient = torch.cat(
        [g.ravel() for g in torch.autograd.grad(loss, parameters, create_graph=True)]
    )
    rows = [
        torch.cat([x.ravel() for x in torch.autograd.grad(g, parameters, retain_graph=True)])
        for g in gradient
    ]
    matrix = torch.stack(rows)
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2)


def test_the_quadrature_of_a_network_against_its_dense_spectrum(saved):
    true = dense(MEDIUM)
    assert len(true) == 869
    (result,) = spectrum([saved(MEDIUM)], MEDIUM, SpectrumSettings(probes=10, steps=80))
    assert result["status"] == "ok"
    assert (result["size"], result["products"]) == (869, 800)
    grid, curve = (torch.tensor(result[key], dtype=torch.float64) for key in ("grid", "density"))
    assert total_variation(grid, curve, true) <= 0.05
    weights = np.array(result["weights"])
    edges = np.linspace(float(true.min()), float(true.max()), 21)
    nodes = np.clip(result["nodes"], edges[0], edges[-1])
    found = np.histogram(nodes, edges, weights=weights)[0]
    bins = np.histogram(true.numpy(), edges)[0] / len(true)
    assert np.abs(found - bins).sum() / 2 <= 0.05
    for moment, value in zip(result["moments"], true_moments(true), strict=True):
        assert moment["error_kind"] == "standard_error"
        assert abs(moment["value"] - value) <= 3 * moment["error"]
    for end, value in (("largest", true.max()), ("smallest", true.min())):
        assert abs(result[end]["value"] - float(value)) <= result[end]["error"]
        assert result[end]["status"] == "converged"


@pytest.mark.parametrize("name", ["tanh", "frozen"])
def test_a_small_network_is_computed_entirely(name, saved):
    (result,) = spectrum([saved(CASES[name])], CASES[name])
    true = dense_eigenvalues(name)
    assert relative(np.array(result["nodes"][::-1]), true) < 1e-10
    assert result["probes"] == result["steps"] == 0
    assert result["products"] == result["size"] == len(true)


def test_the_gauss_newton_matrix_has_nothing_below_zero(saved):
    settings = SpectrumSettings(curvature=CurvatureSettings(operator="ggn"))
    (result,) = spectrum([saved(MEDIUM)], MEDIUM, settings, RunSettings(device="cpu"))
    assert result["operator"] == "ggn"
    assert min(result["nodes"]) == min(result["grid"]) == 0


def test_the_same_seed_gives_the_same_and_another_another(saved):
    path = saved(MEDIUM)
    runs = [RunSettings(dtype="float64", device="cpu", seed=seed) for seed in (1, 1, 2)]
    nodes = [spectrum([path], MEDIUM, FEW, run)[0]["nodes"] for run in runs]
    assert nodes[0] == nodes[1] != nodes[2]


def test_the_number_of_batches_does_not_matter(saved):
    path = saved(MEDIUM)
    runs = [RunSettings(dtype="float64", device="cpu", batch_size=n) for n in (64, 24)]
    first, second = (spectrum([path], MEDIUM, FEW, run)[0] for run in runs)
    for one, other in zip(first["moments"], second["moments"], strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-9)


def test_a_checkpoint_that_fails_stays_in_its_place(saved, tmp_path):
    wrong = saved(CASES["tanh"], "wrong.safetensors")
    paths = [saved(MEDIUM), wrong, tmp_path / "missing.safetensors"]
    results = spectrum(paths, MEDIUM, FEW)
    assert [result["status"] for result in results] == ["ok", "failed", "failed"]
    assert "wrong.safetensors" in results[1]["error"]["message"]
    assert "missing.safetensors" in results[2]["error"]["message"]
    assert "nodes" not in results[1]


def test_an_interruption_keeps_what_is_finished(saved):
    begun = []

    def begin(what):
        begun.append(what)
        if what.endswith("spectrum") and sum(w.endswith("spectrum") for w in begun) == 2:
            raise KeyboardInterrupt
        return silent

    paths = [saved(MEDIUM, name) for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    results = spectrum(paths, MEDIUM, FEW, begin=begin)
    assert [result["status"] for result in results] == ["ok", "failed", "failed"]
    assert results[2]["error"]["message"] == "interrupted before it was measured"


def test_progress_counts_products(saved):
    said = []
    spectrum([saved(MEDIUM)], MEDIUM, FEW, begin=lambda _: lambda *pair: said.append(pair))
    assert said[-1] == (40, 40)


def test_few_steps_say_what_is_not_found(saved):
    (result,) = spectrum([saved(MEDIUM)], MEDIUM, SpectrumSettings(probes=2, steps=5))
    statuses = {"smallest": "max_products", "bulk_edge": "unresolved", "outliers": "unresolved"}
    for key, status in statuses.items():
        assert result[key]["status"] == status
        assert "raise steps" in result[key]["advice"]
    assert result["bulk_edge"]["error"] is None


def test_as_many_copies_as_probes_ask_for_more_probes(saved):
    """The loss Σᵢ dᵢ wᵢ²/2 with three equal dᵢ far above all others."""
    diagonal = torch.cat([torch.tensor([10.0] * 3), torch.rand(1000)])

    class Weights(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(len(diagonal)))

        def forward(self, inputs):
            return self.w * inputs

    of = task(
        Weights,
        lambda count, _: (torch.ones(count, 1), torch.zeros(count)),
        loss=lambda outputs, _: (outputs.square() * diagonal.to(outputs)).sum(1) / 2,
    )
    few, enough = (
        spectrum([saved(of)], of, SpectrumSettings(probes=probes, steps=40))[0] for probes in (2, 4)
    )
    assert few["outliers"]["status"] == few["bulk_edge"]["status"] == "unresolved"
    assert "raise probes" in few["outliers"]["advice"]
    assert (enough["outliers"]["value"], enough["outliers"]["status"]) == (3, "converged")
    assert enough["largest"]["value"] == pytest.approx(10)


def test_a_smallest_value_that_others_may_lie_below_is_an_upper_bound(saved, monkeypatch):
    path, seen = saved(MEDIUM), []

    def is_settled(value, residual):
        seen.append((value, residual))
        return False

    monkeypatch.setattr("sharpcli.runs.spectrum.is_settled", is_settled)
    (result,) = spectrum([path], MEDIUM, SpectrumSettings(probes=2, steps=30))
    assert result["smallest"]["status"] == result["smallest"]["error_kind"] == "upper_bound"
    assert result["smallest"]["error"] is None
    ((value, _),) = seen
    assert 0 < result["smallest"]["value"] - value < 1e-4  # what rounding may have taken off
    ggn = SpectrumSettings(probes=2, steps=30, curvature=CurvatureSettings(operator="ggn"))
    assert spectrum([path], MEDIUM, ggn)[0]["smallest"]["status"] == "converged"


def test_a_sample_s_numbers_have_sampling_errors_that_hold_those_of_all_data(saved):
    of = task(lambda: mlp(6, 6, 3), vectors(6, 3), name="sampled", train=1000)
    path = saved(of)
    (whole,) = spectrum([path], of)
    keys = ("largest", "smallest")
    assert not any("sampling_error" in whole[key] for key in keys)
    held, told, traces = [], [], []
    for seed in range(20):
        run = RunSettings(dtype="float64", device="cpu", samples=250, seed=seed)
        (result,) = spectrum([path], of, run=run)
        assert result["products"] == whole["products"]
        assert {"sampling_error"} <= {*result["outliers"], *result["bulk_edge"]}
        pairs = [(result[key], whole[key]["value"]) for key in keys]
        pairs += [(m, w["value"]) for m, w in zip(result["moments"], whole["moments"], strict=True)]
        held += [abs(m["value"] - true) <= 1.96 * m["sampling_error"] for m, true in pairs]
        told.append(result["moments"][0]["sampling_error"])
        traces.append(result["moments"][0]["value"])
    assert 0.85 <= sum(held) / len(held) <= 0.99
    assert statistics.fmean(told) == pytest.approx(statistics.stdev(traces), rel=0.35)


def test_a_sample_too_small_for_shards_is_said(saved):
    run = RunSettings(dtype="float64", device="cpu", samples=15)
    (result,) = spectrum([saved(MEDIUM)], MEDIUM, FEW, run)
    assert "take 16 or more" in result["warnings"][0]
    assert "sampling_error" not in result["largest"]
    assert {each["sampling_status"] for each in sampled_numbers(result)} == {"unreliable"}


def sampled_numbers(result):
    """The numbers of a spectrum that have sampling errors."""
    keys = ("largest", "smallest", "bulk_edge", "outliers")
    return [*(result[key] for key in keys), *result["moments"]]


def test_a_spectrum_of_a_sample_in_doubt_is_marked_and_warned_of_once(saved):
    def vector_and_rare_class(count, generator):
        inputs = torch.randn(count, 4, generator=generator)
        return inputs, (torch.arange(count) < count // 100).long()

    of = task(lambda: mlp(4, 3, 2), vector_and_rare_class, name="rare", train=600)
    run = RunSettings(dtype="float64", device="cpu", samples=200)
    (result,) = spectrum([saved(of)], of, FEW, run)
    assert {each["sampling_status"] for each in sampled_numbers(result)} == {"unreliable"}
    (said,) = [each for each in result["warnings"] if "unreliable" in each]
    assert said.startswith("the sampling errors of largest, smallest, bulk-edge, outliers, moments")
    assert "expected in the sample" in said
    (whole,) = spectrum([saved(of)], of, FEW)
    assert not any("sampling_status" in each for each in sampled_numbers(whole))


def test_the_plan_is_a_detail_and_so_is_how_long_it_takes(saved):
    notes, details = [], []
    said = Notes(notes.append, details.append)
    spectrum([saved(MEDIUM)], MEDIUM, SpectrumSettings(probes=2, steps=20), notes=said)
    assert notes == []
    plan, time, *_ = details
    assert "a.safetensors: " in plan
    assert "a basis of 60 vectors" in plan
    assert "100% of the graphs kept" in plan
    assert "more: 40 products in all, " in time


def test_settings_that_tell_nothing_are_refused():
    for settings in ({"probes": 1}, {"steps": 4}):
        with pytest.raises(UsageError, match="too few"):
            SpectrumSettings(**settings)


def test_the_starts_are_one_generators():
    """The quadrature takes its randomness from its seed alone."""
    from spectra import DIAGONAL, Diagonal

    torch.manual_seed(0)
    first = quadrature(Diagonal(DIAGONAL["uniform"]()), probes=2, steps=5)
    torch.manual_seed(1)
    second = quadrature(Diagonal(DIAGONAL["uniform"]()), probes=2, steps=5)
    assert first.moments() == second.moments()
