"""The table of directions: every kind says what it needs, and a new one needs nothing else."""

import sys
import types

import pytest
import torch
from networks import CASES

from sharpcli import DirectionSettings, GridSettings, LandscapeSettings, landscape_checkpoint
from sharpcli.checkpoint import save_checkpoint
from sharpcli.errors import UsageError
from sharpcli.runs.direction_kinds import DIRECTION_KINDS, Direction, DirectionKind, direction_kind

TASK = CASES["tanh"]


@pytest.fixture
def center(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", TASK.model().state_dict(), {})
    return tmp_path / "a.safetensors"


def test_an_unknown_kind_gets_the_nearest(center):
    with pytest.raises(UsageError, match="hesian") as caught:
        direction_kind("hesian")
    assert caught.value.hint == "did you mean 'hessian'?"
    settings = LandscapeSettings(directions=DirectionSettings("hesian"))
    with pytest.raises(UsageError):
        landscape_checkpoint(center, TASK, settings=settings)


@pytest.mark.parametrize("kind", DIRECTION_KINDS.values(), ids=DIRECTION_KINDS)
def test_no_two_kinds_read_the_same_settings_and_all_are_settings(kind):
    own = set(kind.reads)
    assert own <= set(vars(DirectionSettings()))
    others = [set(each.reads) for each in DIRECTION_KINDS.values() if each is not kind]
    assert not any(own & reads for reads in others)


def test_a_kind_is_its_module_and_its_entry(center, monkeypatch):
    def directions(this, settings, normalize):
        theta = this.anchors[0].theta
        return [Direction(torch.ones_like(theta), f"all alike, {normalize}")]

    module = types.ModuleType("sharpcli.runs.alike_axes")
    module.directions = directions
    monkeypatch.setitem(sys.modules, "sharpcli.runs.alike_axes", module)
    alike = DirectionKind("alike", "all entries alike", "alike_axes", normalize="layer")
    monkeypatch.setitem(DIRECTION_KINDS, "alike", alike)
    settings = LandscapeSettings(GridSettings((3,)), directions=DirectionSettings("alike", 1))
    (found,) = landscape_checkpoint(center, TASK, settings=settings).results
    assert (found.directions, found.normalize, found.cosine) == ("alike", "layer", None)
    (axis,) = found.axes
    assert axis.meaning == "all alike, layer"
    assert list(axis.values) == [-1.0, 0.0, 1.0]
    assert found.curves["train"]["loss"][1] < 10
