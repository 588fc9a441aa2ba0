"""The path of a training: a checkpoint at some steps, each as a shorter training leaves it."""

import pytest
import torch
from plain_loops import task
from tiny_sweeps import write

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs import train as module
from sharpcli.runs.saved_path import saved_steps
from sharpcli.runs.sweep import sweep
from sharpcli.runs.train import train_and_save
from sharpcli.runs.training_files import TrainingFiles
from sharpcli.runtime.progress import Notes
from sharpcli.training import TrainSettings
from sharpcli.training.state import StateFile


@pytest.fixture
def output(tmp_path):
    return tmp_path / "a.safetensors"


def path_of(output):
    return {file.name: file.read_bytes() for file in saved_steps(TrainingFiles.beside(output).path)}


def names(*steps):
    return [f"step-{step:08}.safetensors" for step in steps]


@pytest.mark.parametrize(
    ("every", "steps"), [(3, (0, 3, 6, 9, 10)), (5, (0, 5, 10)), ("log", (0, 1, 2, 4, 8, 10))]
)
def test_it_has_the_first_and_the_last_and_those_between(output, every, steps):
    train_and_save(task(), TrainSettings(batch_size=8, steps=10, save_every=every), output)
    assert [*path_of(output)] == names(*steps)


@pytest.mark.parametrize("given", [{}, {"ema": 0.5}, {"schedule": "COS(k0=0.1,k1=0.01,l=9)"}])
def test_each_has_the_bytes_of_a_training_of_that_many_steps(output, given):
    train_and_save(task(), TrainSettings(batch_size=8, steps=9, save_every=4, **given), output)
    kept = path_of(output)
    for steps in (4, 8, 9):
        train_and_save(task(), TrainSettings(batch_size=8, steps=steps, **given), output)
        assert kept[f"step-{steps:08}.safetensors"] == output.read_bytes()
    first = load_checkpoint(TrainingFiles.beside(output).path / names(0)[0])
    assert (first.metadata["steps"], first.metadata["epochs"]) == (0, 0)


def test_it_does_not_change_the_training(output):
    settings = TrainSettings(batch_size=8, steps=9)
    train_and_save(task(), settings, output)
    alone = output.read_bytes()
    train_and_save(task(), TrainSettings(batch_size=8, steps=9, save_every=1), output)
    assert output.read_bytes() == alone


class StoppedError(Exception):
    """The process ends here."""


class Stopping(StateFile):
    """Keeps the state of every third step, and stops after the next one."""

    asked, after = 0, 0

    @property
    def due(self):
        Stopping.asked += 1
        if Stopping.asked == Stopping.after:
            raise StoppedError
        return Stopping.asked % 3 == 0


@pytest.mark.parametrize("after", [1, 4, 5])
def test_a_training_that_goes_on_ends_with_the_same_path(output, after, monkeypatch):
    settings = TrainSettings("adam", batch_size=8, steps=11, save_every=2)
    train_and_save(task(), settings, output)
    expected = path_of(output)
    monkeypatch.setattr(module, "StateFile", Stopping)
    Stopping.asked, Stopping.after = 0, after
    with pytest.raises(StoppedError):
        train_and_save(task(), settings, output)
    assert len(path_of(output)) < len(expected)
    train_and_save(task(), settings, output)
    assert path_of(output) == expected


def test_a_file_that_is_gone_is_said(output, monkeypatch):
    settings = TrainSettings("adam", batch_size=8, steps=11, save_every=2)
    monkeypatch.setattr(module, "StateFile", Stopping)
    Stopping.asked, Stopping.after = 0, 4
    with pytest.raises(StoppedError):
        train_and_save(task(), settings, output)
    (TrainingFiles.beside(output).path / names(2)[0]).unlink()
    with pytest.raises(SharpError, match=r"step-00000002\.safetensors: is missing") as e:
        train_and_save(task(), settings, output)
    assert "start over with resume=False" in e.value.hint
    train_and_save(task(), settings, output, resume=False)
    assert len(path_of(output)) == 7


def test_an_earlier_path_is_replaced_and_other_files_stay(output):
    said = []
    notes = Notes(said.append)
    settings = {"batch_size": 8, "steps": 6}
    train_and_save(task(), TrainSettings(**settings, save_every=1), output, notes=notes)
    assert said == []
    folder = TrainingFiles.beside(output).path
    (folder / "notes.txt").write_text("mine")
    train_and_save(task(), TrainSettings(**settings, save_every=4), output, notes=notes)
    assert said == [f"{folder}: removed 7 checkpoints of an earlier training"]
    assert [*path_of(output)] == names(0, 4, 6)
    assert (folder / "notes.txt").read_text() == "mine"
    train_and_save(task(), TrainSettings(**settings), output, notes=notes)
    assert said[1] == f"{folder}: holds checkpoints of an earlier training, not of this one"


def test_a_file_in_the_way_of_the_folder_is_said(output):
    TrainingFiles.beside(output).path.write_text("")
    with pytest.raises(SharpError, match=r"a\.safetensors\.path: cannot hold the path"):
        train_and_save(task(), TrainSettings(steps=2, save_every=1), output)


@pytest.mark.parametrize("every", [0, -1, "often"])
def test_what_is_no_number_of_steps_is_refused(every):
    with pytest.raises(UsageError, match=r"save_every=\S+: is out of range"):
        TrainSettings(save_every=every)


def test_a_run_of_a_sweep_has_its_path_and_curves_in_its_folder(tmp_path):
    content = 'task = "task.py"\n[fixed]\nsteps = 3\nsave_every = "log"\n[grid]\nseed = [0, 1]\n'
    sweep(write(tmp_path, content), tmp_path / "out")
    for run in ("seed=0", "seed=1"):
        folder = tmp_path / "out" / run
        found = sorted(str(each.relative_to(folder)) for each in folder.rglob("*.*"))
        path = [f"path/{name}" for name in names(0, 1, 2, 3)]
        assert found == ["curves.json", "model.safetensors", *path, "run.json"]
    tensors = load_checkpoint(folder / "path" / names(3)[0]).tensors
    last = load_checkpoint(folder / "model.safetensors").tensors
    assert all(torch.equal(last[name], tensors[name]) for name in last)
