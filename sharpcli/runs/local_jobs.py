"""Jobs of a sweep on this machine, by submitit's local executor: to try jobs without a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sharpcli.runs.sweep_job import Job

__all__ = ["LocalJobs"]

_UNLIMITED = 60 * 24 * 365 * 10  # minutes; submitit's own limit is two
_LEAVE = 10.0  # seconds that jobs have to end
# submitit hides all GPUs from local jobs, as it deals them out itself.
_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass
class LocalJobs:
    """The jobs of one submission, each a process that this one watches."""

    ids: list[str] = field(default_factory=list)
    name: str = "local"
    waiting: str | None = None  # they begin at once
    between: float = 0.5  # seconds between two looks
    _jobs: list[Any] = field(default_factory=list, init=False)

    def submit(self, jobs: Sequence[Job], folder: Path) -> None:
        """Start them."""
        import submitit

        gpus = {_GPUS: os.environ[_GPUS]} if _GPUS in os.environ else {}
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=_UNLIMITED)
        for job in jobs:
            with _apart(folder / "local.log"):
                own = replace(job, environment=gpus, ends_at_sigterm=True)
                self._jobs.append(executor.submit(own))
                self.ids.append(self._jobs[-1].job_id)

    def over(self) -> Mapping[str, str]:
        """How jobs ended that are over, by their id."""
        return {job.job_id: job.state for job in self._jobs if job.done()}

    def cancel(self) -> None:
        """End the jobs, and wait a little until they are gone."""
        for job in self._jobs:
            if not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)  # submitit passes it on
        self.close()

    def close(self) -> None:
        """Wait a little until they are gone: all runs are done."""
        until = time.monotonic() + _LEAVE
        while time.monotonic() < until and len(self.over()) < len(self.ids):
            time.sleep(0.05)

    @property
    def look(self) -> str:
        """How a person sees the jobs."""
        return f"ps -p {','.join(self.ids)}"

    def how(self, state: str) -> str:  # noqa: ARG002
        """How a job ended, in words; the local executor does not tell."""
        return "died"


@contextlib.contextmanager
def _apart(log: Path) -> Iterator[None]:
    """Let processes that are started now write to `log`, and miss Ctrl-C and a closed terminal.

    This process handles these signals, and ends the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    kept: dict[int, int] = {}
    try:
        with log.open("ab") as file:
            for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
                with contextlib.suppress(OSError):  # a stream that is closed
                    stream.flush()
                    kept[number] = os.dup(number)
                    os.dup2(file.fileno(), number)
        yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
