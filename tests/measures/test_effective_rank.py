"""The effective rank against dense eigenvalues, and the number of outliers where it is known."""

import pytest
from networks import CASES, dense_eigenvalues, mlp, task, vectors
from remembered import remembered

from sharpcli.linalg import quadrature as module
from sharpcli.measures import effective_rank as of_module
from sharpcli.measures.effective_rank import effective_rank


@pytest.mark.parametrize("case", ["tanh", "tied", "ignored_tokens"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_complete_spectrum_gives_it_exactly(case, dtype):
    values = dense_eigenvalues(case)
    true = float(values.clamp_min(0).sum() / values[0])
    given = remembered(CASES[case], None, dtype, batch_size=5)
    found = effective_rank(given)["effective_rank"]
    assert found["value"] == pytest.approx(true, rel=1e-6 if dtype == "float64" else 1e-3)
    assert found["products"] == len(values)


def test_the_interval_of_random_probes_holds_it(monkeypatch):
    of = task(lambda: mlp(8, 20, 12, 3), vectors(8, 3), train=60)
    whole = effective_rank(remembered(of, None))["effective_rank"]
    monkeypatch.setattr(of_module, "choose_probes", lambda _: 6)
    monkeypatch.setattr(of_module.SpectrumSettings, "steps", 30)
    plain = of_module.SpectrumSettings
    monkeypatch.setattr(of_module, "SpectrumSettings", lambda: plain(steps=30))
    found = effective_rank(remembered(of, None))["effective_rank"]
    assert found["products"] < whole["products"]
    assert found["error_kind"] == "standard_error"
    assert abs(found["value"] - whole["value"]) <= 3 * found["error"]
    assert module.choose_probes(100) >= 2


def test_a_sample_says_that_its_error_is_not_known():
    found = effective_rank(remembered(CASES["tanh"], None, samples=20))["effective_rank"]
    assert found["sampling_status"] == "unreliable"
    assert found["outliers"].sampling_status == "unreliable"
