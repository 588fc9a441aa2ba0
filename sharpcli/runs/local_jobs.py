"""Jobs of a sweep on this machine, by submitit's local executor: to try jobs without a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sharpcli.runs.sweep_job import Job

__all__ = ["LocalJobs"]

_UNLIMITED = 60 * 24 * 365 * 10  # minutes; submitit's own limit is two
_LEAVE = 10.0  # seconds that jobs have to end; submitit kills cancelled ones after one
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
            self._jobs.append(executor.submit(replace(job, environment=gpus)))
        self.ids = [job.job_id for job in self._jobs]

    def over(self) -> Mapping[str, str]:
        """How jobs ended that are over, by their id."""
        return {job.job_id: job.state for job in self._jobs if job.done()}

    def cancel(self) -> None:
        """End the jobs, and wait a little until they are gone."""
        for job in self._jobs:
            if not job.done():
                job.cancel()
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
