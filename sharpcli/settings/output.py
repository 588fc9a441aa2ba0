"""Where a result goes, and how its figures look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["FigureSettings", "OutputSettings"]


@dataclass(frozen=True)
class OutputSettings:
    """Where the result goes and in which format; `plot` lists files for figures and exports."""

    format: str = "table"  # of render.formats
    output: Path | None = None
    quiet: bool = False
    strict: bool = False
    verbose: bool = False
    plot: tuple[Path, ...] = ()


@dataclass(frozen=True)
class FigureSettings:
    """How a figure looks: the loss axis, the width in inches, the metric drawn on a plane.

    `width` None fits the panels; `metric` None is the loss. An `inline` figure has no background.
    """

    scale: Literal["auto", "linear", "log"] = "auto"
    width: float | None = None
    metric: str | None = None
    inline: bool = False
