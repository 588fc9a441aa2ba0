"""What a run is asked to do, one frozen dataclass a concern. Knows neither Click nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["FigureSettings", "MeasureSettings", "OutputSettings", "RunSettings", "Split"]

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
class MeasureSettings:
    """Which measures, and how far each is driven.

    `measures` are names of the registry, empty for the default set. ε-sharpness is measured for
    every one of `epsilons` in every one of `subspaces` (None is the full space, p a random
    subspace of p dimensions). `tol` bounds an eigenvalue's residual as a share of λ1,
    `relative_error` the trace's standard error as a share of the trace.
    """

    measures: tuple[str, ...] = ()
    epsilons: tuple[float, ...] = (1e-3, 5e-4)  # both of Keskar et al. 2017
    subspaces: tuple[int | None, ...] = (None,)
    maximizer: Literal["lbfgsb", "corner", "both", "raw"] = "both"
    iterations: int = 10  # Keskar et al. 2017
    top: int = 5
    tol: float = 1e-3
    max_products: int | None = None
    relative_error: float = 0.02


@dataclass(frozen=True)
class OutputSettings:
    """Where the result goes and in which form; `plot` are files of figures and exports of it."""

    format: Literal["table", "json", "csv", "markdown"] = "table"
    output: Path | None = None
    quiet: bool = False
    strict: bool = False
    verbose: bool = False
    plot: tuple[Path, ...] = ()


@dataclass(frozen=True)
class FigureSettings:
    """How a figure looks: the loss's axis, and the width in inches (None: what fits its panels)."""

    scale: Literal["auto", "linear", "log"] = "auto"
    width: float | None = None
