"""Lines and surfaces from Python: what is asked for, what comes back, what stays as it was."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from networks import CASES
from torch import nn

import sharpcli
from sharpcli import (
    BatchNormSettings,
    Beside,
    DirectionSettings,
    GridSettings,
    InterpolateSettings,
    Journal,
    LandscapeSettings,
    PathSettings,
    RunSettings,
    Task,
    Watch,
)
from sharpcli.checkpoint import save_checkpoint
from sharpcli.errors import SharpError, UsageError

SMALL = GridSettings(points=(3,))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)
    )


@pytest.fixture
def held():
    """A task whose model is one object that others hold too: trained, in training mode."""
    model = network()
    inputs, classes = CASES["tanh"].data("train")
    for _ in range(3):
        nn.functional.cross_entropy(model(inputs), classes).backward()
    return model, Task(
        name="held",
        options={},
        fingerprint="held",
        model=lambda: model,
        data=CASES["tanh"].data,
        predict=CASES["tanh"].predict,
        loss=CASES["tanh"].loss,
        metrics=CASES["tanh"].metrics,
    )


@pytest.fixture
def paths(tmp_path, held):
    """Four checkpoints around the model's own parameters."""
    model, _ = held
    noise = torch.Generator().manual_seed(1)
    found = []
    for name in "abcd":
        moved = {
            k: t + 0.1 * torch.rand(t.shape, generator=noise) if t.is_floating_point() else t
            for k, t in model.state_dict().items()
        }
        found.append(tmp_path / f"{name}.safetensors")
        save_checkpoint(found[-1], moved, {})
    return found


