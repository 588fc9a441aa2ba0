"""Eigenvectors in a file: they are eigenvectors, and the metadata say of what."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from sharpcli.cli.main import sharp


def _run(*words):
    return CliRunner().invoke(sharp, [*map(str, words), "--quiet"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    for seed in (0, 1):
        options = ("-O", "width=4", "--steps", 3, "--seed", seed)
        done = _run("train", "digits", *options, "--output", folder / f"m{seed}.safetensors")
        assert done.exit_code == 0, done.output
    return folder


def test_vectors_are_saved_by_rank_and_parameter(trained):
    path = trained / "v.safetensors"
    base = ("-m", "hessian", "-k", 2, "--samples", 64, "--save-vectors", path)
    done = _run("measure", trained / "m0.safetensors", *base, "--json")
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    with safe_open(path, "pt") as file:
        names = [*file.keys()]
        tensors = {name: file.get_tensor(name) for name in names}
        about = json.loads(file.metadata()["checkpoints"])[""]
    assert about["sha256"] == result["checkpoint"]["sha256"]
    values = [each["value"] for each in result["measures"]["hessian"]["eigenvalues"]]
    assert [each["value"] for each in about["eigenvalues"]] == values
    flat = [
        torch.cat([t.reshape(-1) for n, t in tensors.items() if n.startswith(f"{rank}/")])
        for rank in (0, 1)
    ]
    assert [float(v.norm()) for v in flat] == pytest.approx([1, 1], abs=1e-5)
    assert float(flat[0] @ flat[1]) == pytest.approx(0, abs=1e-4)
    assert {name.partition("/")[2] for name in tensors} >= {"1.weight", "1.bias"}
    several = _run("measure", trained / "m0.safetensors", trained / "m1.safetensors", *base)
    assert several.exit_code == 0, "a file of eigenvectors may be replaced"
    with safe_open(path, "pt") as file:
        names = [*file.keys()]
    assert {name.split("/")[0] for name in names} == {"m0", "m1"}


def test_other_files_and_measures_are_refused(trained):
    one, other = trained / "m0.safetensors", trained / "m1.safetensors"
    done = _run("measure", one, "-m", "hessian", "--save-vectors", other)
    assert done.exit_code == 2
    assert "is there already and holds no eigenvectors" in done.output
    done = _run("measure", one, "-m", "loss", "--save-vectors", trained / "w.safetensors")
    assert "add -m hessian" in done.output
    done = _run("measure", one, "-m", "hessian", "--save-vectors", trained / "w.pt")
    assert "are saved as safetensors" in done.output
