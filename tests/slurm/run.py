"""`sharp sweep --on slurm` against a real Slurm of one node, which this script starts and stops.

    python tests/slurm/run.py [CHECK…]

It needs Debian's packages slurm-wlm and munge, and takes some minutes. It is not part of pytest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import sweep_kills
from cluster import cluster
from tiny_sweeps import checkpoints

RUNS = 6
SLEEP = 0.05  # seconds a step, of which a run has 40
PROCESSES: list[subprocess.Popen[str]] = []
SLURM = '[slurm]\npartition = "main"\ntime = 5\nmem = "200M"\n'


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sharp-slurm-") as name:
        folder = Path(name)
        work = folder / "work"
        work.mkdir()
        sweep_kills.prepare(work, RUNS)
        plain = finished(work, "plain")
        with (work / "sweep.toml").open("a", encoding="utf-8") as file:
            file.write(SLURM)
        with cluster(folder / "slurm") as environment:
            os.environ.update(environment)
            for check in CHECKS:
                if sys.argv[1:] and check.__name__ not in sys.argv[1:]:
                    continue
                started = time.monotonic()
                log(work).unlink(missing_ok=True)
                try:
                    check(work, plain)
                except (AssertionError, subprocess.TimeoutExpired):
                    show_logs(folder)
                    raise
                finally:
                    for process in PROCESSES:
                        if process.poll() is None:
                            process.kill()
                print(f"{check.__name__}: ok ({time.monotonic() - started:.0f} s)", flush=True)
    return 0


def same_bytes(work: Path, plain: dict[str, bytes]) -> None:
    assert finished(work, "same", "--on", "slurm", "--jobs", "2") == plain
    assert len(trainings(work)) == RUNS
    document = json.loads((work / "same" / "sweep.json").read_text("utf-8"))
    assert {result["status"] for result in document["results"]} == {"ok"}


def a_job_that_is_cancelled(work: Path, plain: dict[str, bytes]) -> None:
    process = begun(work, "--output", "cancelled", "--on", "slurm", "--jobs", "2", sleep=SLEEP)
    sweep_kills.wait_for(work / "cancelled", process, 1)
    assert len(jobs()) == 2
    victim = jobs()[0]
    subprocess.run(["scancel", victim], check=True)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    failed = [each for each in results(work / "cancelled") if each["status"] == "failed"]
    others = [each for each in results(work / "cancelled") if each["status"] == "ok"]
    assert len(failed) == 1, said
    assert len(others) == RUNS - 1, said
    assert f"job {victim} was cancelled" in failed[0]["error"]["message"], failed
    once = len(trainings(work))
    assert finished(work, "cancelled", "--on", "slurm") == plain
    assert len(trainings(work)) == once + 1  # the run that was cancelled, from its state


def a_process_that_is_killed_in_a_job(work: Path, plain: dict[str, bytes]) -> None:
    process = begun(work, "--output", "dead", "--on", "slurm", "--jobs", "2", sleep=SLEEP)
    sweep_kills.wait_for(work / "dead", process, 1)
    subprocess.run(["scancel", "--signal=KILL", jobs()[0]], check=True)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert sum(each["status"] == "failed" for each in results(work / "dead")) == 1, said
    assert finished(work, "dead", "--on", "slurm", "--jobs", "2") == plain


def ctrl_c_cancels_the_jobs(work: Path, plain: dict[str, bytes]) -> None:
    process = begun(work, "--output", "stopped", "--on", "slurm", "--jobs", "2", sleep=SLEEP)
    sweep_kills.wait_for(work / "stopped", process, 1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "goes on from there" in said
    assert jobs() == []
    assert finished(work, "stopped", "--on", "slurm", "--jobs", "2") == plain


def a_requeued_job_goes_on(work: Path, plain: dict[str, bytes]) -> None:
    process = begun(work, "--output", "requeued", "--on", "slurm", sleep=SLEEP)
    sweep_kills.wait_for(work / "requeued", process, 1)
    subprocess.run(["scontrol", "requeue", jobs()[0]], check=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert checkpoints(work / "requeued") == plain


def a_job_at_its_time_limit_goes_on(work: Path, plain: dict[str, bytes]) -> None:
    process = begun(work, "--output", "limit", "--on", "slurm", sleep=SLEEP)
    sweep_kills.wait_for(work / "limit", process, 1)
    # What Slurm sends a while before the limit.
    subprocess.run(["scancel", "--signal=USR2", jobs()[0]], check=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert checkpoints(work / "limit") == plain


def detached(work: Path, plain: dict[str, bytes]) -> None:
    process = begun(work, "--output", "detached", "--on", "slurm", "--jobs", "2", "--detach")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "squeue --jobs" in said
    while jobs():
        time.sleep(0.2)
    assert checkpoints(work / "detached") == plain
    assert finished(work, "detached") == plain
    assert len(trainings(work)) == RUNS


def jobs_that_wait_say_why(work: Path, plain: dict[str, bytes]) -> None:
    text = (work / "sweep.toml").read_text("utf-8")
    (work / "sweep.toml").write_text(text + "cpus_per_task = 99\n", "utf-8")
    process = begun(work, "--output", "waiting", "--on", "slurm")
    while not jobs():
        time.sleep(0.1)
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    (work / "sweep.toml").write_text(text, "utf-8")
    assert "jobs wait in the queue: PartitionConfig" in said, said
    assert process.returncode == 130
    assert jobs() == []


def mistakes_in_the_file(work: Path, plain: dict[str, bytes]) -> None:
    text = (work / "sweep.toml").read_text("utf-8")
    for line, wanted in (
        ("partitoin = 'main'", "did you mean 'partition'?"),
        ("array = '1-3'", "sharp sets this itself"),
        ("time = 'soon'", "is no time"),
        ("partition = 'nowhere'", "invalid partition specified: nowhere"),
        ("gres = 'gpu:99'", "Slurm does not take the jobs"),
    ):
        table = line if line.startswith(("part", "time")) else f"partition = 'main'\n{line}"
        (work / "wrong.toml").write_text(text.replace(SLURM, f"[slurm]\n{table}\n"), "utf-8")
        process = subprocess.run(
            [
                sys.executable,
                "-m",
                "sharpcli",
                *["sweep", "wrong.toml", "--output", "wrong", "--on", "slurm"],
            ],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(sweep_kills.ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert process.returncode in (1, 2), process.stderr
        assert wanted in process.stderr, process.stderr
        assert "Traceback" not in process.stderr
        assert checkpoints(work / "wrong") == {}


CHECKS: tuple[Callable[[Path, dict[str, bytes]], None], ...] = (
    same_bytes,
    a_job_that_is_cancelled,
    a_process_that_is_killed_in_a_job,
    ctrl_c_cancels_the_jobs,
    a_requeued_job_goes_on,
    a_job_at_its_time_limit_goes_on,
    detached,
    jobs_that_wait_say_why,
    mistakes_in_the_file,
)


def begun(work: Path, *arguments: str, sleep: float = 0.0) -> subprocess.Popen[str]:
    """A sweep that works now."""
    PROCESSES.append(sweep_kills.begin(work, *arguments, sleep=sleep))
    return PROCESSES[-1]


def finished(work: Path, name: str, *arguments: str) -> dict[str, bytes]:
    """The checkpoints of a sweep that is run to its end."""
    process = begun(work, "--output", name, *arguments)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return checkpoints(work / name)


def jobs() -> list[str]:
    """The jobs in Slurm's queue."""
    done = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def results(folder: Path) -> list[dict]:
    return json.loads((folder / "sweep.json").read_text("utf-8"))["results"]


def log(work: Path) -> Path:
    """What the task writes a line to for each training that begins."""
    return work / "log"


def trainings(work: Path) -> list[str]:
    return [line.split()[1] for line in log(work).read_text("utf-8").splitlines()]


def show_logs(folder: Path) -> None:
    for file in (*folder.glob("slurm/*.log"), *folder.glob("work/*/.jobs/*/*.err")):
        print(f"--- {file}\n{file.read_text('utf-8')[-3000:]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
