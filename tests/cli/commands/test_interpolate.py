"""`sharp interpolate`: every number held against `sharp measure` and plain PyTorch."""

import math
import shutil

import pytest
import torch
from explorations import (
    CNN,
    MLP,
    NAMES,
    combined,
    digits,
    found_by,
    plain,
    recalibrated,
    run,
    state,
    strict,
    write,
)
from minima import write_minima
from torch import nn

SMALL = ("sgd.safetensors", "adam.safetensors", "-t", "task.py")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SHARP_TASK", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


@pytest.fixture(params=["mlps", "cnns"])
def minima(request, folder):
    """Three minima of digits in the folder, and their task."""
    source = request.getfixturevalue(request.param)
    for name in NAMES:
        shutil.copy(source / name, folder / name)
    return digits(MLP if request.param == "mlps" else CNN)


def own_values(paths, *arguments):
    """What `sharp measure` says of checkpoints: measures by checkpoint."""
    found = []
    for path in paths:
        result = found_by("measure", path, "-m", "loss", *arguments)
        measures = {k: v for k, v in result["measures"].items() if k in ("loss", "accuracy")}
        found.append(
            {
                (name, split): entry[split]["value"]
                for name, entry in measures.items()
                for split in ("train", "test")
            }
        )
    return found


def values(measures):
    return {(n, s): x["value"] for n, each in measures.items() for s, x in each.items()}


# The ends and corners: `sharp measure` and, with batch norm, an independent recalibration.


def test_the_ends_of_a_line_have_the_numbers_of_measure(minima):
    found = found_by("interpolate", *NAMES[:2], "--points", "7", "--batch-norm", "interpolate")
    for index, (place, own) in enumerate(zip((0.0, 1.0), own_values(NAMES[:2]), strict=True)):
        at = found["axes"][0]["values"].index(place)
        here = {
            (name, split): curve[at]
            for split, curves in found["curves"].items()
            for name, curve in curves.items()
        }
        assert here == pytest.approx(own, rel=1e-6)
        checkpoint = found["checkpoints"][index]
        assert values(checkpoint["measures"]) == pytest.approx(own, rel=1e-6)
        assert values(checkpoint["on_surface"]) == pytest.approx(own, rel=1e-6)


