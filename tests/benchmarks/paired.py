"""Timing of rivals in turns, so that whatever the machine does meanwhile meets all of them."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

# Seconds of one run that are worth a line, so that who waits sees that it goes on.
_LONG = 2.0


@dataclass(frozen=True)
class Timed:
    """Seconds of each repeat, and what the last repeat gave."""

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def spread(self) -> str:
        """Median, least and most seconds in words."""
        return f"{self.median:.3g} ({min(self.seconds):.3g} to {max(self.seconds):.3g})"


@dataclass(frozen=True)
class Ratio:
    """A rival's seconds by ours, repeat by repeat: median, least and most."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} to {self.most:.3g})"


def in_turns(rivals: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timed]:
    """Run every rival once, then all again, `repeats` times; odd rounds in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    results: dict[str, Any] = {}
    for repeat in range(repeats):
        for name in list(rivals)[:: -1 if repeat % 2 else 1]:
            results.pop(name, None)  # an old answer must not take memory from the new one
            gc.collect()
            _wait()
            started = time.perf_counter()
            results[name] = rivals[name]()
            _wait()
            seconds[name].append(time.perf_counter() - started)
            if seconds[name][-1] > _LONG:
                print(f"  round {repeat + 1}: {name}, {seconds[name][-1]:.3g} s", file=sys.stderr)
    return {name: Timed(seconds[name], results[name]) for name in rivals}


def _wait() -> None:
    """Let a GPU finish what it was asked, so that its clock is ours."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ratio(above: Timed, below: Timed) -> Ratio:
    """Seconds of `above` by seconds of `below`, from rounds in which both ran."""
    quotients = [a / b for a, b in zip(above.seconds, below.seconds, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))