def states(model):
    """Everything that a caller could find changed."""
    return {
        "tensors": copy.deepcopy(model.state_dict()),
        "gradients": [p.grad.clone() for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "places": [p.data_ptr() for p in model.parameters()],
        "hooks": [len(module._forward_pre_hooks) for module in model.modules()],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key, old in before.items():
        new = after[key]
        if key == "tensors":
            assert all(torch.equal(old[name], new[name]) for name in old)
        elif key == "gradients":
            assert all(map(torch.equal, old, new))
        elif key == "torch":
            assert torch.equal(old, new)
        else:
            assert old == new, key


def found(report, kind):
    document = sharpcli.to_document(report)
    assert document["kind"] == kind
    json.dumps(document, allow_nan=False)
    (result,) = document["results"]
    return result


@pytest.mark.parametrize("mode", ["recalibrate", "interpolate", "batch"])
def test_interpolating_leaves_everything_as_it_was(held, paths, mode):
    model, task = held
    before = states(model)
    settings = InterpolateSettings(
        SMALL, BatchNormSettings(mode), align=True, path=PathSettings(steps=5, batch_size=8)
    )
    report = sharpcli.interpolate_checkpoints(paths[:2], task, settings=settings)
    assert_same(before, states(model))
    assert {"aligned", "path", "barrier"} <= found(report, "interpolate").keys()
    report = sharpcli.interpolate_checkpoints(
        paths[:3],
        task,
        run=RunSettings(split="train"),
        settings=InterpolateSettings(SMALL, BatchNormSettings(mode)),
        beside=Beside(paths[3:], [paths]),
    )
    assert_same(before, states(model))
    result = found(report, "interpolate")
    assert list(result["curves"]) == ["train"]
    assert [len(path["points"]) for path in result["trajectories"]] == [4]


@pytest.mark.parametrize("kind", ["random", "hessian", "trajectory"])
def test_a_landscape_leaves_everything_as_it_was(held, paths, kind):
    model, task = held
    before = states(model)
    report = sharpcli.landscape_checkpoint(
        paths[0],
        task,
        settings=LandscapeSettings(SMALL, directions=DirectionSettings(kind)),
        beside=Beside(trajectories=[paths[1:]]),
    )
    assert_same(before, states(model))
    assert found(report, "landscape")["shape"] == [3, 3]


def test_training_mode_leaves_everything_as_it_was(held, paths):
    model, task = held
    model[3].p = 0.0  # dropout would differ from one evaluation to the next
    before = states(model)
    run = RunSettings(mode="train", split="both")
    report = sharpcli.interpolate_checkpoints(
        paths[:2], task, run=run, settings=InterpolateSettings(SMALL)
    )
    assert_same(before, states(model))
    assert found(report, "interpolate")["batch_norm"] == "batch"


def test_a_journal_keeps_points_until_it_is_discarded(tmp_path, held, paths):
    _, task = held
    said = []
    expected = sharpcli.to_document(sharpcli.interpolate_checkpoints(paths[:2], task))
    for _ in range(2):
        journal = Journal(tmp_path / "line.json")
        report = sharpcli.interpolate_checkpoints(
            paths[:2], task, watch=Watch(say=said.append, journal=journal)
        )
        assert sharpcli.to_document(report) == expected
        assert (tmp_path / "line.json.partial").exists()
    assert said == []  # all points were finished: there is nothing to say
    journal.discard()
    assert not (tmp_path / "line.json.partial").exists()


@pytest.mark.parametrize("name", ["attention", "encoder", "tied", "mapping", "unused", "frozen"])
def test_models_and_data_of_all_kinds(tmp_path, name):
    task = CASES[name]
    paths = []
    for seed in range(2):
        model = task.model()
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
        paths.append(tmp_path / f"{seed}.safetensors")
        save_checkpoint(paths[-1], model.state_dict(), {})
    run = RunSettings(split="both", dtype="float64")
    line = found(
        sharpcli.interpolate_checkpoints(
            paths, task, run=run, settings=InterpolateSettings(GridSettings((4,)))
        ),
        "interpolate",
    )
    for index, path in zip((1, 2), paths, strict=True):
        measured = sharpcli.measure_checkpoints(
            [path],
            task,
            run=RunSettings(dtype="float64"),
            settings=sharpcli.MeasureSettings(measures=("loss",)),
        )
        own = sharpcli.to_document(measured)["results"][0]["measures"]
        for split in ("train", "test"):
            assert line["curves"][split]["loss"][index] == pytest.approx(
                own["loss"][split]["value"], rel=1e-12
            )
    surface = found(
        sharpcli.landscape_checkpoint(
            paths[0], task, run=run, settings=LandscapeSettings(GridSettings((1,)))
        ),
        "landscape",
    )
    assert surface["curves"]["train"]["loss"] == pytest.approx(
        [line["curves"]["train"]["loss"][1]], rel=1e-12
    )


def noted(task, paths, mode, examples=None):
    """The notes of a line under one treatment of batch norm."""
    settings = InterpolateSettings(GridSettings((4,)), BatchNormSettings(mode, examples))
    return sharpcli.interpolate_checkpoints(paths[:2], task, settings=settings).notes


def test_from_how_many_examples_statistics_are_taken_is_said(held, paths):
    _, task = held
    count = len(CASES["tanh"].data("train")[1])
    said = "batch norm: statistics re-estimated from {}training examples at each point"
    assert noted(task, paths, "recalibrate") == [said.format(f"{count} ")]
    assert noted(task, paths, "recalibrate", 9) == [said.format(f"9 of {count} ")]
    assert noted(task, paths, "recalibrate", count + 1) == [said.format(f"{count} ")]
    assert noted(task, paths, "interpolate") == noted(task, paths, "batch") == []


def warned(task, center, *trajectories):
    """What is said of where the paths whose axes are drawn end."""
    settings = LandscapeSettings(
        GridSettings((1,)), directions=DirectionSettings("trajectory", dimensions=1)
    )
    beside = Beside(trajectories=trajectories)
    report = sharpcli.landscape_checkpoint(center, task, settings=settings, beside=beside)
    drawn = report.results[0].trajectories
    assert [len(path.points) for path in drawn] == [len(path) for path in trajectories]
    return [warning for warning in report.warnings if "axes" in warning and "plane" not in warning]


def test_a_path_that_does_not_end_at_the_center_is_said(tmp_path, held, paths):
    _, task = held
    a, b, c, d = paths
    copy_of_a = tmp_path / "copy.safetensors"
    copy_of_a.write_bytes(a.read_bytes())
    about = (
        "at A: its axes are still taken about A (name the path's last checkpoint as A, or A as "
        "the path's last)"
    )
    assert warned(task, a, [b, c, a]) == []
    assert warned(task, a, [b, c, copy_of_a]) == []
    assert warned(task, a, [a, b, c]) == [f"the path does not end {about}"]
    assert warned(task, a, [b, c, a], [c, d]) == []
    assert warned(task, a, [b, c], [a, d]) == [f"no path ends {about}"]


def test_what_cannot_be_asked_for(held, paths):
    _, task = held
    few = InterpolateSettings(GridSettings((3,), ((-1.0, 2.0),)))
    with pytest.raises(UsageError, match="a range of -1:2 that holds 0 and 1 takes 4 points"):
        sharpcli.interpolate_checkpoints(paths[:2], task, settings=few)
    assert sharpcli.interpolate_checkpoints(paths[:3], task, settings=few).results
    with pytest.raises(UsageError, match="1 checkpoint: a line leads through two"):
        sharpcli.interpolate_checkpoints(paths[:1], task)
    with pytest.raises(UsageError, match="align is for the line between two"):
        sharpcli.interpolate_checkpoints(paths[:3], task, settings=InterpolateSettings(align=True))
    with pytest.raises(UsageError, match="needs the path whose axes are to be drawn"):
        sharpcli.landscape_checkpoint(
            paths[0],
            task,
            settings=LandscapeSettings(directions=DirectionSettings("trajectory")),
        )
    bad = LandscapeSettings(directions=DirectionSettings(normalize="filtr"))
    with pytest.raises(UsageError, match="filtr") as caught:
        sharpcli.landscape_checkpoint(paths[0], task, settings=bad)
    assert "'filter'" in str(caught.value)
    with pytest.raises(SharpError, match=r"gone\.safetensors: there is no such file"):
        sharpcli.interpolate_checkpoints([paths[0], "gone.safetensors"], task)