def test_the_corners_of_a_plane_have_the_numbers_of_measure(minima):
    found = found_by("interpolate", *NAMES, "--points", "2x3", "--batch-norm", "interpolate")
    assert found["shape"] == [2, 3]
    for checkpoint, own in zip(found["checkpoints"], own_values(NAMES), strict=True):
        assert values(checkpoint["measures"]) == pytest.approx(own, rel=1e-6)
        assert values(checkpoint["on_surface"]) == pytest.approx(own, rel=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_batch_norm_is_recalibrated_as_by_a_training_pass(folder, cnns, count):
    paths = [str(cnns / name) for name in NAMES[:count]]
    task = digits(CNN)
    given = ("--points", "2", "--range", "0:1")
    found = found_by("interpolate", *paths, *given, "--quiet")
    assert found["batch_norm"] == "recalibrate"
    assert found["batch_norm_examples"] == 1442
    for path, checkpoint in zip(paths, found["checkpoints"], strict=True):
        expected = {
            (name, split): value
            for split in ("train", "test")
            for name, value in zip(
                ("loss", "accuracy"), recalibrated(task, state(path), split), strict=True
            )
        }
        assert values(checkpoint["on_surface"]) == pytest.approx(expected, rel=1e-6)
        (own,) = own_values([path])
        assert values(checkpoint["measures"]) == pytest.approx(own, rel=1e-6)
    if count == 2:
        ends = [found["curves"]["train"]["loss"][i] for i in (0, -1)]
        assert ends == [c["on_surface"]["loss"]["train"]["value"] for c in found["checkpoints"]]


# Every point.


def test_every_point_of_a_line_is_that_of_plain_pytorch(minima):
    found = found_by("interpolate", *NAMES[:2], "--dtype", "float64", "--quiet")
    alphas = found["axes"][0]["values"]
    assert len(alphas) == 25
    assert alphas[0] == -1
    assert alphas[-1] == 2
    assert {0.0, 1.0} <= set(alphas)
    a, b = (state(name) for name in NAMES[:2])
    reference = plain if found["batch_norm"] is None else recalibrated
    for index, alpha in enumerate(alphas):
        point = combined((1 - alpha, a), (alpha, b))
        for split in ("train", "test"):
            loss, accuracy = reference(minima, point, split)
            curves = found["curves"][split]
            assert curves["loss"][index] == pytest.approx(loss, rel=1e-10)
            assert curves["accuracy"][index] == pytest.approx(accuracy, rel=1e-12)


def test_every_point_of_a_plane_is_that_of_plain_pytorch(minima):
    given = ("--points", "3x2", "--dtype", "float64", "--quiet")
    found = found_by("interpolate", *NAMES, *given)
    first, second, third = (state(name) for name in NAMES)
    trained = [name for name, _ in minima.model().named_parameters()]

    def flat(tensors):
        return torch.cat([tensors[name].reshape(-1) for name in trained])

    to_b, to_c = flat(second) - flat(first), flat(third) - flat(first)
    u = to_b / to_b.norm()
    v = to_c - (to_c @ u) * u
    v /= v.norm()
    expected = [(0, 0), (float(to_b.norm()), 0), (float(to_c @ u), float(to_c @ v))]
    for checkpoint, place in zip(found["checkpoints"], expected, strict=True):
        assert tuple(checkpoint["coordinates"].values()) == pytest.approx(place, rel=1e-9)
        assert checkpoint["unseen"] == 0
    assert found["cosine"] == 0
    reference = plain if found["batch_norm"] is None else recalibrated
    for index, place in enumerate(found["coordinates"]):
        theta = flat(first) + place["alpha"] * u + place["beta"] * v
        parts = theta.split([first[name].numel() for name in trained])
        weights = dict(zip(trained, parts, strict=True))
        point = {k: weights[k].view_as(t) if k in weights else t for k, t in first.items()}
        loss, _ = reference(minima, point, "test")
        assert found["curves"]["test"]["loss"][index] == pytest.approx(loss, rel=1e-9)
    alphas = [place["alpha"] for place in found["coordinates"]]
    assert alphas == found["axes"][0]["values"] * 2, "alpha runs fastest"


# Marks and paths.


def test_a_checkpoint_in_the_plane_is_found_where_it_is(folder, mlps):
    paths = [str(mlps / name) for name in NAMES]
    a, b, c = map(state, paths)
    inside = combined((0.5, a), (0.2, b), (0.3, c))
    write(folder / "inside.safetensors", inside)
    noise = torch.Generator().manual_seed(0)
    off = {k: t + 0.1 * torch.randn(t.shape, generator=noise) for k, t in inside.items()}
    write(folder / "off.safetensors", off)
    found = found_by(
        *("interpolate", *paths, "--points", "2", "--dtype", "float64", "--task", "digits"),
        *("-O", "width=8", "--mark", "inside.safetensors", "off.safetensors"),
        *("--trajectory", paths[0], "inside.safetensors", "--trajectory", paths[2], paths[1]),
    )
    *anchors, marked, beside = found["checkpoints"]
    assert [each["name"] for each in anchors] == ["A", "B", "C"]
    assert (marked["name"], beside["name"]) == ("M1", "M2")
    assert marked["role"] == beside["role"] == "marked"
    places = [each["coordinates"] for each in anchors]
    expected = {k: 0.2 * places[1][k] + 0.3 * places[2][k] for k in ("alpha", "beta")}
    assert marked["coordinates"] == pytest.approx(expected, rel=1e-9)
    assert marked["unseen"] <= 1e-6
    assert 0.01 < beside["unseen"] < 1
    loss, _ = plain(digits(MLP), off, "train")
    assert beside["measures"]["loss"]["train"]["value"] == pytest.approx(loss, rel=1e-9)
    assert beside["on_surface"]["loss"]["train"]["value"] != pytest.approx(loss, rel=1e-3)
    first, second = found["trajectories"]
    assert [first["name"], second["name"]] == ["path 1", "path 2"]
    assert first["points"][0]["coordinates"] == pytest.approx(places[0], abs=1e-9)
    assert first["points"][1]["coordinates"] == pytest.approx(expected, rel=1e-9)
    assert second["points"][1]["coordinates"] == pytest.approx(places[1], abs=1e-9)
    assert found["explained_variance"] == pytest.approx(1)


def test_single_files_of_several_trajectory_options_make_up_one_path(mlps):
    paths = [str(mlps / name) for name in NAMES]
    found = found_by(
        *("interpolate", *paths, "--points", "2"),
        *("--trajectory", paths[0], "--trajectory", paths[1]),
    )
    (path,) = found["trajectories"]
    assert [point["path"] for point in path["points"]] == paths[:2]


# Batch norm.


@pytest.mark.parametrize("mode", ["recalibrate", "interpolate", "batch"])
def test_extrapolation_with_batch_norm_gives_numbers(cnns, mode):
    paths = [str(cnns / name) for name in NAMES[:2]]
    given = ("--points", "5", "--range", "-20:20", "--batch-norm", mode)
    done = run("interpolate", *paths, *given, "--json", "--quiet")
    document = strict(done.stdout)
    (found,) = document["results"]
    assert found["batch_norm"] == mode
    negative = [w for w in document.get("warnings", ()) if "variances are negative" in w]
    assert bool(negative) == (mode == "interpolate")
    for curves in found["curves"].values():
        assert all(math.isfinite(x) for curve in curves.values() for x in curve)
    done = run("interpolate", *paths, "--points", "4", "--batch-norm", mode)
    note = "note: batch norm: statistics re-estimated from 1442 training examples at each point\n"
    assert done.stderr == (note if mode == "recalibrate" else "")
    said = {
        "recalibrate": "batch norm statistics re-estimated at each point",
        "interpolate": "batch norm statistics interpolated",
        "batch": "batch norm on each batch's own statistics",
    }
    assert said[mode] in " ".join(done.stdout.split())


def test_batch_statistics_are_those_of_the_split_itself(cnns):
    path = cnns / NAMES[0]
    task = digits(CNN)
    found = found_by(
        *("interpolate", str(path), str(cnns / NAMES[1]), "--batch-norm", "batch"),
        *("--points", "2", "--range", "0:1", "--dtype", "float64"),
    )
    model = task.model().double().train()
    model.load_state_dict(state(path))
    for split in ("train", "test"):
        inputs, classes = task.data(split)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(inputs.double()), classes)
        assert found["curves"][split]["loss"][0] == pytest.approx(float(loss), rel=1e-10)


def test_interpolated_statistics_are_summed_and_counts_copied(cnns):
    paths = [cnns / name for name in NAMES[:2]]
    found = found_by(
        *("interpolate", *map(str, paths), "--batch-norm", "interpolate", "--points", "3"),
        *("--range", "0:1", "--dtype", "float64", "--split", "test"),
    )
    a, b = map(state, paths)
    counts = [name for name in a if name.endswith("num_batches_tracked")]
    assert counts
    loss, _ = plain(digits(CNN), combined((0.5, a), (0.5, b)), "test")
    assert found["curves"]["test"]["loss"][1] == pytest.approx(loss, rel=1e-10)


def test_statistics_may_be_taken_of_fewer_examples(cnns):
    paths = [str(cnns / name) for name in NAMES[:2]]
    given = ("--points", "3", "--range", "0:1", "--quiet")
    few = found_by("interpolate", *paths, *given, "--batch-norm-examples", "100")
    most = found_by("interpolate", *paths, *given)
    assert few["batch_norm_examples"] == 100
    losses = [each["curves"]["train"]["loss"][1] for each in (few, most)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
