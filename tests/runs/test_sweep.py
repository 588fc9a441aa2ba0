"""Sweeps: every run trained once, whatever happens in between."""

import json
import shutil
import signal
from multiprocessing import active_children

import pytest
from tiny_sweeps import FOUR, NAMES, TASK, checkpoints, write

from sharpcli.checkpoint import load_checkpoint
from sharpcli.documents.reading import load_document
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs import sweep_run as module
from sharpcli.runs import train
from sharpcli.runs.sweep import Watch, sweep
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_together import Way
from sharpcli.training.sweep_file import read_sweep


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def trained(monkeypatch):
    """The runs that are trained, in order."""
    names = []
    train = module.train_and_save

    def recorded(task, settings, output, progress, **more):
        names.append(output.parent.name)
        return train(task, settings, output, progress, **more)

    monkeypatch.setattr(module, "train_and_save", recorded)
    return names


def statuses(document):
    return {result["run"]: result["status"] for result in document["results"]}


def test_each_run_has_a_checkpoint_with_its_settings(tmp_path, out):
    document = sweep(write(tmp_path), out)
    assert statuses(document) == dict.fromkeys(NAMES, "ok")
    assert load_document(out / "sweep.json")["results"] == document["results"]
    metadata = load_checkpoint(out / "optimizer=adam,seed=1" / "model.safetensors").metadata
    assert (metadata["optimizer"], metadata["seed"], metadata["lr"]) == ("adam", 1, 0.001)
    assert metadata["task_options"] == "width=3"
    last = document["results"][-1]
    assert last["checkpoint"]["metadata"] == metadata
    assert last["steps"] == 1
    assert last["loss"]["train"]["value"] == pytest.approx(metadata["train_loss"], rel=1e-5)


def test_finished_runs_are_not_trained_again(tmp_path, out, trained):
    file = write(tmp_path)
    first = sweep(file, out)
    planned = []
    again = sweep(file, out, watch=Watch(planned=lambda runs, done: planned.append(done)))
    assert trained == NAMES
    assert planned == [NAMES]
    assert again["results"] == first["results"]


def test_a_run_without_its_checkpoint_is_trained_again_to_the_same_bytes(tmp_path, out, trained):
    file = write(tmp_path)
    sweep(file, out)
    before = checkpoints(out)
    (out / NAMES[2] / "model.safetensors").unlink()
    sweep(file, out)
    assert trained == [*NAMES, NAMES[2]]
    assert checkpoints(out) == before


