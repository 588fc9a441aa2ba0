"""The line between two checkpoints: where it is drawn, and what is drawn beside it."""

import pytest
import torch
from networks import CASES

from sharpcli import (
    GridSettings,
    InterpolateSettings,
    PathSettings,
    RunSettings,
    interpolate_checkpoints,
)
from sharpcli.checkpoint import save_checkpoint

TASK = CASES["tanh"]


@pytest.fixture
def paths(tmp_path):
    found = []
    for seed in range(2):
        model = TASK.model()
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
        found.append(tmp_path / f"{seed}.safetensors")
        save_checkpoint(found[-1], model.state_dict(), {})
    return found


def drawn(paths, points, *ranges, **beside):
    settings = InterpolateSettings(GridSettings((points,), ranges), **beside)
    report = interpolate_checkpoints(paths, TASK, run=RunSettings(split="train"), settings=settings)
    return report.results[0], report.notes


def test_without_a_range_the_line_goes_beyond_both_ends(paths):
    found, notes = drawn(paths, 7)
    assert list(found.axes[0].values) == [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
    assert notes == []


@pytest.mark.parametrize(
    ("points", "expected", "said"),
    [(1, [0.0], "0"), (2, [0.0, 1.0], "0, 1"), (3, [0.0, 0.5, 1.0], "0, 0.5, 1")],
)
def test_too_few_points_for_it_are_between_the_ends_and_said(paths, points, expected, said):
    found, notes = drawn(paths, points)
    assert list(found.axes[0].values) == expected
    assert notes[0] == (
        f"points={points} is too few for the line from α = -1 to 2, which takes 4: drawn at {said}"
    )
    assert (found.barrier == {}) is (points == 1)
    if points == 1:
        assert notes[1:] == ["no barrier: 0 or 1 is not on the line (points)"]
    else:
        assert notes[1:] == []


def test_a_range_of_ones_own_is_drawn_whole(paths):
    found, notes = drawn(paths, 4, (-0.01, 1.01))
    assert list(found.axes[0].values) == [-0.01, 0.0, 1.0, 1.01]
    assert notes == []


def test_all_ways_between_the_two_have_the_same_ends(paths):
    found, _ = drawn(paths, 5, (0.0, 1.0), align=True, path=PathSettings(steps=3, batch_size=8))
    line, aligned, path = (
        each.curves["train"]["loss"] for each in (found, found.aligned, found.path)
    )
    assert [each.t for each in found.path.coordinates] == list(found.axes[0].values)
    assert len(line) == len(aligned) == len(path) == 5
    assert (path[0], path[-1]) == (line[0], line[-1])
    assert (aligned[0], aligned[-1]) == pytest.approx((line[0], line[-1]), rel=1e-5)
