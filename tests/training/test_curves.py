"""What is noted of a training's steps."""

import plain_loops as plain
import pytest
import torch

from sharpcli.training import TrainSettings
from sharpcli.training.curves import MOST, Recorder
from sharpcli.training.loop import train


def test_long_trainings_are_thinned_evenly():
    recorder = Recorder()
    for step in range(10_000):
        if recorder.wants(step):
            recorder.add(step, float(step), 0.1, 8, torch.tensor(float("inf")))
    curves = recorder.curves()
    assert MOST / 2 <= len(curves.step) <= MOST
    assert curves.step == list(range(1, 10_001, 8))
    assert curves.loss == [step - 1.0 for step in curves.step]
    assert set(curves.gradient_norm) == {float("inf")}


def test_the_numbers_of_each_step():
    curves = train(plain.task(), TrainSettings(batch_size=24, steps=4, lr=0.05)).curves
    assert (curves.step, curves.batch_size, curves.lr) == ([1, 2, 3, 4], [24] * 4, [0.05] * 4)
    first = plain.gradient(plain.START)
    assert curves.gradient_norm[0] == pytest.approx(float((first**2).sum() ** 0.5), rel=1e-5)
    errors = plain.INPUTS @ plain.START - plain.TARGETS
    assert curves.loss[0] == pytest.approx(float((errors**2).mean() / 2), rel=1e-5)
    assert curves.loss == sorted(curves.loss, reverse=True)


def test_norms_are_taken_at_the_first_steps_and_then_at_some():
    curves = train(plain.task(), TrainSettings(batch_size=24, steps=100)).curves
    known = [step for step, norm in zip(curves.step, curves.gradient_norm, strict=True) if norm > 0]
    assert known == [*range(1, 66), 81, 97]
