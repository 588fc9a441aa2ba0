"""A schedule to draw, and how it is rewritten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sharpcli.errors import UsageError, setting
from sharpcli.settings.fields import SOME, Keywords

__all__ = ["Rewriting", "ScheduleSettings"]

Rewriting = Literal["batch-size", "linear-scaling", "momentum"]


@dataclass(frozen=True)
class ScheduleSettings:
    """A schedule to draw, and how to rewrite it at the same noise scale."""

    schedule: Annotated[str, "The learning rate, as `sharp train` takes it."]
    steps: Annotated[int, "Updates.", SOME] = 1000
    batch_size: Annotated[int | None, "Examples an update.", SOME] = None
    batch_schedule: Annotated[str | None, "The same by step, in place of batch_size."] = None
    examples: Annotated[int | None, "Examples of the training data.", SOME] = None
    momentum: Annotated[
        float, "The optimizer's momentum.", Keywords(minimum=0, exclusiveMaximum=1)
    ] = 0.0
    rewrite: Annotated[
        Rewriting | None,
        "batch-size: the rate's decay as a growing batch; linear-scaling: to another batch size; "
        "momentum: to another momentum.",
    ] = None
    to_batch_size: Annotated[int | None, "For linear-scaling.", SOME] = None
    to_momentum: Annotated[float | None, "For momentum."] = None
    max_batch: Annotated[
        int | None, "The largest batch to grow to; null: a tenth of the examples.", SOME
    ] = None

    def __post_init__(self) -> None:
        """Refuse what does not go together; raises `UsageError` naming the settings."""
        if self.batch_size is not None and self.batch_schedule is not None:
            raise UsageError(
                f"{setting('batch_size')} and {setting('batch_schedule')} exclude each other",
                "give one of them",
            )
        if not 0 <= self.momentum < 1:
            raise UsageError(
                f"{setting('momentum', self.momentum)}: is out of range",
                "momentum is at least 0 and below 1",
            )
        if self.rewrite is not None:
            self._check_rewriting(self.rewrite)

    def _check_rewriting(self, rewrite: Rewriting) -> None:
        asked = setting("rewrite", rewrite)
        needed = {
            "batch-size": ("examples",),
            "linear-scaling": ("to_batch_size",),
            "momentum": ("to_momentum", "examples"),
        }[rewrite]
        if self.batch_size is None and self.batch_schedule is None:
            raise UsageError(f"{asked}: needs the batch size", f"add {setting('batch_size', 128)}")
        for name in needed:
            if getattr(self, name) is None:
                raise UsageError(f"{asked}: needs {setting(name)}", f"add {setting(name)}")
        if self.to_momentum is not None and not 0 <= self.to_momentum < 1:
            raise UsageError(
                f"{setting('to_momentum', self.to_momentum)}: is out of range",
                "momentum is at least 0 and below 1",
            )
        for name in ("to_batch_size", "max_batch"):
            size = getattr(self, name)
            if size is not None and self.examples is not None and size >= self.examples:
                raise UsageError(
                    f"{setting(name, size)}: is all of the data ({self.examples:,} examples)",
                    "a batch with a noise scale is smaller than the data",
                )
