"""Searches: every trial counted once, whatever happens in between."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny_searches import FIVE, checkpoints, write

pytest.importorskip("optuna")

from optuna import Study

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs import search as module
from sharpcli.runs import search_study, search_trial, train
from sharpcli.runs.search import SearchWatch, search
from sharpcli.tasks import load_task
from sharpcli.training.held_out import with_validation
from sharpcli.training.search_file import read_search


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def statuses(document):
    return [result["status"] for result in document["results"]]


def choices(document):
    return [result["chosen"] for result in document["results"]]


class StoppedError(Exception):
    """The process ends here."""


@pytest.fixture
def stop(monkeypatch):
    """Let the process end while the trial of a number is trained."""
    train, calls = search_trial.train_and_save, []

    def set_(number):
        def stopping(task, settings, output, progress, **others):
            if len(calls) == number:
                calls.append(output)
                raise StoppedError
            calls.append(output)
            return train(task, settings, output, progress, **others)

        monkeypatch.setattr(search_trial, "train_and_save", stopping)
        return calls

    return set_


def test_each_trial_has_a_checkpoint_with_its_settings(tmp_path, out):
    document = search(write(tmp_path), out)
    assert document["kind"] == "search"
    assert json.loads((out / "search.json").read_text("utf-8")) == document
    assert set(statuses(document)) <= {"ok", "pruned"}
    assert len(document["results"]) == 5
    for result in document["results"]:
        assert result["settings"]["schedule"].startswith(f"EXP({result['chosen']['k0']}, ")
    first = document["results"][0]
    metadata = load_checkpoint(first["checkpoint"]["path"]).metadata
    assert metadata["optimizer"] == first["chosen"]["optimizer"]
    assert metadata["schedule"] == first["settings"]["schedule"]
    assert metadata["searched"] == "validation loss"
    assert metadata["held_out"] == 0.2


def test_the_objective_is_that_of_the_saved_weights_on_data_that_no_step_saw(tmp_path, out):
    result = search(write(tmp_path), out)["results"][0]
    tensors = load_checkpoint(result["checkpoint"]["path"]).tensors
    task = with_validation(load_task(tmp_path / "task.py", {"width": "3"}), 0.2, 0)
    model = task.model()
    model.load_state_dict(tensors)
    inputs, classes = task.data("validation")
    loss = torch.nn.functional.cross_entropy(model(inputs), classes).item()
    assert len(classes) == 4
    assert result["objective"] == pytest.approx(loss, rel=1e-6)
    assert result["objectives"][-1] == result["objective"]
    assert result["points"] == [1, 2]


def test_finished_trials_are_not_run_again_and_more_can_be_added(tmp_path, out, stop):
    file = write(tmp_path)
    ran = stop(-1)
    first = search(file, out)
    planned = []
    again = search(file, out, watch=SearchWatch(planned=lambda *n: planned.append(n)))
    assert (len(ran), planned) == (5, [(5, 5)])
    assert again["results"] == first["results"]
    more = search(file, out, trials=7)
    assert len(ran) == 7
    assert more["results"][:5] == first["results"]


@pytest.mark.parametrize("number", [0, 3])
def test_a_trial_whose_process_died_is_tried_again_with_its_values(tmp_path, out, stop, number):
    file = write(tmp_path)
    stop(number)
    with pytest.raises(StoppedError):
        search(file, out)
    again = search(file, out)
    alone = search(file, tmp_path / "alone")
    assert choices(again) == choices(alone)
    assert statuses(again) == statuses(alone)
    assert checkpoints(out) == checkpoints(tmp_path / "alone")
    assert [r["trial"] for r in again["results"]] == [f"trial-{n:04}" for n in range(5)]


def test_a_trial_that_always_ends_its_process_is_given_up(tmp_path, out, stop):
    file = write(tmp_path)
    for _ in range(3):
        stop(len(stop(-1)))
        with pytest.raises(StoppedError):
            search(file, out)
    stop(-1)
    results = search(file, out)["results"]
    assert len(results) == 5
    assert results[0]["error"]["message"] == "the process that trained it has died 3 times"


def test_two_processes_make_the_same_checkpoints_of_the_same_choices(tmp_path, out):
    """Random choices depend on the seed and the trial alone."""
    file = write(tmp_path, 'sampler = "random"\npruner = "none"\n' + FIVE)
    ended = []
    both = search(file, out, jobs=2, watch=SearchWatch(ended=lambda name, _: ended.append(name)))
    assert sorted(ended) == [f"trial-{n:04}" for n in range(5)]
    alone = search(file, tmp_path / "alone")
    assert choices(both) == choices(alone)
    assert checkpoints(out) == checkpoints(tmp_path / "alone")


MEND = """
import sys
from pathlib import Path
from sharpcli.runs.search_study import SearchStudy
from sharpcli.training.search_file import read_search

