"""Sweeps in jobs: which runs a job takes, what becomes of those in which one dies."""

import importlib.util
import json
import signal
import time

import pytest
from tiny_sweeps import FOUR, NAMES, TASK, checkpoints, write

from sharpcli.errors import SharpError, UsageError
from sharpcli.runs import sweep_jobs, sweep_run
from sharpcli.runs.slurm import SlurmJobs, read_slurm
from sharpcli.runs.sweep import Watch, sweep
from sharpcli.runs.sweep_folder import SweepFolder
from sharpcli.runs.sweep_job import Job, read_notes
from sharpcli.runs.sweep_run import Tasks
from sharpcli.runtime.reservations import InUseError
from sharpcli.training.sweep_file import read_sweep


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def trained(monkeypatch):
    """The runs that are trained in this process, in order."""
    names = []
    train = sweep_run.train_and_save

    def recorded(task, settings, output, progress, **more):
        names.append(output.parent.name)
        return train(task, settings, output, progress, **more)

    monkeypatch.setattr(sweep_run, "train_and_save", recorded)
    return names


def jobs_of(file, out, count):
    """The jobs of a new sweep, not submitted."""
    plan = read_sweep(file)
    tasks = Tasks(plan)
    SweepFolder(out, plan, [*map(tasks.of, plan.runs)]).open()
    notes = out / ".jobs" / "1"
    notes.mkdir(parents=True)
    names = tuple(run.name for run in plan.runs)
    return [Job(number, count, plan, names, out, notes) for number in range(count)]


def test_a_job_trains_its_part_first_and_then_what_nobody_has_begun(tmp_path, out, trained):
    first, second = jobs_of(write(tmp_path), out, 2)
    second()
    assert trained == [NAMES[1], NAMES[3], NAMES[0], NAMES[2]]
    notes = read_notes(second.notes, 1)
    assert notes.finished
    assert notes.ended == dict.fromkeys(NAMES, "ok")
    first()
    assert len(trained) == 4
    assert read_notes(first.notes, 0).ended == {}


def test_a_job_leaves_the_run_during_which_another_died(tmp_path, out, trained):
    first, second = jobs_of(write(tmp_path), out, 2)
    (first.notes / "job-0.json").write_text(json.dumps({"run": NAMES[2]}), "utf-8")
    second()
    assert sorted(trained) == sorted(set(NAMES) - {NAMES[2]})
    first()  # requeued
    assert trained[-1] == NAMES[2]


def test_a_job_that_waited_while_the_task_changed_trains_nothing(tmp_path, out, trained):
    (job,) = jobs_of(write(tmp_path), out, 1)
    write(tmp_path, task=TASK.replace("20, 3", "21, 3"))
    with pytest.raises(UsageError, match="the task's code has changed"):
        job()
    assert trained == []
    assert "the task's code has changed" in read_notes(job.notes, 0).error["message"]


class Inline:
    """Jobs that work while they are submitted, in this process."""

    name, between, waiting = "local", 0.0, None

    def submit(self, jobs, folder):
        self.ids = [str(job.number) for job in jobs]
        for job in jobs:
            job()

    def over(self):
        return dict.fromkeys(self.ids, "")

    def close(self):
        pass


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path, out, monkeypatch):
    monkeypatch.setattr("sharpcli.runs.sweep.find_jobs", lambda *_: Inline())
    train, ended = sweep_run.train_and_save, {}

    def busy(task, settings, output, progress, **more):
        if output.parent.name == NAMES[1]:
            raise InUseError("another run is writing to it")
        return train(task, settings, output, progress, **more)

    monkeypatch.setattr(sweep_run, "train_and_save", busy)
    document = sweep(write(tmp_path), out, on="local", watch=Watch(ended=ended.__setitem__))
    assert {name: state["status"] for name, state in ended.items()} == {
        name: "ok" for name in NAMES if name != NAMES[1]
    }
    statuses = [result["status"] for result in document["results"]]
    assert statuses == ["ok", "waiting", "ok", "ok"]


