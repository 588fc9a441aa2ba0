"""Documents of `sharp schedule`, as the command makes them."""

from __future__ import annotations

from typing import Any

from sharpcli.settings.schedule import ScheduleSettings

from sharpcli.documents.results import to_document
from sharpcli.runs.schedule import list_policies, schedule_values

__all__ = ["policies", "rewritten", "scheduled"]


def scheduled(spec: str = "TRI(k0=0.001, k1=0.1, l=20)", steps: int = 50, **asked: Any) -> Any:
    """The document of one schedule."""
    return to_document(schedule_values(ScheduleSettings(spec, steps, **asked)))


def rewritten(steps: int = 60) -> Any:
    """The document of a schedule and of the same as a growing batch."""
    spec = f"STEP(0.1, gamma=0.2, l={steps // 3})"
    return scheduled(spec, steps, batch_size=128, examples=50_000, rewrite="batch-size")


def policies() -> Any:
    """The document of the list of policies."""
    return to_document(list_policies())