with SearchStudy.opened(read_search(Path(sys.argv[1])), Path(sys.argv[2]), None) as study:
    print(study.mend())
"""


def test_a_trial_is_alive_until_the_study_knows_how_it_ended(tmp_path, out, monkeypatch):
    """Another process looks once the checkpoint is written, and before the study is told."""
    file, save, mended = write(tmp_path), train.save_trained, []

    def looked_at(*args):
        saved = save(*args)
        words = [sys.executable, "-c", MEND, str(file), str(out)]
        mended.append(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        return saved

    monkeypatch.setattr(train, "save_trained", looked_at)
    assert statuses(search(file, out, trials=1)) == ["ok"]
    assert mended == ["0\n"]


OPEN = """
import contextlib, sys
from pathlib import Path
from sharpcli.runs import search_study
from sharpcli.runtime import files
from sharpcli.runtime.reservations import InUseError
from sharpcli.training.search_file import read_search

reserved = files.reserved

@contextlib.contextmanager
def told(*paths):
    try:
        with reserved(*paths):
            yield
    except InUseError:
        print("waits", flush=True)
        raise

files.reserved = told
file, output, *storage = sys.argv[1:]
search, storage = read_search(Path(file)), next(iter(storage), None)
with search_study.SearchStudy.opened(search, Path(output), storage):
    print("opened", flush=True)
"""


def test_two_processes_may_begin_a_search_at_the_same_time(tmp_path, out):
    """Another one begins once this one has seen that there are no tables, and has made none."""
    import sqlalchemy
    from optuna.storages._rdb.models import BaseModel

    file, others = write(tmp_path), []

    def begun(*_, **__):
        words = [sys.executable, "-c", OPEN, str(file), str(out)]
        others.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        others[0].stdout.readline()

    sqlalchemy.event.listen(BaseModel.metadata, "before_create", begun, once=True)
    assert statuses(search(file, out, trials=1)) == ["ok"]
    (other,) = others
    assert other.communicate()[0].endswith("opened\n")
    assert other.returncode == 0


def test_two_machines_may_begin_a_search_at_the_same_time(tmp_path, out):
    """Each has a folder of its own, and both have one storage."""
    import sqlalchemy
    from optuna.storages._rdb.models import BaseModel

    file, storage, said = write(tmp_path), f"sqlite:///{tmp_path}/shared.db", []
    (tmp_path / "other").mkdir()

    def begun(*_, **__):
        words = [sys.executable, "-c", OPEN, str(file), str(tmp_path / "other"), storage]
        said.append(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)

    sqlalchemy.event.listen(BaseModel.metadata, "before_create", begun, once=True)
    assert statuses(search(file, out, trials=1, storage=storage)) == ["ok"]
    assert said == ["opened\n"]


def test_two_machines_may_claim_a_study_at_the_same_time(tmp_path, out, monkeypatch):
    """The other one has its folder, and goes on in it, when this one is to mark its own."""
    file, storage = write(tmp_path), f"sqlite:///{tmp_path}/shared.db"
    words = [sys.executable, "-c", OPEN, str(file), str(tmp_path / "other"), storage]
    (tmp_path / "other").mkdir()
    set_attr = Study.set_user_attr

    def claimed(study, key, value):
        if key.startswith("sharp_mark"):
            monkeypatch.setattr(Study, "set_user_attr", set_attr)
            subprocess.run(words, check=True)
        set_attr(study, key, value)

    monkeypatch.setattr(Study, "set_user_attr", claimed)
    search(file, out, trials=1, storage=storage)
    subprocess.run(words, check=True)
    search(file, out, trials=1, storage=storage)


def test_processes_that_cannot_begin_end_the_search(tmp_path, out, monkeypatch):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv: os._exit(3)\n", "utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)
    with pytest.raises(SharpError, match="ended with code 3 before it began a trial"):
        search(write(tmp_path), out, trials=2, jobs=2)


LOOK = """
import sys
from pathlib import Path
from sharpcli.errors import SharpError
from sharpcli.runtime.files import reserved