DYING = TASK.replace(
    "def model(width: int = 4):",
    "def model(width: int = 4):\n    import os, signal\n"
    "    if torch.initial_seed() == 7: os.kill(os.getpid(), signal.SIGKILL)",
)
THREE = FOUR.replace('optimizer = ["sgd", "adam"]\n', "").replace("[0, 1]", "[7, 0, 2]")


def test_local_jobs_train_to_the_same_bytes_and_one_that_dies_is_marked(tmp_path, out):
    sweep(write(tmp_path, THREE.replace("[7, 0, 2]", "[0, 2]"), DYING), out)
    ended = []
    watch = Watch(ended=lambda name, _: ended.append(name))
    together = tmp_path / "jobs"
    document = sweep(write(tmp_path, THREE, DYING), together, jobs=2, on="local", watch=watch)
    statuses = {result["run"]: result["status"] for result in document["results"]}
    assert statuses == {"seed=7": "failed", "seed=0": "ok", "seed=2": "ok"}
    error = document["results"][0]["error"]
    assert "died while it trained this run" in error["message"]
    assert ".jobs/1/" in error["hint"]
    assert checkpoints(together) == checkpoints(out)
    assert sorted(ended) == ["seed=0", "seed=2", "seed=7"]


def test_detached_jobs_train_on_alone(tmp_path, out, monkeypatch):
    noted, kept, find = [], [], sweep_jobs.find_jobs
    monkeypatch.setattr(
        "sharpcli.runs.sweep.find_jobs", lambda *asked: kept.append(find(*asked)) or kept[0]
    )
    document = sweep(write(tmp_path), out, on="local", detach=True, watch=Watch(noted=noted.append))
    assert {result["status"] for result in document["results"]} == {"waiting"}
    assert "1 job submitted" in noted[0]
    while not kept[0].over():
        time.sleep(0.05)
    assert sorted(checkpoints(out)) == sorted(NAMES)


class Dead:
    """Jobs that are over before they have done anything."""

    name, between, waiting = "local", 0.0, None

    def submit(self, jobs, folder):
        self.ids = [str(job.number) for job in jobs]
        for each in self.ids:
            (folder / f"{each}_0_log.err").write_text("ModuleNotFoundError: No module\n", "utf-8")

    def over(self):
        return dict.fromkeys(self.ids, "")

    def how(self, state):
        return "died"


def test_jobs_that_do_not_begin_say_why_and_lose_nothing(tmp_path, out, monkeypatch):
    monkeypatch.setattr("sharpcli.runs.sweep.find_jobs", lambda *_: Dead())
    with pytest.raises(SharpError, match="job 0 died: ModuleNotFoundError: No module") as caught:
        sweep(write(tmp_path), out, jobs=2, on="local")
    assert "0_0_log.err" in caught.value.hint
    assert {each["status"] for each in sweep(write(tmp_path), out)["results"]} == {"ok"}


class Queued:
    """Jobs that wait in a queue until Ctrl-C."""

    name, between, waiting, look = "slurm", 0.0, "Priority", "squeue"
    cancelled = False

    def submit(self, jobs, folder):
        self.ids, self.asked = [str(job.number) for job in jobs], 0

    def over(self):
        self.asked += 1
        if self.asked > 1:
            raise KeyboardInterrupt
        return {}

    def cancel(self):
        self.cancelled = True


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("detach", [False, True])
def test_ctrl_c_while_jobs_are_submitted_cancels_them(tmp_path, out, monkeypatch, detach):
    jobs = Queued()
    submit = jobs.submit

    def pressed(works, folder):
        submit(works, folder)
        signal.raise_signal(signal.SIGINT)

    jobs.submit = pressed
    monkeypatch.setattr("sharpcli.runs.sweep.find_jobs", lambda *_: jobs)
    sweep(write(tmp_path), out, jobs=2, on="slurm", detach=detach)
    assert jobs.cancelled
    assert jobs.asked == 0


