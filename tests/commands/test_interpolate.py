"""`sharp interpolate`: every number held against `sharp measure` and plain PyTorch."""

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
from minima import TASK, tensors, write_minima
from torch import nn

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
    found = found_by("interpolate", *paths, "--points", "2", "--range", "0:1")
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
    found = found_by("interpolate", *NAMES[:2], "--dtype", "float64")
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
    found = found_by("interpolate", *NAMES, "--points", "3x2", "--dtype", "float64")
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
    found = found_by(
        "interpolate", *paths, "--points", "5", "--range", "-20:20", "--batch-norm", mode
    )
    assert found["batch_norm"] == mode
    for curves in found["curves"].values():
        assert all(math.isfinite(x) for curve in curves.values() for x in curve)
    done = run("interpolate", *paths, "--points", "3", "--batch-norm", mode)
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
    given = ("--points", "3", "--range", "0:1")
    few = found_by("interpolate", *paths, *given, "--batch-norm-examples", "100")
    most = found_by("interpolate", *paths, *given)
    assert few["batch_norm_examples"] == 100
    losses = [each["curves"]["train"]["loss"][1] for each in (few, most)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


# Models and tasks of all kinds.

TIED = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 3)
        self.frozen.requires_grad_(False)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, inputs):
        return self.frozen(self.scale * self.second(torch.tanh(self.first(inputs))))

def model():
    return Tied()
