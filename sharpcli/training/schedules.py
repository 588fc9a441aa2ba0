"""Learning rates and batch sizes by step, from a text such as `FIX(k0=0.1)`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sharpcli.errors import UsageError

__all__ = ["Schedule", "parse_schedule"]


@dataclass(frozen=True)
class Schedule:
    """A learning rate or a batch size by step."""

    spec: str
    k0: float = field(repr=False)

    def at(self, step: int) -> float:  # noqa: ARG002 (of every policy)
        """The value at `step`, counted from 0."""
        return self.k0


def parse_schedule(spec: str) -> Schedule:
    """Read a schedule; raises `UsageError` for one that is not known."""
    found = re.fullmatch(r"fix\(\s*k0\s*=\s*([-+.\w]+)\s*\)", spec.strip(), re.IGNORECASE)
    try:
        return Schedule(spec.strip(), float(found[1] if found else "none"))
    except ValueError as error:
        raise UsageError(f"schedule '{spec}': is not known", "FIX(k0=0.1)") from error
