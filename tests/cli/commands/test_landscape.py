"""`sharp landscape`: surfaces around a checkpoint, on every kind of axes."""

import csv
import io
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
from minima import TASK, write_minima

SMALL = ("sgd.safetensors", "-t", "task.py")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_minima(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SHARP_TASK", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


def value(checkpoint, at, split):
    return checkpoint[at]["loss"][split]["value"]


def at_center(found, split):
    """The loss at the grid's point 0."""
    place = [i for i, each in enumerate(found["coordinates"]) if not any(each.values())]
    return found["curves"][split]["loss"][place[0]]


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("normalize", ["filter", "layer", "none", None])
@pytest.mark.parametrize("directions", ["random", "hessian", "trajectory"])
def test_every_kind_of_axes(mlps, directions, normalize, dimensions):
    path, *others = (str(mlps / name) for name in NAMES)
    given = ["--directions", directions, "--dimensions", str(dimensions), "--points", "3"]
    given += ["--normalize", normalize] if normalize else []
    given += ["--trajectory", *others, path] if directions == "trajectory" else []
    found = found_by("landscape", path, *given)
    assert found["dimensions"] == len(found["axes"]) == dimensions
    assert found["shape"] == [3] * dimensions
    assert found["directions"] == directions
    default = "filter" if directions == "random" else "none"
    assert found["normalize"] == (normalize or default)
    if dimensions == 2:
        most = 1e-6 if (normalize or default) == "none" or directions == "random" else 0.5
        assert abs(found["cosine"]) <= most
    else:
        assert "cosine" not in found
    (center,) = found["checkpoints"]
    assert (center["name"], center["role"]) == ("A", "center")
    own = found_by("measure", path, "-m", "loss")["measures"]["loss"]
    for split in ("train", "test"):
        assert value(center, "measures", split) == pytest.approx(own[split]["value"], rel=1e-6)
        if directions != "trajectory":
            assert at_center(found, split) == pytest.approx(own[split]["value"], rel=1e-6)
    weights = torch.cat([t.reshape(-1) for t in state(path).values()])
    for axis in found["axes"]:
        if directions == "hessian":
            assert axis["eigenvalue"]["value"] > 0
        if (normalize or default) == "none" and directions != "random":
            assert axis["norm"] == pytest.approx(1, rel=1e-5)
        elif normalize == "layer":
            assert axis["norm"] == pytest.approx(float(weights.norm()), rel=0.2)
    if directions == "trajectory":
        assert found["explained_variance"] == pytest.approx(1 if dimensions == 2 else 0.6, abs=0.4)


def test_with_batch_norm_the_middle_is_recalibrated_and_the_own_loss_beside_it(cnns):
    path = str(cnns / NAMES[0])
    found = found_by("landscape", path, "--points", "3", "--dtype", "float64", "--quiet")
    (center,) = found["checkpoints"]
    for split in ("train", "test"):
        expected, _ = recalibrated(digits(CNN), state(path), split)
        assert at_center(found, split) == pytest.approx(expected, rel=1e-10)
        assert value(center, "on_surface", split) == pytest.approx(expected, rel=1e-10)
        own, _ = plain(digits(CNN), state(path), split)
        assert value(center, "measures", split) == pytest.approx(own, rel=1e-10)


def test_points_lie_where_their_axis_says(mlps):
    path = str(mlps / NAMES[0])
    given = ("--points", "2", "--dimensions", "1", "--normalize", "none", "--dtype", "float64")
    found = found_by(
        "landscape",
        path,
        *given,
        "--directions",
        "trajectory",
        "--range",
        "0:1",
        "--trajectory",
        str(mlps / NAMES[1]),
        path,
    )
    a, b = state(path), state(mlps / NAMES[1])
    distance = math.sqrt(sum(float((a[k] - b[k]).square().sum()) for k in a))
    expected, _ = plain(digits(MLP), combined((1 - 1 / distance, a), (1 / distance, b)), "train")
    assert found["curves"]["train"]["loss"][1] == pytest.approx(expected, rel=1e-9)


def test_a_path_on_its_own_axes(folder, mlps):
    a, b, c = (state(mlps / name) for name in NAMES)
    weights = [(0.9, 0.1, 0.0), (0.4, 0.6, 0.0), (0.5, 0.2, 0.3), (0.8, 0.0, 0.2)]
    names = [f"step-{i}.safetensors" for i in range(len(weights))]
    for name, (x, y, z) in zip(names, weights, strict=True):
        write(folder / name, combined((x, a), (y, b), (z, c)))
    shutil.copy(mlps / NAMES[0], folder / "last.safetensors")
    names.append("last.safetensors")
    found = found_by(
        *("landscape", "last.safetensors", "-t", "digits", "-O", "width=8", "--points", "2"),
        *("--directions", "trajectory", "--dtype", "float64", "--trajectory", *names),
    )
    (path,) = found["trajectories"]
    assert [point["path"] for point in path["points"]] == names
    assert max(point["unseen"] for point in path["points"]) <= 1e-6
    assert found["explained_variance"] == pytest.approx(1, abs=1e-9)
    assert sum(axis["explained_variance"] for axis in found["axes"]) == pytest.approx(1, abs=1e-9)
    for axis in found["axes"]:
        shown = [point["coordinates"][axis["name"]] for point in path["points"]]
        low, high = min(*shown, 0.0), max(*shown, 0.0)
        assert axis["values"] == pytest.approx(
            [low - 0.2 * (high - low), high + 0.2 * (high - low)], rel=1e-6
        )
    *points, last = path["points"]
    assert last["coordinates"] == {"alpha": 0, "beta": 0}
    for point, (x, y, z) in zip(points, weights, strict=True):
        away = combined((x - 1, a), (y, b), (z, c))
        length = math.sqrt(sum(float(t.square().sum()) for t in away.values()))
        assert math.hypot(*point["coordinates"].values()) == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize(("last", "said"), [(0, False), (2, True)])
def test_a_path_that_ends_elsewhere_is_said(mlps, last, said):
    paths = [str(mlps / name) for name in NAMES]
    way = [path for index, path in enumerate(paths) if index != last]
    given = ("--points", "2", "--directions", "trajectory", "--trajectory", *way, paths[last])
    done = run("landscape", paths[0], *given, "--json")
    assert done.exit_code == 0, done.output
    warning = (
        "warning: the path does not end at A: its axes are still taken about A (name the path's "
        "last checkpoint as A, or A as the path's last)\n"
    )
    assert done.stderr == (warning if said else "")
    (found,) = strict(done.stdout)["results"]
    (path,) = found["trajectories"]
    assert [point["path"] for point in path["points"]] == [*way, paths[last]]


def test_a_path_that_the_plane_does_not_show_is_said(folder, mlps):
    paths = [str(mlps / name) for name in NAMES]
    done = run("landscape", paths[0], "--points", "2", "--trajectory", *paths[1:])
    assert done.exit_code == 0
    assert "warning: the plane shows 1% of the path's variance: " in done.stderr
    assert "(a landscape with --directions trajectory shows the most)" in done.stderr
    assert "unseen" in done.stdout


def test_seeds_draw_other_axes_and_the_same_seed_the_same():
    first, same, other = (
        run("landscape", *SMALL, "--points", "3", "--json", "--seed", seed).stdout
        for seed in ("1", "1", "2")
    )
    assert first == same
    losses = [strict(text)["results"][0]["curves"]["train"]["loss"] for text in (first, other)]
    assert losses[0][4] == losses[1][4]
    assert losses[0][0] != losses[1][0]


@pytest.mark.parametrize(
    ("given", "shape", "places"),
    [
        (("--points", "1"), [1, 1], [(0, 0)]),
        (("--points", "1x3"), [1, 3], [(0, -1), (0, 0), (0, 1)]),
        (("--points", "3x1"), [3, 1], [(-1, 0), (0, 0), (1, 0)]),
        (("--points", "2x1", "--range", "0:1,2:2"), [2, 1], [(0, 2), (1, 2)]),
        (("--points", "1", "--range", "0:0"), [1, 1], [(0, 0)]),
        (("--points", "2x3", "--range=-1:1"), [2, 3], None),
        (("--points", "1", "--dimensions", "1"), [1], [(0,)]),
    ],
)
def test_grids_of_any_shape(given, shape, places):
    found = found_by("landscape", *SMALL, *given)
    assert found["shape"] == shape
    assert len(found["coordinates"]) == math.prod(shape)
    if places is not None:
        assert [tuple(each.values()) for each in found["coordinates"]] == places
    assert all(math.isfinite(x) for x in found["curves"]["test"]["loss"])
    for width in (80, 160):
        shown = run("landscape", *SMALL, *given, width=width)
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert max(map(len, shown.stdout.splitlines())) <= width


def test_alpha_runs_fastest_on_a_grid_that_is_not_square():
    wide = found_by("landscape", *SMALL, "--points", "4x2", "--dtype", "float64")
    single = found_by(
        *("landscape", *SMALL, "--points", "1", "--range=-1:-1,1:1", "--dtype", "float64")
    )
    assert [each["alpha"] for each in wide["coordinates"]] == wide["axes"][0]["values"] * 2
    assert wide["curves"]["train"]["loss"][4] == pytest.approx(
        single["curves"]["train"]["loss"][0], rel=1e-12
    )


NO_TEST = TASK.replace("(split):\n", "(split):\n    if split == 'test': return None\n")


@pytest.mark.parametrize("text", [NO_TEST, TASK + "\nmetrics = None\n"])
@pytest.mark.parametrize("dimensions", ["1", "2"])
def test_tasks_without_test_data_or_metrics(folder, text, dimensions):
    (folder / "task.py").write_text(text, "utf-8")
    found = found_by("landscape", *SMALL, "--points", "3", "--dimensions", dimensions)
    names = {(s, n) for s, curves in found["curves"].items() for n in curves}
    assert names in (
        {("train", "loss"), ("train", "accuracy")},
        {("train", "loss"), ("test", "loss")},
    )
    shown = run("landscape", *SMALL, "--points", "3", "--dimensions", dimensions)
    assert (shown.exit_code, shown.stderr) == (0, "")


def test_marked_checkpoints_are_on_the_surface(mlps):
    paths = [str(mlps / name) for name in NAMES]
    found = found_by("landscape", paths[0], "--points", "2", "--mark", *paths)
    center, same, *others = found["checkpoints"]
    assert list(same["coordinates"].values()) == pytest.approx([0, 0], abs=1e-6)
    assert same["unseen"] == 0
    assert [each["name"] for each in (same, *others)] == ["M1", "M2", "M3"]
    assert all(each["unseen"] > 0.9 for each in others)
    for split in ("train", "test"):
        assert value(same, "measures", split) == value(center, "measures", split)


def test_hessian_axes_of_a_batch_normalised_network(cnns):
    given = ("--directions", "hessian", "--dimensions", "1", "--points", "2", "--quiet")
    found = found_by("landscape", str(cnns / NAMES[0]), *given)
    assert found["axes"][0]["eigenvalue"]["status"] == "converged"
    test = found_by("landscape", str(cnns / NAMES[0]), *given, "--split", "test")
    assert list(test["curves"]) == ["test"]


def test_strict_is_content_with_eigenvalues_that_converge():
    given = ("--directions", "hessian", "--points", "2", "--strict")
    assert run("landscape", *SMALL, *given).exit_code == 0


@pytest.mark.parametrize("suffix", ["png", "html", "npz", "vts"])
@pytest.mark.parametrize("dimensions", ["1", "2"])
def test_figures(folder, suffix, dimensions):
    figure = folder / f"figure.{suffix}"
    given = ("--points", "4", "--dimensions", dimensions, "--plot", str(figure))
    done = run("landscape", *SMALL, *given, "--json")
    assert (done.exit_code, done.stderr) == (0, f"wrote {figure}\n")
    strict(done.stdout)
    assert figure.stat().st_size > 300


def test_csv_has_a_line_a_point():
    done = run("landscape", *SMALL, "--points", "3x2", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 6
    assert {"alpha", "beta", "train.loss", "test.accuracy"} <= set(rows[0])


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_output_goes_to_the_file(folder, form):
    done = run("landscape", *SMALL, "--points", "3", "--format", form, "--output", "out")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "wrote out\n")
    assert (folder / "out").stat().st_size > 100
    assert not (folder / "out.partial").exists()
