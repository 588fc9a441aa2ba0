"""What a run is asked to do, one frozen dataclass a concern. Knows neither Click nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["OutputSettings", "RunSettings", "Split"]

Split = Literal["train", "test"]


@dataclass(frozen=True)
class RunSettings:
    """On which data, in which arithmetic and where a checkpoint is measured.

    `samples` is a seeded subset of the split (None: all of it); `batch_size` bounds memory and
    never changes the answer (None: chosen by itself).
    """

    split: Split = "train"
    samples: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    mode: Literal["eval", "train"] = "eval"
    seed: int = 0


@dataclass(frozen=True)
class OutputSettings:
    """Where the result goes and in which form."""

    format: Literal["table", "json", "csv", "markdown"] = "table"
    output: Path | None = None
    quiet: bool = False
    strict: bool = False
    verbose: bool = False
