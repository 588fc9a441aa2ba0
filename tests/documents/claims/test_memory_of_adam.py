"""Memories as settings, where a slope turns with a setting, and distances from another path."""

import math

import pytest

from sharpcli.documents.claims.figures import slopes
from sharpcli.documents.claims.runs import StageRuns, Trained, number_of, series_of
from sharpcli.documents.claims.statistics import compute_statistic
from sharpcli.documents.scoring.runs import Run

BATCHES = (4, 16, 64, 256)


def run(seed=0, measures=None, distances=(), **settings):
    own = {key: {"value": each} for key, each in (measures or {}).items()}
    return Trained(Run("run", "run", settings, seed, "ok"), own, distances=distances)


def stage_turning_at(place, seeds=(0, 1)):
    """λ1 is memory2 to the power of log2(batch / place)/10; B_noise is 100 for all batches."""
    runs = []
    for seed in seeds:
        for batch in BATCHES:
            for beta in (0.9, 0.99, 0.999):
                value = (1 / (1 - beta)) ** (math.log2(batch / place) / 10)
                measures = {"l": value, "noise": 100.0}
                runs.append(run(seed, measures, batch_size=batch, betas=(0.9, beta)))
    return StageRuns("trained", runs)


ASKED = {"value": "l", "log": True, "over": "memory2", "along": "batch_size", "of": {"beta1": 0.9}}


def test_memories_are_settings():
    found = run(betas=(0.9, 0.999))
    assert [found.setting(f"beta{i}") for i in (1, 2)] == [0.9, 0.999]
    assert [number_of(found, f"setting.memory{i}") for i in (1, 2, 3)] == [10, 1000, None]
    assert run().setting("memory1") is None


CRITICAL = {**ASKED, "to": {}, "to_value": "noise"}  # at 100, for the runs below


def test_the_turn_over_the_critical_batch():
    found = compute_statistic(
        "crossing_ratio", {"trained": stage_turning_at(32)}, {**CRITICAL, "rises": True}
    )
    assert found.logarithmic
    assert [math.exp(each) for each in found.values.values()] == pytest.approx([0.32, 0.32])


def test_a_turn_beyond_the_range_is_at_its_end_and_the_other_way_none():
    stages = {"trained": stage_turning_at(2000)}
    found = compute_statistic("crossing_ratio", stages, {**CRITICAL, "rises": True})
    assert math.exp(found.values[0]) == pytest.approx(2.56)
    other = compute_statistic("crossing_ratio", stages, {**CRITICAL, "rises": False})
    assert not other.values
    assert "seed 1: the slopes do not fall with batch_size" in other.notes[1]


def test_a_figure_of_slopes():
    of = [{"name": "β2", "over": "memory2", "beta1": 0.9}]
    figure = slopes("t", stage_turning_at(16), {**ASKED, "of": of})
    assert figure.series[0].name == "β2"
    assert figure.series[0].x == [4, 16, 64, 256]
    assert figure.series[0].y == pytest.approx([-0.2, 0, 0.2, 0.4])


def test_distances_of_the_last_half():
    found = run(distances=[(0, 0.0), (10, 1.0), (20, 2.0), (30, 4.0)])
    assert number_of(found, "distance") == 3
    assert series_of(found, "distance")[-1] == (30, 4.0)
