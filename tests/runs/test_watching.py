"""The checkpoints of a folder, measured as they are written."""

import shutil
from pathlib import Path

import pytest
import torch
from networks import CASES
from sharpcli.settings.measuring import MeasureSettings, RunSettings

from sharpcli.checkpoint import save_checkpoint
from sharpcli.documents.results import CheckpointResult, Failure
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs import watching
from sharpcli.runs.measure import measure_checkpoints
from sharpcli.runs.watching import Arrivals, Watch, check_watch, each_arrival


class Folder:
    """A folder with a clock of its own: `then` happens at given seconds, while the watch sleeps."""

    def __init__(self, path, then=(), idle=10.0):
        self.path, self.now, self.then = path, 0.0, dict(then)
        self.arrivals = Arrivals(path, idle, lambda: self.now, self.sleep)

    def sleep(self, seconds):
        self.now += seconds
        for moment in [each for each in self.then if each <= self.now]:
            self.then.pop(moment)()

    def write(self, name, content=b"x"):
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def names(self):
        found = []
        while (path := self.arrivals.next()) is not None:
            found.append((path.name, self.now))
        return found


def test_a_file_comes_when_it_has_not_changed_for_two_seconds(tmp_path):
    folder = Folder(tmp_path)
    folder.then = {
        second: lambda second=second: folder.write("a.pt", b"x" * second) for second in range(1, 6)
    }
    assert folder.names() == [("a.pt", 7.0)]


def test_what_is_there_comes_first_and_in_natural_order(tmp_path):
    folder = Folder(tmp_path)
    for name in ("step-10.pt", "step-9.pt", "step-100.pt"):
        folder.write(name)
    folder.then = {8.0: lambda: folder.write("step-1.pt"), 25.0: lambda: folder.write("late.pt")}
    names = ["step-9.pt", "step-10.pt", "step-100.pt", "step-1.pt"]
    assert [name for name, _ in folder.names()] == names
    assert folder.now == 20.0  # ten seconds after the last one


def test_only_checkpoints_come_and_each_once(tmp_path):
    folder = Folder(tmp_path)
    for name in (
        *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "notes.txt"),
        *(".a.safetensors.sharp.part", ".hidden.pt", "model-00001-of-00002.safetensors"),
        *("checkpoint-500/model.safetensors", "checkpoint-500/trainer_state.json"),
        *("logs/events.out", "tmp-checkpoint-600/model.safetensors"),
    ):
        folder.write(name)
    (tmp_path / "last.safetensors").symlink_to("model.safetensors")
    assert [name for name, _ in folder.names()] == ["checkpoint-500", "model.safetensors"]
    folder.write("model.safetensors", b"other")
    assert folder.names() == []


def test_a_folder_is_complete_when_its_last_file_is(tmp_path):
    folder = Folder(tmp_path)
    folder.write("checkpoint-1/model.safetensors")
    folder.then = {1.5: lambda: folder.write("checkpoint-1/trainer_state.json", b"{}")}
    assert folder.names() == [("checkpoint-1", 3.5)]


def test_what_cannot_be_read_comes_again_when_it_changes_or_after_a_minute(tmp_path):
    folder = Folder(tmp_path, idle=200.0)
    folder.write("a.pt")
    path = folder.arrivals.next()
    assert folder.arrivals.comes_again(path)
    folder.then = {10.0: lambda: folder.write("a.pt", b"more")}
    assert folder.arrivals.next() == path
    assert folder.now == 12.0
    assert folder.arrivals.comes_again(path)
    assert folder.arrivals.next() == path
    assert folder.now == 70.0
    assert not folder.arrivals.comes_again(path)


def test_what_cannot_be_read_comes_a_last_time_before_the_watch_ends(tmp_path):
    folder = Folder(tmp_path, idle=5.0)
    folder.write("a.pt")
    path = folder.arrivals.next()
    assert folder.arrivals.comes_again(path)
    assert folder.arrivals.next() == path
    assert not folder.arrivals.comes_again(path)
    assert folder.arrivals.next() is None


