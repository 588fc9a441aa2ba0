"""`sharp interpolate`: aligned lines and paths, and what is written where."""

import csv
import io

import pytest
import torch
from explorations import (
    NAMES,
    found_by,
    run,
    strict,
)
from minima import tensors, write_minima

from sharpcli.checkpoint import save_checkpoint

SMALL = ("sgd.safetensors", "adam.safetensors", "-t", "task.py")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SHARP_TASK", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


# --align and --path.


def permuted(names):
    """Another network that computes the same function: hidden units in another order."""
    a = tensors()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(order, torch.arange(8))
    mixed = {"0.weight": a["0.weight"][order], "0.bias": a["0.bias"][order]}
    save_checkpoint(names, {**a, **mixed, "2.weight": a["2.weight"][:, order]}, {})


def test_an_aligned_permutation_has_no_barrier(folder):
    permuted(folder / "mixed.safetensors")
    found = found_by("interpolate", "sgd.safetensors", "mixed.safetensors", *SMALL[2:], "--align")
    aligned = found["aligned"]
    assert aligned["moved"] > 0
    assert aligned["groups"] == 1
    assert aligned["norm"] <= 1e-6 * found["axes"][0]["norm"]
    assert aligned["function_difference"] <= 1e-6
    for split in ("train", "test"):
        assert aligned["barrier"][split]["value"] <= 1e-6
        assert len(aligned["curves"][split]["loss"]) == 25


def test_both_lines_and_the_path_are_in_the_answer(mlps):
    paths = [str(mlps / name) for name in NAMES[:2]]
    given = ("--points", "9", "--align", "--path", "chain", "--path-steps", "150")
    found = found_by("interpolate", *paths, *given)
    line, aligned, path = found["barrier"], found["aligned"]["barrier"], found["path"]["barrier"]
    for split in ("train", "test"):
        assert aligned[split]["value"] <= line[split]["value"]
        assert path[split]["value"] < line[split]["value"]
    assert found["path"]["kind"] == "chain"
    assert found["path"]["steps"] == 150
    assert len(found["path"]["coordinates"]) == len(found["path"]["curves"]["train"]["loss"]) == 9
    ends = [found["path"]["curves"]["train"]["loss"][i] for i in (0, -1)]
    own = [c["measures"]["loss"]["train"]["value"] for c in found["checkpoints"]]
    assert ends == own
    places = found["axes"][0]["values"]
    curve = found["aligned"]["curves"]["train"]["loss"]
    assert [curve[places.index(0.0)], curve[places.index(1.0)]] == pytest.approx(own, rel=1e-5)
    shown = run("interpolate", *paths, *given)
    assert (shown.exit_code, shown.stderr) == (0, "")
    for name in ("aligned", "chain"):
        assert name in shown.stdout


@pytest.mark.parametrize("kind", ["bezier", "chain"])
def test_a_path_of_a_batch_normalised_network(cnns, kind):
    paths = [str(cnns / name) for name in NAMES[:2]]
    given = ("--points", "3", "--range", "0:1", "--path", kind, "--path-steps", "20", "--align")
    found = found_by("interpolate", *paths, *given, "--quiet")
    ends = [found["path"]["curves"]["test"]["loss"][i] for i in (0, -1)]
    assert ends == [found["curves"]["test"]["loss"][i] for i in (0, -1)]
    assert found["aligned"]["barrier"]["train"]["value"] <= found["barrier"]["train"]["value"]


# What is written where.


def test_json_is_one_strict_document():
    done = run("interpolate", *SMALL, "--json")
    document = strict(done.stdout)
    assert document["kind"] == "interpolate"
    assert document["schema"] == "sharpcli/1"
    assert document["settings"]["run"]["split"] == "both"
    assert document["settings"]["grid"]["points"] == [25]
    assert "date" not in document["environment"]
    assert run("interpolate", *SMALL, "--json").stdout == done.stdout


def test_csv_has_a_line_a_point():
    done = run("interpolate", *SMALL, "--points", "4", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [float(row["alpha"]) for row in rows] == [-1, 0, 1, 2]
    assert all(float(row[f"{split}.loss"]) > 0 for row in rows for split in ("train", "test"))


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_output_goes_to_the_file_and_nothing_else_stays(folder, form):
    done = run("interpolate", *SMALL, "--points", "4", "--format", form, "--output", "out")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "wrote out\n")
    assert "\x1b" not in (folder / "out").read_text("utf-8")
    assert [path.name for path in folder.iterdir() if path.name.startswith((".", "out."))] == []
    assert not (folder / "cache").exists()


def test_nothing_is_left_in_the_cache(folder):
    assert run("interpolate", *SMALL, "--points", "4").exit_code == 0
    assert list((folder / "cache").rglob("*.partial")) == []


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html", "npz", "vts"])
@pytest.mark.parametrize("names", [2, 3])
def test_figures_of_lines_and_planes(folder, mlps, suffix, names):
    paths = [str(mlps / name) for name in NAMES[:names]]
    figure = folder / f"figure.{suffix}"
    done = run("interpolate", *paths, "--points", "4", "--plot", str(figure), "--json")
    assert (done.exit_code, done.stderr) == (0, f"wrote {figure}\n")
    strict(done.stdout)
    assert figure.stat().st_size > 500


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("names", [2, 3])
def test_no_line_is_wider_than_the_screen(mlps, width, names):
    paths = [str(mlps / name) for name in NAMES[:names]]
    more = ["--align"] if names == 2 else []
    done = run("interpolate", *paths, "--points", "5", *more, width=width)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= width
    assert "\x1b" not in done.stdout
    if names == 3:
        assert "cosine of the axes 0" in done.stdout


def test_strict_asks_that_numbers_converge():
    assert run("interpolate", *SMALL, "--points", "4", "--strict", "--quiet").exit_code == 0
