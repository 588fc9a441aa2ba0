"""Jobs of a sweep on a Slurm cluster: their options, how they are submitted, seen and cancelled."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpcli.errors import SharpError, UsageError, did_you_mean, setting
from sharpcli.runs.sweep_job import Job
from sharpcli.training.sweep_file import Sweep, as_key

__all__ = ["SlurmJobs", "read_slurm"]

_MINUTES = 60  # where [slurm] has no time; a job that reaches its limit is requeued and goes on
_REQUEUED = 1000  # times that a job may reach its time limit: a training may take many of them
_WARNED = 30  # seconds before the limit at which a job is asked to end; it has its state on disk
_ANSWER = 60.0  # seconds that a command of Slurm's may take
_LEAVE = 15.0  # seconds for which to wait until cancelled jobs are gone
# Options of sbatch that sharp needs itself, or that would start each job's process several times.
_OWN = (
    "array",
    "error",
    "input",
    "nodes",
    "ntasks",
    "ntasks_per_node",
    "open_mode",
    "output",
    "signal",
    "wait",
    "wrap",
)
_NOT_OVER = {
    "COMPLETING",
    "CONFIGURING",
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "RUNNING",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}
_ENDS = {
    "BOOT_FAIL": "lost its node",
    "CANCELLED": "was cancelled",
    "DEADLINE": "reached its deadline",
    "NODE_FAIL": "lost its node",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "was preempted",
    "TIMEOUT": "reached its time limit",
}
# As sbatch has it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


def read_slurm(plan: Sweep) -> dict[str, Any]:
    """The options of sbatch in a sweep file's [slurm] table, with underscores; `time` in minutes.

    Raises:
        UsageError: for an option that sharp sets itself, and for a value that is none; names file
            and key.
    """
    options: dict[str, Any] = {"time": _MINUTES}
    for key, value in (plan.slurm or {}).items():
        name, where = key.replace("-", "_"), f"{plan.path}: [slurm] {as_key(key, value)}"
        if name in _OWN:
            raise UsageError(f"{where}: sharp sets this itself", "remove the line")
        if name == "setup":
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise UsageError(f"{where}: is not a list of lines", 'write setup = ["module …"]')
        elif not isinstance(value, str | int | float) or value is False:
            raise UsageError(
                f"{where}: is no value of an option",
                "give a text or a number, or true for an option without a value",
            )
        options[name] = value
    options["time"] = _minutes(plan, options["time"])
    return options


def _minutes(plan: Sweep, time_limit: Any) -> int:
    """A time limit in whole minutes."""
    found = _TIME.fullmatch(str(time_limit)) if not isinstance(time_limit, bool) else None
    if found is None:
        raise UsageError(
            f"{plan.path}: [slurm] {as_key('time', time_limit)}: is no time",
            'write minutes, or a time as sbatch has it: time = 90, "1:30:00" or "2-12:00:00"',
        )
    first, second, third = (int(found[name] or 0) for name in ("first", "second", "third"))
    if found["days"]:
        seconds = ((int(found["days"]) * 24 + first) * 60 + second) * 60 + third
    elif found["third"]:
        seconds = (first * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    return max(1, -(-seconds // 60))


@dataclass
class SlurmJobs:
    """The jobs of one submission, as an array."""

    options: Mapping[str, Any]
    ids: list[str] = field(default_factory=list)
    name: str = "slurm"
    waiting: str | None = None  # why a job waits in the queue, in Slurm's word
    _asked: float = field(default=0.0, init=False)
    _states: dict[str, str] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, plan: Sweep) -> SlurmJobs:
        """Those of a sweep, not submitted yet; `UsageError` where there is no Slurm."""
        options = read_slurm(plan)
        for command in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(command) is None:
                raise UsageError(
                    f"there is no Slurm here: its command {command} is not on the path",
                    f"start it on a cluster's login node; here, train with {setting('jobs')}, or "
                    f"try jobs out with {setting('on', 'local')}",
                )
        _check_names(plan, options)
        return cls(options)

    def submit(self, jobs: Sequence[Job], folder: Path) -> None:
        """Submit; raises `SharpError` with what sbatch says."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        options = dict(self.options)
        threads = options.get("cpus_per_task")
        executor = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUED)
        if "no_requeue" not in options:
            options.setdefault("requeue", True)
        executor.update_parameters(
            wckey=None,
            time=options.pop("time"),
            job_name=options.pop("job_name", "sharp-sweep"),
            setup=options.pop("setup", None),
            signal_delay_s=_WARNED,
            # A step does not take over the job's processors by itself.
            srun_args=None if threads is None else [f"--cpus-per-task={threads}"],
            additional_parameters=options,
        )
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                submitted = executor.submit_array([*jobs])
        except (FailedJobError, FailedSubmissionError) as error:
            said = " ".join(str(error).replace("sbatch: ", "").split())
            raise SharpError(
                f"Slurm does not take the jobs: {said}", "correct [slurm] in the sweep file"
            ) from error
        self.ids = [job.job_id for job in submitted]

    def over(self) -> dict[str, str]:
        """How jobs ended that are over, by their id: `CANCELLED`, or empty if unknown."""
        states = self._seen()
        return {
            each: state for each in self.ids if (state := states.get(each, "")) not in _NOT_OVER
        }

    def cancel(self) -> None:
        """End the jobs, and wait a little until they are gone."""
        if not self.ids:  # none was submitted
            return
        # A job that is only cancelled is given time to end, and would train on in it.
        for options in (["--signal=KILL"], []):
            _slurm("scancel", "--quiet", *options, *self._arrays)
        until = time.monotonic() + _LEAVE
        while time.monotonic() < until and len(self.over()) < len(self.ids):
            time.sleep(0.5)

    def close(self) -> None:
        """Take back those that have not begun: all runs are done."""
        _slurm("scancel", "--quiet", "--state=PENDING", *self._arrays)

    @property
    def _arrays(self) -> list[str]:
        """The numbers that Slurm gave: jobs that are submitted together share one."""
        return sorted({each.partition("_")[0] for each in self.ids})

    @property
    def between(self) -> float:
        """Seconds between two questions to Slurm."""
        return 2.0

    @property
    def look(self) -> str:
        """How a person sees the jobs."""
        return f"squeue --jobs {','.join(self._arrays)}"

    def how(self, state: str) -> str:
        """How a job of this state ended, in words."""
        return _ENDS.get(state, "died")

    def _seen(self) -> dict[str, str]:
        """The state of each job that Slurm remembers; where it does not answer, the last ones."""
        done = _slurm(
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            "--format=%i %T %r",
            f"--jobs={','.join(self._arrays)}",
        )
        if done is None or (done.returncode and "Invalid job id" not in done.stderr):
            return self._states or dict.fromkeys(self.ids, "PENDING")
        lines = [line.split() for line in done.stdout.splitlines()]
        self._states = {line[0]: line[1] for line in lines if len(line) > 1}
        reasons = [line[2] for line in lines if line[1:2] == ["PENDING"] and len(line) > 2]
        self.waiting = next((each for each in reasons if each != "None"), None)
        return self._states


def _slurm(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Run a command of Slurm's; None where it does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER)
    except subprocess.TimeoutExpired:
        return None


def _check_names(plan: Sweep, options: Mapping[str, Any]) -> None:
    """Refuse an option that this cluster's sbatch does not have."""
    done = _slurm("sbatch", "--help")
    if done is None or done.returncode:
        said = ["no answer in time"] if done is None else done.stderr.strip().splitlines()
        raise SharpError(
            f"Slurm does not answer: {(said or ['no word'])[-1].removeprefix('sbatch: ')}",
            "start it where sinfo shows the cluster",
        )
    known = {name.replace("-", "_") for name in re.findall(r"--([a-z][a-z0-9-]*)", done.stdout)}
    for name in options:
        if name != "setup" and name not in known:
            raise UsageError(
                f"{plan.path}: [slurm] {name}: is no option of sbatch: {did_you_mean(name, known)}",
                "sbatch --help lists them",
            )