def test_a_checkpoint_without_its_record_is_enough(tmp_path, out, trained):
    file = write(tmp_path)
    first = sweep(file, out)["results"][0]
    (out / NAMES[0] / "run.json").unlink()
    (out / NAMES[1] / "run.json").write_text("{", "utf-8")
    again = sweep(file, out)["results"][0]
    assert trained == NAMES
    assert "seconds" not in again
    for key in ("status", "epochs", "steps", "loss", "checkpoint"):
        assert again[key] == first[key]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 1", "epochs = 2", "epochs was 1, is 2 (4 runs)"),
        ("epochs = 1", "epochs = 1\nlr = 0.3", "lr was not given, is 0.3 (4 runs)"),
        ("width = 3", "width = 5", "options.width was 3, is 5 (4 runs)"),
        ("seed = [0, 1]", "seed = [1, 2]", "runs that are gone: optimizer=adam,seed=0"),
        ('"sgd", "adam"', '"adam", "adamw"', "runs that are new: optimizer=adamw,seed=0"),
        ("seed = [0, 1]", "weight_decay = [0.1, 0.2]", "holds another sweep"),
    ],
)
def test_a_changed_file_says_what_differs(tmp_path, out, trained, old, new, message):
    sweep(write(tmp_path), out)
    before, record = checkpoints(out), (out / "sweep.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        sweep(write(tmp_path, FOUR.replace(old, new)), out)
    assert message in str(caught.value)
    assert trained == NAMES
    assert (checkpoints(out), (out / "sweep.json").read_bytes()) == (before, record)


def test_a_changed_task_is_a_difference(tmp_path, out):
    sweep(write(tmp_path), out)
    with pytest.raises(UsageError, match=r"the task's code has changed \(4 runs\)"):
        sweep(write(tmp_path, task=TASK.replace("20, 3", "21, 3")), out)


def test_runs_can_be_added(tmp_path, out, trained):
    sweep(write(tmp_path), out)
    added = []
    more = FOUR.replace("[0, 1]", "[0, 1, 2]")
    document = sweep(write(tmp_path, more), out, watch=Watch(added=added.extend))
    assert set(statuses(document).values()) == {"ok"}
    assert added == trained[4:] == ["optimizer=sgd,seed=2", "optimizer=adam,seed=2"]


def test_a_folder_with_other_files_is_refused(tmp_path, out):
    out.mkdir()
    (out / "thesis.tex").write_text("dear")
    with pytest.raises(UsageError, match=r"holds no sweep \(thesis\.tex\)"):
        sweep(write(tmp_path), out)
    with pytest.raises(UsageError, match="is not a folder"):
        sweep(write(tmp_path), tmp_path / "task.py")


def test_a_wrong_option_of_the_task_is_refused_before_anything_is_trained(tmp_path, out):
    with pytest.raises(UsageError, match=r"sweep\.toml.*did you mean 'width'"):
        sweep(write(tmp_path, FOUR.replace("width", "widht")), out)
    assert not out.exists()


DIVERGING = FOUR.replace("epochs = 1", "epochs = 9").replace('"adam"]', '"adam"]\nlr = [0.1, 1e30]')


def test_a_diverged_run_is_kept_and_the_others_go_on(tmp_path, out, trained):
    document = sweep(write(tmp_path, DIVERGING), out)
    bad = [r for r in document["results"] if r["status"] == "failed"]
    assert {r["run"] for r in bad} == {
        f"optimizer={name},lr=1e+30,seed={seed}" for name in ("sgd", "adam") for seed in (0, 1)
    }
    assert {r["error"]["kind"] for r in bad} == {"diverged"}
    assert "lower the learning rate (lr is 1e+30)" in bad[0]["error"]["hint"]
    assert len(checkpoints(out)) == 4
    count = len(trained)
    assert sweep(write(tmp_path, DIVERGING), out)["results"] == document["results"]
    assert len(trained) == count  # it would diverge again


def test_a_failed_run_is_tried_again(tmp_path, out, trained):
    flaky = TASK.replace(
        "def model(width: int = 4):",
        "def model(width: int = 4):\n    import pathlib\n"
        "    assert not pathlib.Path(__file__).with_name('bad').exists()",
    )
    file = write(tmp_path, task=flaky)
    (tmp_path / "bad").touch()
    document = sweep(file, out)
    assert set(statuses(document).values()) == {"failed"}
    assert "kind" not in document["results"][0]["error"]
    (tmp_path / "bad").unlink()
    assert set(statuses(sweep(file, out)).values()) == {"ok"}


def test_what_is_finished_is_kept_where_ctrl_c_ends_it(tmp_path, out, monkeypatch):
    file = write(tmp_path)
    train = module.train_and_save

    def interrupted(task, settings, output, progress, **more):
        if output.parent.name == NAMES[2]:
            raise KeyboardInterrupt
        return train(task, settings, output, progress, **more)

    monkeypatch.setattr(module, "train_and_save", interrupted)
    document = sweep(file, out)
    wanted = ["ok", "ok", "interrupted", "waiting"]
    assert [*statuses(document).values()] == wanted
    saved = json.loads((out / "sweep.json").read_text("utf-8"))
    assert [*statuses(saved).values()] == wanted
    monkeypatch.undo()
    assert set(statuses(sweep(file, out)).values()) == {"ok"}


@pytest.mark.usefixtures("handled")
def test_ctrl_c_while_a_run_is_saved_keeps_all_of_it(tmp_path, out, monkeypatch):
    file, save = write(tmp_path), train.save_trained

    def pressed(*args):
        signal.raise_signal(signal.SIGINT)
        return save(*args)

    monkeypatch.setattr(train, "save_trained", pressed)
    document = sweep(file, out)
    assert statuses(document) == dict.fromkeys(NAMES, "interrupted") | {NAMES[0]: "ok"}
    assert document["results"][0]["seconds"] > 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_ends_while_its_files_are_read_is_finished(tmp_path, out, monkeypatch, when):
    plan = read_sweep(write(tmp_path))
    run, folder = plan.runs[0], SweepFolder(out, plan)
    sweep(plan.path, out)
    (out / run.name).rename(tmp_path / "ended")
    read = SweepFolder._read

    def ended(folder, run):
        if when == "before":
            (tmp_path / "ended").rename(out / run.name)
        state = read(folder, run)
        if when == "after":
            (tmp_path / "ended").rename(out / run.name)
        return state

    monkeypatch.setattr(SweepFolder, "_read", ended)
    assert folder.is_finished(run)


def test_shards_train_their_own_runs_to_the_same_bytes(tmp_path, out, trained):
    file = write(tmp_path)
    sweep(file, out)
    parts = tmp_path / "parts"
    first = sweep(file, parts, shard=(1, 2))
    assert [*statuses(first).values()] == ["ok", "waiting", "ok", "waiting"]
    second = sweep(file, parts, shard=(2, 2))
    assert set(statuses(second).values()) == {"ok"}
    assert trained[4:] == [*NAMES[::2], *NAMES[1::2]]
    assert checkpoints(parts) == checkpoints(out)


DYING = TASK.replace(
    "def model(width: int = 4):",
    "def model(width: int = 4):\n    import os, signal\n"
    "    if torch.initial_seed() == 7: os.kill(os.getpid(), signal.SIGKILL)",
)
THREE = FOUR.replace('optimizer = ["sgd", "adam"]\n', "").replace("[0, 1]", "[0, 7, 2]")


def test_processes_train_to_the_same_bytes_and_one_that_dies_is_marked(tmp_path, out):
    one_by_one = THREE.replace("[0, 7, 2]", "[0, 2]")
    sweep(write(tmp_path, one_by_one, DYING), out)
    ended, progress = [], []
    watch = Watch(ended=lambda name, _: ended.append(name), progress=lambda *x: progress.append(x))
    file, together = write(tmp_path, THREE, DYING), tmp_path / "jobs"
    document = sweep(file, together, jobs=2, watch=watch)
    assert statuses(document) == {"seed=0": "ok", "seed=7": "failed", "seed=2": "ok"}
    error = document["results"][1]["error"]
    assert error["message"] == "the process that trained it was ended by SIGKILL"
    assert "jobs" in error["hint"]
    assert checkpoints(together) == checkpoints(out)
    assert sorted(ended) == ["seed=0", "seed=2", "seed=7"]
    assert ("seed=0", 1, 1) in progress


SPOILING = TASK.replace(
    "def model(width: int = 4):",
    """def model(width: int = 4):
    import pathlib, shutil
    folder = pathlib.Path(__file__).parent / "jobs" / "seed=7"
    if torch.initial_seed() == 7:
        shutil.rmtree(folder)
        folder.write_text("no folder")""",
)


MARKED = TASK.replace(
    "    return torch.nn.Seq",
    "    import os, pathlib\n"
    "    (pathlib.Path(__file__).parent / f'{torch.initial_seed()}-{os.getpid()}').touch()\n"
    "    return torch.nn.Seq",
)


def test_a_process_that_dies_between_two_runs_costs_none(tmp_path, out):
    """It dies after its run has ended, and before it is given another one."""
    killed = []

    def kill(name, _):
        if not killed:
            (mark,) = tmp_path.glob(f"{name.removeprefix('seed=')}-*")
            process = next(p for p in active_children() if mark.name.endswith(f"-{p.pid}"))
            process.kill()
            process.join()
            killed.append(name)

    content = FOUR.replace('optimizer = ["sgd", "adam"]\n', "").replace("[0, 1]", "[0, 1, 2, 3]")
    file, way = write(tmp_path, content, MARKED), Way.ONE_BY_ONE
    document = sweep(file, out, jobs=2, way=way, watch=Watch(ended=kill))
    assert killed
    assert set(statuses(document).values()) == {"ok"}


def test_a_folder_that_a_process_cannot_write_to_is_one_message(tmp_path, capfd):
    with pytest.raises(SharpError, match=r"seed=7.* cannot be written"):
        sweep(write(tmp_path, THREE, SPOILING), tmp_path / "jobs", jobs=2)
    assert "Traceback" not in capfd.readouterr().err


def test_a_moved_folder_goes_on(tmp_path, out, trained):
    file = write(tmp_path)
    sweep(file, out)
    shutil.move(out, tmp_path / "moved")
    document = sweep(file, tmp_path / "moved")
    assert trained == NAMES
    assert "moved" in document["results"][0]["checkpoint"]["path"]
