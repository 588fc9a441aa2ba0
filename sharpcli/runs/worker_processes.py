"""Processes that work for this one, send messages through a pipe, and end when it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

import torch

from sharpcli.runtime import interruption

__all__ = ["BETWEEN", "WorkerProcess", "become_worker", "ended_with", "start", "with_messages"]

BETWEEN = 0.2  # seconds between two messages of a worker's progress


@dataclass
class WorkerProcess:
    """A process, and this end of the pipe to it."""

    process: SpawnProcess
    pipe: Connection

    def joined(self) -> None:
        """Wait for its end, and close the pipe."""
        self.process.join()
        self.pipe.close()


W = TypeVar("W", bound=WorkerProcess)


def start(
    work: Callable[..., None], *given: Any, duplex: bool = True
) -> tuple[SpawnProcess, Connection]:
    """Start a process that does `work`, called with its end of the pipe and what is `given`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=duplex)
    process = context.Process(target=work, args=(theirs, *given))
    process.start()
    theirs.close()
    return process, ours


def with_messages(workers: Sequence[W]) -> list[W]:
    """Wait until some workers have sent something, or have ended; these."""
    with interruption.interruptible():
        ready = wait([worker.pipe for worker in workers])
    interruption.hold()
    return [each for each in workers if each.pipe in ready]


@contextlib.contextmanager
def ended_with(workers: Sequence[WorkerProcess]) -> Iterator[None]:
    """End all workers that there are at the end of the block, however it ends."""
    try:
        yield
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def become_worker() -> None:
    """Make this process a worker: it ends with the first one, and computes in one thread."""
    for name in ("SIGINT", "SIGHUP"):  # the first process handles them, and ends this one
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr  # standard output is the result's
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process as soon as the first one has ended: it holds the file of its run."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)