try:
    with reserved(Path(sys.argv[1])):
        print("free")
except SharpError:
    print("held")
"""


def test_no_other_process_ends_a_trial_between_the_document_and_its_file(
    tmp_path, out, monkeypatch
):
    document, found = module.search_document, []

    def looked_at(*args):
        words = [sys.executable, "-c", LOOK, str(out / "search.lock")]
        found.append(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        return document(*args)

    monkeypatch.setattr(module, "search_document", looked_at)
    search(write(tmp_path), out, trials=1)
    assert found == ["held\n"]


@pytest.mark.usefixtures("handled")
def test_ctrl_c_while_a_trial_is_saved_keeps_it(tmp_path, out, monkeypatch, stop):
    file, save, ran = write(tmp_path), train.save_trained, stop(-1)

    def pressed(*args):
        signal.raise_signal(signal.SIGINT)
        return save(*args)

    monkeypatch.setattr(train, "save_trained", pressed)
    assert statuses(search(file, out, trials=2)) == ["ok"]
    monkeypatch.setattr(train, "save_trained", save)
    assert statuses(search(file, out, trials=2)) == ["ok", "ok"]
    assert len(ran) == 2


@pytest.mark.usefixtures("handled")
def test_ctrl_c_is_no_death_of_a_process(tmp_path, out, monkeypatch):
    file, save = write(tmp_path), train.train

    def pressed(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "train", pressed)
    for _ in range(4):
        assert statuses(search(file, out, trials=1)) == ["waiting"]
    monkeypatch.setattr(train, "train", save)
    assert statuses(search(file, out, trials=1)) == ["ok"]


def test_a_killed_process_loses_nothing(tmp_path, out):
    file = write(tmp_path, FIVE.replace("epochs = 2", "epochs = 40"))
    words = ["search", str(file), "--output", str(out), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sharpcli", *words], stdout=subprocess.DEVNULL
    )
    while not (out / "trial-0001").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    document = search(file, out, trials=3)
    alone = search(file, tmp_path / "alone", trials=3)
    assert choices(document) == choices(alone)
    assert checkpoints(out) == checkpoints(tmp_path / "alone")


def test_a_grid_has_every_combination(tmp_path, out):
    content = FIVE.replace('k0 = { low = 1e-3, high = 1, scale = "log" }', "k0 = [0.1, 0.01]")
    content = content.replace("gamma = { low = 0.9, high = 1.0 }", "gamma = [1.0]")
    document = search(write(tmp_path, 'sampler = "grid"\npruner = "none"\n' + content), out)
    assert choices(document) == [
        {"optimizer": name, "k0": k0, "gamma": 1.0}
        for name in ("sgd", "adam")
        for k0 in (0.1, 0.01)
    ]


def test_a_choice_may_be_a_list(tmp_path, out):
    content = FIVE.replace('optimizer = ["sgd", "adam"]', "betas = [[0.9, 0.99], [0.5, 0.6]]")
    content = content.replace("[fixed]", '[fixed]\noptimizer = "adam"')
    for result in search(write(tmp_path, content), out)["results"]:
        assert result["settings"]["betas"] == result["chosen"]["betas"]


def test_hopeless_trials_end_early(tmp_path, out):
    content = 'objective = "accuracy"\nevery = 1\n' + FIVE.replace("trials = 5", "trials = 14")
    document = search(write(tmp_path, content.replace("epochs = 2", "steps = 20")), out)
    pruned = [result for result in document["results"] if result["status"] == "pruned"]
    assert pruned
    for result in pruned:
        assert result["points"][-1] < 20
        assert result["objective"] == result["objectives"][-1]
        assert "checkpoint" not in result
        assert not (out / result["trial"] / "model.safetensors").exists()
    assert sum(document["importance"].values()) == pytest.approx(1)


def test_failures_are_kept_and_the_others_go_on(tmp_path, out):
    content = FIVE.replace("k0 = { low = 1e-3, high = 1,", "k0 = { low = 1e-3, high = 1e38,")
    content = content.replace("optimizer = [", "momentum = [0.0, 0.9]\noptimizer = [")
    content = content.replace("trials = 5", 'trials = 12\nsampler = "random"\npruner = "none"')
    document = search(write(tmp_path, content), out)
    assert len(document["results"]) == 12
    assert {*statuses(document)} == {"ok", "failed"}
    errors = [r["error"] for r in document["results"] if "error" in r]
    assert any("adam has no such argument" in each["message"] for each in errors)
    assert any(each.get("kind") == "diverged" for each in errors)


def test_a_search_of_which_all_trials_fail_ends(tmp_path, out):
    content = FIVE.replace('["sgd", "adam"]', '["adam"]').replace("trials = 5", "trials = 9")
    with pytest.raises(SharpError, match=r"the first 5 trials failed, the last one by: .*momentum"):
        search(write(tmp_path, content.replace("[fixed]", "[fixed]\nmomentum = 0.9")), out)


def test_an_objective_that_does_not_exist_ends_it_at_once(tmp_path, out):
    with pytest.raises(UsageError, match="has no metric 'f1'"):
        search(write(tmp_path, 'objective = "f1"\n' + FIVE), out)


def test_another_search_is_refused_naming_what_differs(tmp_path, out):
    search(write(tmp_path), out, trials=1)
    changed = FIVE.replace("high = 1.0 }", "high = 0.99 }").replace("epochs = 2", "epochs = 3")
    with pytest.raises(UsageError, match="was begun with another") as e:
        search(write(tmp_path, changed), out)
    assert "fixed.epochs was 2, is 3" in e.value.message
    assert "search.gamma was " in e.value.message
    search(write(tmp_path), out, trials=2)  # it holds what it held


def test_the_folder_of_another_search_keeps_its_trials(tmp_path, out):
    file = write(tmp_path, FIVE)
    search(file, out, trials=2)
    before = checkpoints(out)
    other = file.with_name("other.toml")
    other.write_text(FIVE, "utf-8")
    with pytest.raises(UsageError, match="trials of another search, search"):
        search(other, out, trials=1)
    with pytest.raises(UsageError, match="another search, search in another storage"):
        search(file, out, trials=1, storage=f"sqlite:///{tmp_path}/other.db")
    assert checkpoints(out) == before
    assert statuses(search(file, out, trials=2)) == ["ok", "ok"]


def test_a_kill_before_the_first_trial_leaves_a_folder_that_goes_on(tmp_path, out, monkeypatch):
    def killed(*_):
        raise StoppedError

    monkeypatch.setattr(search_study.SearchStudy, "_compare", killed)
    with pytest.raises(StoppedError):
        search(write(tmp_path), out)
    assert (out / "search.db").exists()
    monkeypatch.undo()
    assert statuses(search(write(tmp_path), out, trials=1)) == ["ok"]


def test_a_kill_while_values_are_chosen_changes_no_later_trial(tmp_path, out, monkeypatch):
    from optuna.trial import Trial

    straight = search(write(tmp_path), out, trials=3)
    number, kept = 0, Trial.set_user_attr

    def killed(trial, key, value):
        nonlocal number
        number += key == "home"
        if number == 2:
            raise StoppedError  # it has its values, and nothing says whose it is
        kept(trial, key, value)

    monkeypatch.setattr(Trial, "set_user_attr", killed)
    with pytest.raises(StoppedError):
        search(write(tmp_path), tmp_path / "again", trials=3)
    monkeypatch.undo()
    document = search(write(tmp_path), tmp_path / "again", trials=3)
    assert choices(document) == choices(straight)
    assert checkpoints(tmp_path / "again") == checkpoints(out)


def test_a_kill_while_a_dead_trial_is_marked_tries_it_once_more(tmp_path, out, stop, monkeypatch):
    stop(1)
    with pytest.raises(StoppedError):
        search(write(tmp_path), out, trials=3)
    tell = Study.tell

    def killed(*_args, **_keywords):
        raise StoppedError

    monkeypatch.setattr(Study, "tell", killed)
    with pytest.raises(StoppedError):
        search(write(tmp_path), out, trials=3)
    monkeypatch.setattr(Study, "tell", tell)
    names = [result["trial"] for result in search(write(tmp_path), out, trials=3)["results"]]
    assert sorted(names) == ["trial-0000", "trial-0001", "trial-0002"]


def test_a_trial_that_ends_while_dead_ones_are_looked_for_is_none(tmp_path, out, monkeypatch):
    from optuna.trial import TrialState

    file = write(tmp_path)
    search(file, out, trials=1)
    with search_study.SearchStudy.opened(read_search(file), out, None) as study:
        (trial,) = study.trials
        trial.state = TrialState.RUNNING  # as it was when it was read
        monkeypatch.setattr(Study, "get_trials", lambda *_, **__: [trial])
        assert study.mend() == 0
        monkeypatch.undo()
        assert [each.state for each in study.trials] == [TrialState.COMPLETE]


def test_a_folder_of_something_else_is_refused(tmp_path, out):
    out.mkdir()
    (out / "thesis.tex").write_text("x", "utf-8")
    with pytest.raises(UsageError, match=r"is not empty and holds no search \(thesis.tex\)"):
        search(write(tmp_path), out)
    with pytest.raises(UsageError, match="is not a folder"):
        search(write(tmp_path), tmp_path / "task.py")


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("nonsense", "Could not parse"),
        ("redis://localhost", "removed"),
        ("oracle+none://me:secret@host/x", "oracle"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_message(tmp_path, out, storage, said):
    with pytest.raises(SharpError, match="the storage of the search cannot be used") as e:
        search(write(tmp_path), out, storage=storage)
    assert said in e.value.message
    assert "secret" not in e.value.message


def test_a_shared_storage_counts_the_trials_of_both_folders(tmp_path, out):
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    file = write(tmp_path)
    search(file, out, storage=storage, trials=2)
    both = search(file, tmp_path / "other", storage=storage)
    assert len(both["results"]) == 5
    assert len(checkpoints(out)) + len(checkpoints(tmp_path / "other")) == statuses(both).count(
        "ok"
    )


def test_without_optuna_the_install_line_is_named(tmp_path, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SharpError, match="needs Optuna") as e:
        search(write(tmp_path), out)
    assert e.value.hint == "pip install 'sharpcli[search]'"


def test_a_storage_that_goes_away_is_one_message(tmp_path, out, monkeypatch):
    from sqlalchemy.exc import OperationalError

    def lost(self, trials):
        raise OperationalError("select", {}, Exception("server closed the connection"))

    monkeypatch.setattr(search_study.SearchStudy, "_asked", lost)
    with pytest.raises(SharpError, match="server closed the connection"):
        search(write(tmp_path), out)


def test_any_name_of_a_folder_will_do(tmp_path):
    folder = tmp_path / "a {b} %20?c=1#d"
    folder.mkdir()
    document = search(write(folder), folder / "out{x}", trials=1)
    assert statuses(document) == ["ok"]
    assert (folder / "out{x}" / "search.db").exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == [folder.name]