def test_ctrl_c_cancels_jobs_that_wait_and_they_say_why_they_do(tmp_path, out, monkeypatch):
    jobs, noted = Queued(), []
    monkeypatch.setattr("sharpcli.runs.sweep.find_jobs", lambda *_: jobs)
    document = sweep(write(tmp_path), out, jobs=2, on="slurm", watch=Watch(noted=noted.append))
    assert jobs.cancelled
    assert noted == ["jobs wait in the queue: Priority (squeue)"]
    assert {result["status"] for result in document["results"]} == {"interrupted"}


def test_what_is_missing_is_named(tmp_path, out, monkeypatch):
    file = write(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'local'"):
        sweep(file, out, on="locl")
    with pytest.raises(UsageError, match="detach is for jobs"):
        sweep(file, out, detach=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"no Slurm here.*\n.*jobs.*local"):
        sweep(file, out, on="slurm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"sharpcli\[slurm\]"):
        sweep(file, out, on="local")
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "minutes"),
    [
        ("", 60),
        ("time = 90", 90),
        ('time = "90"', 90),
        ('time = "1:30"', 2),
        ('time = "1:30:00"', 90),
        ('time = "1-0"', 1440),
        ('time = "2-12:30"', 3630),
        ('time = "2-12:30:30"', 3631),
    ],
)
def test_times_are_as_sbatch_has_them(tmp_path, given, minutes):
    plan = read_sweep(write(tmp_path, FOUR + f"[slurm]\n{given}\n"))
    assert read_slurm(plan)["time"] == minutes


def test_options_of_sbatch_are_kept_by_name(tmp_path):
    table = '[slurm]\npartition = "long"\ncpus-per-task = 2\nexclusive = true\nmem = "4G"\n'
    assert read_slurm(read_sweep(write(tmp_path, FOUR + table))) == {
        "time": 60,
        "partition": "long",
        "cpus_per_task": 2,
        "exclusive": True,
        "mem": "4G",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("array = '0-3'", 'array = "0-3": sharp sets this itself'),
        ("open-mode = 'append'", "sharp sets this itself"),
        ("time = 'soon'", "is no time"),
        ("time = true", "is no time"),
        ("partition = ['a']", "is no value of an option"),
        ("exclusive = false", "is no value of an option"),
        ("setup = 'module load x'", "is not a list of lines"),
    ],
)
def test_mistakes_in_the_options_are_named(tmp_path, out, line, message):
    file = write(tmp_path, FOUR + f"[slurm]\n{line}\n")
    with pytest.raises(UsageError, match=r"sweep\.toml: \[slurm\]") as caught:
        sweep(file, out, on="local")
    assert message in str(caught.value)
    assert not out.exists()


def test_jobs_that_slurm_has_forgotten_are_over(monkeypatch):
    jobs = SlurmJobs({}, ["7_0", "7_1"])
    answer = "7_0 PENDING Priority\n7_1 OUT_OF_MEMORY OutOfMemory\n"

    def squeue(*command):
        assert "--jobs=7" in command
        return done

    class done:  # noqa: N801
        returncode, stdout, stderr = 0, answer, ""

    monkeypatch.setattr("sharpcli.runs.slurm._slurm", squeue)
    assert jobs.over() == {"7_1": "OUT_OF_MEMORY"}
    assert jobs.waiting == "Priority"
    assert jobs.how("OUT_OF_MEMORY") == "ran out of memory"
    done.returncode, done.stdout, done.stderr = 1, "", "slurm_load_jobs error: Unable to contact"
    assert jobs.over() == {"7_1": "OUT_OF_MEMORY"}
    done.stderr = "slurm_load_jobs error: Invalid job id specified"
    assert jobs.over() == {"7_0": "", "7_1": ""}