""" + TASK[TASK.index("def data") :]


def test_tied_tensors_are_moved_once_and_frozen_ones_between_the_two(folder):
    (folder / "tied.py").write_text(TIED, "utf-8")
    scope = {}
    exec(TIED, scope)
    states = []
    for seed, name in enumerate(("one.safetensors", "two.safetensors")):
        torch.manual_seed(seed)
        model = scope["model"]()
        with torch.no_grad():
            model.scale.fill_(1.0 + seed)
            model.steps.fill_(3 + seed)
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        write(folder / name, states[-1])
    found = found_by(
        *("interpolate", "one.safetensors", "two.safetensors", "-t", "tied.py"),
        *("--points", "5", "--range", "0:1", "--dtype", "float64"),
    )
    assert found["checkpoints"][0]["parameters"] == 16
    assert found["batch_norm"] is None
    a, b = ({k: t.double() if t.is_floating_point() else t for k, t in s.items()} for s in states)
    inputs, classes = scope["data"]("train")
    for place, loss in zip(
        found["axes"][0]["values"], found["curves"]["train"]["loss"], strict=True
    ):
        model = scope["model"]().double()
        model.load_state_dict(combined((1 - place, a), (place, b)))
        with torch.no_grad():
            expected = nn.functional.cross_entropy(model(inputs.double()), classes)
        assert loss == pytest.approx(float(expected), rel=1e-10)


NO_TEST = TASK.replace("(split):\n", "(split):\n    if split == 'test': return None\n")
SUMS = TASK + (
    "\ndef loss(outputs, batch):\n"
    "    losses = nn.functional.cross_entropy(outputs, batch[1], reduction='none')\n"
    "    return losses.sum(), torch.tensor(float(len(losses)))\n"
)
NO_METRICS = TASK + "\nmetrics = None\n"


def test_without_test_data_there_are_training_curves_alone(folder):
    (folder / "task.py").write_text(NO_TEST, "utf-8")
    found = found_by("interpolate", *SMALL, "--points", "5")
    assert list(found["curves"]) == list(found["barrier"]) == ["train"]
    assert list(found["checkpoints"][0]["measures"]["loss"]) == ["train"]
    done = run("interpolate", *SMALL, "--points", "5")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "test" not in done.stdout.replace("latest", "")


def test_without_metrics_there_is_the_loss_alone(folder):
    (folder / "task.py").write_text(NO_METRICS, "utf-8")
    found = found_by("interpolate", *SMALL, "--points", "5")
    assert {name for curves in found["curves"].values() for name in curves} == {"loss"}
    done = run("interpolate", *SMALL, "--points", "5")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "accuracy" not in done.stdout


@pytest.mark.parametrize("more", [(), ("--samples", "20")])
def test_a_loss_may_be_a_sum_and_a_weight(folder, more):
    plainly = found_by("interpolate", *SMALL, "--points", "5", *more)
    (folder / "task.py").write_text(SUMS, "utf-8")
    found = found_by("interpolate", *SMALL, "--points", "5", *more)
    for split, curves in plainly["curves"].items():
        assert found["curves"][split]["loss"] == pytest.approx(curves["loss"], rel=1e-6)
    assert "loss" not in found.get("sampling_errors", {}).get("train", {})


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_split_is_drawn_where_one_is_asked_for(split):
    both = found_by("interpolate", *SMALL, "--points", "5")
    found = found_by("interpolate", *SMALL, "--points", "5", "--split", split)
    assert found["curves"] == {split: both["curves"][split]}
    assert list(found["barrier"]) == [split]


def test_samples_give_sampling_errors_and_other_numbers():
    whole = found_by("interpolate", *SMALL, "--points", "4")
    found = found_by("interpolate", *SMALL, "--points", "4", "--samples", "12")
    assert "sampling_errors" not in whole
    for split in ("train", "test"):
        for name in ("loss", "accuracy"):
            assert len(found["sampling_errors"][split][name]) == 4
        losses = zip(
            found["curves"][split]["loss"],
            whole["curves"][split]["loss"],
            found["sampling_errors"][split]["loss"],
            strict=True,
        )
        assert all(0 < abs(x - y) < 5 * error for x, y, error in losses)
        assert found["barrier"][split]["sampling_error"] is not None
    done = run("interpolate", *SMALL, "--points", "4", "--samples", "12")
    assert (done.exit_code, done.stderr) == (0, "")


def test_training_mode_uses_the_batch(cnns):
    paths = [str(cnns / name) for name in NAMES[:2]]
    given = ("--points", "2", "--range", "0:1", "--dtype", "float64")
    found = found_by("interpolate", *paths, *given, "--mode", "train")
    other = found_by("interpolate", *paths, *given, "--batch-norm", "batch")
    assert found["batch_norm"] == "batch"
    for split in ("train", "test"):
        assert found["curves"][split]["loss"] == pytest.approx(
            other["curves"][split]["loss"], rel=1e-10
        )


# Grids of unusual shape.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--points", "1", "--range", "0:0"), [0.0]),
        (("--points", "1"), [0.0]),
        (("--points", "1", "--range", "1:1"), [1.0]),
        (("--points", "1", "--range", "0.25:0.75"), [0.5]),
        (("--points", "2"), [0.0, 1.0]),
        (("--points", "3", "--range", "0:0"), [0.0]),
        (("--points", "4", "--range", "-1:2"), [-1.0, 0.0, 1.0, 2.0]),
    ],
)
def test_which_points_are_on_a_line(given, expected):
    done = run("interpolate", *SMALL, *given, "--json")
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)["results"][0]
    assert sorted(set(found["axes"][0]["values"])) == expected
    ends = {0.0, 1.0} <= set(expected)
    assert (found["barrier"] == {}) is not ends
    note = "note: no barrier can be told: 0 or 1 is not on the line (--range)\n"
    assert done.stderr == ("" if ends else note)
    shown = run("interpolate", *SMALL, *given)
    assert (shown.exit_code, shown.stderr) == (0, done.stderr)


def test_identical_ends_are_a_flat_line():
    done = run("interpolate", "sgd.safetensors", *SMALL[:1], *SMALL[2:], "--json")
    assert done.exit_code == 0
    assert done.stderr == (
        "note: A and B hold the same parameters: the line between them is one point\n"
    )
    found = strict(done.stdout)["results"][0]
    losses = found["curves"]["train"]["loss"]
    assert losses == pytest.approx([losses[0]] * 25, rel=1e-6)
    assert found["axes"][0]["norm"] == 0
    assert found["barrier"]["train"]["value"] == pytest.approx(0, abs=1e-6)
    shown = run("interpolate", "sgd.safetensors", *SMALL[:1], *SMALL[2:])
    assert (shown.exit_code, shown.stderr) == (0, done.stderr)


def test_a_loss_that_overflows_is_null_and_said(folder):
    (folder / "task.py").write_text(
        TASK + "\ndef loss(outputs, batch): return outputs.exp().exp().sum(1)\n", "utf-8"
    )
    done = run("interpolate", *SMALL, "--points", "4", "--range", "-1:200", "--json")
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)["results"][0]
    assert found["curves"]["train"]["loss"][-1] is None
    assert "warning: the train loss is not finite at " in done.stderr
    assert "RuntimeWarning" not in done.stderr
    assert run("interpolate", *SMALL, "--points", "4", "--range", "-1:200").exit_code == 0


def test_ends_that_are_not_finite_have_no_barrier(folder):
    (folder / "task.py").write_text(
        TASK + "\ndef loss(outputs, batch): return outputs.sum(1) * float('nan')\n", "utf-8"
    )
    done = run("interpolate", *SMALL, "--points", "4", "--json")
    assert done.exit_code == 0, done.output
    found = strict(done.stdout)["results"][0]
    assert found["barrier"] == {}
    assert found["curves"]["train"]["loss"] == [None] * 4
    assert found["curves"]["train"]["accuracy"] != [None] * 4
    assert "note: no barrier can be told: the loss is not finite at A or B\n" in done.stderr
    assert "warning: the train loss is not finite at 4 of 4 points of the line\n" in done.stderr
    assert run("interpolate", *SMALL, "--points", "4").exit_code == 0


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
    found = found_by("interpolate", *paths, *given)
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
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert "\x1b" not in (folder / "out").read_text("utf-8")
    assert [path.name for path in folder.iterdir() if path.name.startswith((".", "out."))] == []
    assert not (folder / "cache").exists()


def test_nothing_is_left_in_the_cache(folder):
    assert run("interpolate", *SMALL, "--points", "4").exit_code == 0
    assert list((folder / "cache").rglob("*.partial")) == []


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html", "npz", "vtk"])
@pytest.mark.parametrize("names", [2, 3])
def test_figures_of_lines_and_planes(folder, mlps, suffix, names):
    paths = [str(mlps / name) for name in NAMES[:names]]
    figure = folder / f"figure.{suffix}"
    done = run("interpolate", *paths, "--points", "3", "--plot", str(figure), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
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