def test_what_is_removed_before_it_is_measured_does_not_come(tmp_path):
    folder = Folder(tmp_path)
    folder.write("checkpoint-1/model.safetensors")
    folder.then = {1.0: lambda: shutil.rmtree(tmp_path / "checkpoint-1")}
    assert folder.names() == []


@pytest.fixture
def quick(monkeypatch):
    """Watches that take milliseconds."""
    for name, seconds in (("_PAUSE", 0.01), ("_SETTLED", 0.02), ("_PATIENCE", 0.1)):
        monkeypatch.setattr(watching, name, seconds)


def arrivals_of(folder, work, told=lambda result: None, idle=0.05):
    return each_arrival(
        Watch(folder, idle, told),
        work,
        lambda about, error: CheckpointResult(about, Outcome.FAILED, error=error),
        is_last=lambda result: False,
        done=lambda result: None,
    )


def test_a_broken_file_is_a_failure_and_the_others_are_measured(tmp_path, quick):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"x")
    told = []

    def work(path, about):
        if path.name == "a.pt":
            raise SharpError("a.pt: is cut off", "copy it again")
        return CheckpointResult(about)

    results = arrivals_of(tmp_path, work, told.append)
    assert [(Path(each.checkpoint["path"]).name, each.status) for each in results] == [
        ("b.pt", "ok"),
        ("a.pt", "failed"),
    ]
    assert told == results
    assert results[1].error == Failure("a.pt: is cut off", "copy it again")


def test_misuse_ends_a_watch_at_its_first_checkpoint(tmp_path, quick):
    (tmp_path / "a.pt").write_bytes(b"x")

    def work(path, about):
        raise UsageError("no task", "name one")

    with pytest.raises(UsageError, match="no task"):
        arrivals_of(tmp_path, work)


def test_a_watch_in_which_nothing_came_says_so(tmp_path, quick):
    with pytest.raises(SharpError, match=r"no checkpoint has come in 0\.05 s"):
        arrivals_of(tmp_path, lambda path, about: CheckpointResult(about))


def test_what_does_not_go_with_a_watch_is_refused(tmp_path):
    plain = MeasureSettings()
    check_watch(Watch(tmp_path), (), plain)
    for watch, paths, settings, said in (
        (Watch(tmp_path / "none"), (), plain, "is not a folder"),
        (Watch(tmp_path), ("a.pt",), plain, "checkpoints are named as well"),
        (Watch(tmp_path), (), MeasureSettings(time=5.0), "is not known"),
        (Watch(tmp_path), (), MeasureSettings(baseline="a.pt"), "is not known"),
        (Watch(tmp_path), (), MeasureSettings(decide="hessian"), "is not known"),
    ):
        with pytest.raises(UsageError, match=said):
            check_watch(watch, paths, settings)


def test_checkpoints_that_come_during_the_watch_are_measured(tmp_path, quick):
    of, told = CASES["tanh"], []

    def write(step):
        generator = torch.Generator().manual_seed(step)
        tensors = {
            name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in of.model().state_dict().items()
        }
        save_checkpoint(tmp_path / "next", tensors, {"step": step})
        (tmp_path / "next").replace(tmp_path / f"step-{step}.safetensors")

    def seen(result):
        told.append(result.checkpoint["metadata"]["step"])
        if len(told) < 3:
            write(len(told) + 1)

    write(1)
    (tmp_path / "half.safetensors").write_bytes(
        (tmp_path / "step-1.safetensors").read_bytes()[:200]
    )
    report = measure_checkpoints(
        (),
        of,
        run=RunSettings(device="cpu"),
        settings=MeasureSettings(measures=("loss",)),
        watch=Watch(tmp_path, 0.3, lambda result: None if result.error else seen(result)),
    )
    assert told == [1, 2, 3]
    sound = [each for each in report.results if each.status == Outcome.OK]
    assert len({each.measures["loss"]["train"].value for each in sound}) == 3
    (broken,) = (each for each in report.results if each not in sound)
    assert broken.checkpoint["path"].endswith("half.safetensors")
    assert report.pairs
