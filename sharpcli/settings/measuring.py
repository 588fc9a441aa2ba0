"""What is measured, on which data, and how precisely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from sharpcli.errors import UsageError, setting
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.fields import OPTIONAL, SEEDS, SEEDS_HINT, SOME, Keywords, check_range

__all__ = ["MeasureSettings", "RunSettings", "Split"]

Split = Literal["train", "test", "both"]


@dataclass(frozen=True)
class RunSettings:
    """The data, the arithmetic and the device of a measurement.

    Attributes:
        samples: Size of a seeded subset of each measured split; None for all of it.
        batch_size: Bounds memory and never changes the answer; None: chosen automatically.
        fixed_batch: The loss is defined on batches of this many consecutive examples.
        parameters: Shell patterns over parameter names. θ holds the parameters that match one, and
            the others stay fixed; empty: θ holds all.
        tf32: Allow TF32 for float32 products on a GPU (about three significant digits).
        weights: The mapping or the prefix of names in the checkpoints to measure; None: the one
            that fits the model.
        partial: Checkpoints may hold a part of the model. The rest is as the task's model() made it
            and stays fixed, unless `parameters` names it.
    """

    split: Annotated[Split, "The data that the measurement uses."] = "train"
    samples: Annotated[int | None, "Size of the seeded subset; null for all.", SOME] = None
    batch_size: Annotated[
        int | None, "Bounds memory, never changes the answer; null: automatic.", SOME
    ] = None
    device: Annotated[str, "As requested."] = "auto"
    dtype: Annotated[Literal["float32", "float64", "bfloat16"], "The arithmetic."] = "float32"
    mode: Annotated[Literal["eval", "train"], "Mode of the model's layers."] = "eval"
    seed: Annotated[int, "The seed of everything random."] = 0
    parameters: Annotated[
        tuple[str, ...], "Patterns of the parameters that are measured; empty: all.", OPTIONAL
    ] = ()
    tf32: Annotated[
        bool,
        "Whether TF32 (about three significant digits) was allowed for float32 products.",
        OPTIONAL,
    ] = False
    fixed_batch: Annotated[
        int | None,
        "Batch size of a loss that couples the examples of a batch; null: the loss is a mean over "
        "independent examples.",
        Keywords(minimum=1, optional=True),
    ] = None
    weights: Annotated[
        str | None,
        "The mapping or prefix of names in the checkpoints that was measured; null: the one that "
        "fits the model.",
        OPTIONAL,
    ] = None
    partial: Annotated[
        bool,
        "Whether checkpoints may hold a part of the model; the rest is as the task made it.",
        OPTIONAL,
    ] = False

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and contradictions; raises `UsageError`."""
        for name in ("samples", "batch_size", "fixed_batch"):
            check_range(self, name, lambda x: x is None or x >= 1, "give 1 or more")
        check_range(self, "seed", SEEDS.__contains__, SEEDS_HINT)
        if self.fixed_batch is None:
            return
        if self.samples is not None:
            raise UsageError(
                f"{setting('fixed_batch', self.fixed_batch)}: the sampling error of a loss that "
                "couples the examples of a batch is not known",
                f"leave out {setting('samples')} and {setting('sampling_error')}: all examples are "
                "measured then",
            )
        if self.batch_size is not None:
            raise UsageError(
                f"{setting('batch_size', self.batch_size)} bounds the memory, and "
                f"{setting('fixed_batch', self.fixed_batch)} says which examples make one batch, "
                "which is never divided",
                "give one of the two",
            )


@dataclass(frozen=True)
class MeasureSettings:
    """The measures to compute and how precise each must be.

    Attributes:
        measures: Names in the registry; empty for the default set.
        epsilons: ε-sharpness is measured for each ε in each of `subspaces`.
        subspaces: None: the full space; p: the mean over `draws` random p-dimensional subspaces.
        tol: Bound on an eigenvalue's residual, as a fraction of λ1.
        relative_error: Bound on the trace's standard error, as a fraction of the trace.
        sampling_error: The data sample grows until its relative sampling error is below this; None:
            the sample does not grow.
        time: Seconds for all checkpoints, in which the data sample grows; None: no limit.
        decide: A measure, or the flat key of a number, by which checkpoints are ordered: the sample
            grows until their order is decided; None: no order is asked for.
        baseline: The checkpoint that all others are compared with; None: all pairs.
        by: "layer" also measures each layer's block of the parameters.
        initial: A checkpoint from before the training, for the distance from it.
        rescale_check: The measures are computed again at a rescaled θ of the same function.
        rescale_by: "unit": each hidden unit has a factor of its own; "layer": those of a layer
            share one.
        rescale_factor: Factors are log-uniform between 1/f and f.
        options: Options that measures define themselves, by name.
    """

    measures: tuple[str, ...] = ()
    epsilons: tuple[float, ...] = (1e-3, 5e-4)  # both of Keskar et al. 2017
    subspaces: tuple[int | None, ...] = (None,)
    draws: int = 5  # gives the standard error of the mean to within about a third
    maximizer: Literal["lbfgsb", "corner", "both", "raw"] = "both"
    iterations: int = 10  # Keskar et al. 2017
    top: int = 5
    tol: float = 1e-3
    max_products: int | None = None
    relative_error: float = 0.02
    sampling_error: float | None = None
    time: float | None = None
    decide: str | None = None
    baseline: str | None = None
    curvature: CurvatureSettings = CurvatureSettings()
    by: Literal["layer"] | None = None
    initial: Path | None = None
    rescale_check: bool = False
    rescale_by: Literal["unit", "layer"] = "unit"
    rescale_factor: float = 4.0
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse numbers out of range; raises `UsageError` naming the setting."""
        for name in ("draws", "iterations", "top", "max_products"):
            check_range(self, name, lambda x: x is None or x >= 1, "give 1 or more")
        for name in ("relative_error", "sampling_error"):
            check_range(self, name, lambda x: x is None or x > 0, "a share is above 0")
        check_range(self, "time", lambda x: x is None or x > 0, "give seconds above 0")
        if self.time is not None and self.by is not None:
            raise UsageError(
                f"{setting('time', self.time)} and {setting('by', self.by)} do not go together",
                f"layers have no sample of their own: leave {setting('time')} out",
            )
        check_range(self, "tol", lambda x: 0 < x <= 1, "a share of λ1 is above 0 and at most 1")
        check_range(
            self, "rescale_factor", lambda x: 1 < x <= 1e3, "it is above 1 and at most 1000"
        )
        check_range(self, "epsilons", lambda all_: all(x > 0 for x in all_), "each ε is above 0")
        check_range(
            self, "subspaces", lambda all_: all(x is None or x >= 1 for x in all_), "give 1 or more"
        )
        if self.decide is not None and self.sampling_error is not None:
            raise UsageError(
                f"{setting('decide', self.decide)} and "
                f"{setting('sampling_error', self.sampling_error)}: both determine the sample",
                "give one of the two",
            )
        if self.decide is not None and self.by is not None:
            raise UsageError(
                f"{setting('decide', self.decide)} and {setting('by', self.by)}: the order is "
                "decided for all parameters together",
                "give one of the two",
            )
