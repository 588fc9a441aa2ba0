"""The settings of a run, one frozen dataclass per concern. Imports neither Click nor torch."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from sharpcli.errors import UsageError, counted, setting

__all__ = [
    "SEEDS",
    "SEEDS_HINT",
    "BatchNormMode",
    "BatchNormSettings",
    "CurvatureSettings",
    "DirectionSettings",
    "FigureSettings",
    "GridSettings",
    "InterpolateSettings",
    "Keywords",
    "LandscapeSettings",
    "MeasureSettings",
    "Operator",
    "OutputSettings",
    "PathKind",
    "PathSettings",
    "ProductMode",
    "Rewriting",
    "RunSettings",
    "ScheduleSettings",
    "SpectrumSettings",
    "Split",
    "typed",
]

Split = Literal["train", "test", "both"]
PathKind = Literal["bezier", "chain"]
T = TypeVar("T")

SEEDS = range(2**32)  # those that NumPy accepts, for tasks that seed it
SEEDS_HINT = f"a seed is 0 to {SEEDS.stop - 1}"
_ARE = {1: "is one", 2: "are two"}


class Keywords(dict[str, Any]):
    """JSON Schema keywords in an annotation; docs/schema.json is generated from them."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_SOME = Keywords(minimum=1)
_OPTIONAL = Keywords(optional=True)  # documents of earlier releases lack it

BatchNormMode = Literal["recalibrate", "interpolate", "batch"]
Operator = Literal["hessian", "ggn", "fisher", "empirical-fisher"]
Rewriting = Literal["batch-size", "linear-scaling", "momentum"]
ProductMode = Literal[
    "auto",
    "double-backward",
    "forward-over-reverse",
    "reverse-over-forward",
    "finite-difference",
]


def _check(settings: object, name: str, holds: Callable[[Any], bool], hint: str) -> None:
    """Raise `UsageError` where a setting is out of range."""
    value = getattr(settings, name)
    if not holds(value):
        raise UsageError(f"{setting(name, value)}: is out of range", hint)


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
    samples: Annotated[int | None, "Size of the seeded subset; null for all.", _SOME] = None
    batch_size: Annotated[
        int | None, "Bounds memory, never changes the answer; null: automatic.", _SOME
    ] = None
    device: Annotated[str, "As requested."] = "auto"
    dtype: Annotated[Literal["float32", "float64", "bfloat16"], "The arithmetic."] = "float32"
    mode: Annotated[Literal["eval", "train"], "Mode of the model's layers."] = "eval"
    seed: Annotated[int, "The seed of everything random."] = 0
    parameters: Annotated[
        tuple[str, ...], "Patterns of the parameters that are measured; empty: all.", _OPTIONAL
    ] = ()
    tf32: Annotated[
        bool,
        "Whether TF32 (about three significant digits) was allowed for float32 products.",
        _OPTIONAL,
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
        _OPTIONAL,
    ] = None
    partial: Annotated[
        bool,
        "Whether checkpoints may hold a part of the model; the rest is as the task made it.",
        _OPTIONAL,
    ] = False

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and contradictions; raises `UsageError`."""
        for name in ("samples", "batch_size", "fixed_batch"):
            _check(self, name, lambda x: x is None or x >= 1, "give 1 or more")
        _check(self, "seed", SEEDS.__contains__, SEEDS_HINT)
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
class CurvatureSettings:
    """The curvature matrix and how its products are computed.

    `hvp` is the differentiation mode of Hessian-vector products; "auto" picks the fastest for the
    model. `memory` bounds the bytes that a measurement uses in addition to model and
    checkpoint: data, kept graphs, the eigenvector basis, microbatches (None: what is free).
    """

    operator: Operator = "hessian"
    hvp: ProductMode = "auto"
    memory: int | None = None

    def __post_init__(self) -> None:
        """Raise `UsageError` for an HVP mode with an operator that has no Hessian product."""
        if self.operator != "hessian" and self.hvp != "auto":
            raise UsageError(
                f"{setting('hvp', self.hvp)}: is a way to a Hessian product, and "
                f"{setting('operator', self.operator)} has none",
                f"leave {setting('hvp')} out: Gauss-Newton and Fisher matrices take first "
                "derivatives only",
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
            _check(self, name, lambda x: x is None or x >= 1, "give 1 or more")
        for name in ("relative_error", "sampling_error"):
            _check(self, name, lambda x: x is None or x > 0, "a share is above 0")
        _check(self, "time", lambda x: x is None or x > 0, "give seconds above 0")
        if self.time is not None and self.by is not None:
            raise UsageError(
                f"{setting('time', self.time)} and {setting('by', self.by)} do not go together",
                f"layers have no sample of their own: leave {setting('time')} out",
            )
        _check(self, "tol", lambda x: 0 < x <= 1, "a share of λ1 is above 0 and at most 1")
        _check(self, "rescale_factor", lambda x: 1 < x <= 1e3, "it is above 1 and at most 1000")
        _check(self, "epsilons", lambda all_: all(x > 0 for x in all_), "each ε is above 0")
        _check(
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


@dataclass(frozen=True)
class SpectrumSettings:
    """Probes and Lanczos steps of a spectral density.

    `probes` random directions (None: depends on the model's size), `steps` Lanczos steps from each.
    Repeated eigenvalues can only be detected with at least two probes.
    """

    probes: Annotated[
        int | None, "Random starts; null: depends on the model's size.", Keywords(minimum=2)
    ] = None
    steps: Annotated[int, "Lanczos steps from each.", Keywords(minimum=5)] = 80
    curvature: Annotated[
        CurvatureSettings, "The matrix and how its products are made.", Keywords(type="object")
    ] = CurvatureSettings()

    def __post_init__(self) -> None:
        """Refuse what tells nothing; raises `UsageError` naming the setting."""
        limits = {
            "probes": (self.probes is None or self.probes >= 2, "give 2 or more"),
            "steps": (self.steps >= 5, "give 5 or more: four moments take as many"),
        }
        for name, (holds, hint) in limits.items():
            if not holds:
                raise UsageError(f"{setting(name, getattr(self, name))}: is too few", hint)


@dataclass(frozen=True)
class GridSettings:
    """The grid points of a line or a plane; a single entry applies to every axis."""

    points: Annotated[
        tuple[Annotated[int, _SOME], ...],
        "Points along each axis; one number applies to all.",
        Keywords(minItems=1, maxItems=2),
    ] = (25,)  # Keskar et al. 2017, figure 3
    ranges: Annotated[
        tuple[tuple[float, float], ...],
        "Start and end of each axis; empty: depends on what is drawn.",
        Keywords(maxItems=2),
    ] = ()

    def shape(self, dimensions: int) -> tuple[int, ...]:
        """Points along each of the axes; raises `UsageError` where more axes are named."""
        return self._each(self.points, dimensions, "points")

    def limits(self, default: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        """The range of each axis, `default` where none was asked for; raises as `shape`."""
        return self._each(self.ranges or default, len(default), "ranges")

    def _each(self, given: tuple[T, ...], dimensions: int, name: str) -> tuple[T, ...]:
        if len(given) == 1:
            return given * dimensions
        if len(given) != dimensions:
            raise UsageError(
                f"{setting(name)} names {counted(len(given), 'axis', 'axes')}, and there "
                f"{_ARE[dimensions]}",
                "give one value for all axes, or one for each",
            )
        return given


@dataclass(frozen=True)
class BatchNormSettings:
    """How batch-norm running statistics are set at a point between checkpoints."""

    mode: Annotated[
        BatchNormMode,
        "recalibrate: recomputed on training data; interpolate: interpolated between the "
        "checkpoints; batch: those of the evaluated batch.",
    ] = "recalibrate"
    examples: Annotated[
        int | None,
        "Training examples for recalibration; null: as many as fit in one pass.",
        Keywords(minimum=2),
    ] = None


@dataclass(frozen=True)
class DirectionSettings:
    """The axes around one checkpoint; `kind` is one of `runs.direction_kinds`."""

    kind: Annotated[str, Keywords({"$ref": "#/$defs/direction_kind"})] = "random"
    dimensions: Annotated[Literal[1, 2], "A line or a plane."] = 2
    normalize: Annotated[
        Literal["filter", "layer", "none"] | None,
        "As requested; null: filter for random axes, none for others.",
    ] = None
    tol: Annotated[
        float,
        "Hessian axes: residual at which an eigenvalue has converged, relative to the largest.",
        Keywords(exclusiveMinimum=0),
    ] = 1e-3
    max_products: Annotated[
        int | None,
        "Hessian axes: the most Hessian-vector products; null: no separate limit.",
        _SOME,
    ] = None


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


@dataclass(frozen=True)
class PathSettings:
    """How a curved path between two checkpoints is trained."""

    kind: Annotated[PathKind, "bezier: quadratic; chain: two segments."] = "bezier"
    steps: Annotated[int, "Training steps.", _SOME] = 1000
    batch_size: Annotated[int, "Examples a step.", _SOME] = 128
    lr: Annotated[
        float,
        "The first step in each parameter, as a fraction of the root mean square distance between "
        "the ends.",
        Keywords(exclusiveMinimum=0),
    ] = 0.1
    seed: Annotated[int, "The seed of the batches and of the points on the path."] = 0

    def __post_init__(self) -> None:
        """Refuse what no path can be trained with; raises `UsageError` naming the setting."""
        if self.kind not in ("bezier", "chain"):
            raise UsageError(
                f"{setting('path', self.kind)}: there is no such path", "use bezier or chain"
            )
        limits = {
            "steps": (self.steps >= 1, "train for at least one step"),
            "batch_size": (self.batch_size >= 1, "a batch has at least one example"),
            "lr": (0 < self.lr <= 1e6, "a learning rate is above 0 (0.1 is usual)"),
        }
        for name, (holds, hint) in limits.items():
            if not holds:
                written = setting(f"path.{name}", getattr(self, name))
                raise UsageError(f"{written}: is out of range", hint)


@dataclass(frozen=True)
class InterpolateSettings:
    """What is computed between checkpoints: a line, optionally B aligned with A, a curved path."""

    grid: GridSettings = GridSettings()
    batch_norm: BatchNormSettings = BatchNormSettings()
    align: Annotated[bool, "Whether B is also aligned with A."] = False
    path: Annotated[PathSettings | None, "How a curved path is trained; null: no path."] = None


@dataclass(frozen=True)
class LandscapeSettings:
    """What is computed around a checkpoint."""

    grid: GridSettings = GridSettings()
    batch_norm: BatchNormSettings = BatchNormSettings()
    directions: DirectionSettings = DirectionSettings()
    map: Annotated[
        Literal["hessian"] | None,
        "hessian: also both ends of the Hessian's spectrum at every point.",
        _OPTIONAL,
    ] = None


@dataclass(frozen=True)
class SearchSettings:
    """What a search looks for, and how."""

    objective: Annotated[str, "What is best: the loss, or a metric of the task."] = "loss"
    split: Annotated[
        Literal["validation", "train", "test"],
        "The data that it is taken on; validation: training data that no step sees.",
    ] = "validation"
    validation: Annotated[
        float,
        "The share of the training data that is held out, with split validation.",
        Keywords(exclusiveMinimum=0, exclusiveMaximum=1),
    ] = 0.2
    direction: Annotated[
        Literal["minimize", "maximize"] | None,
        "Which objective is better; null: a low loss, a high metric.",
    ] = None
    trials: Annotated[int, "Trainings.", _SOME] = 50
    sampler: Annotated[
        Literal["tpe", "random", "grid"],
        "tpe: near the best ones so far; random; grid: every combination of lists.",
    ] = "tpe"
    pruner: Annotated[
        Literal["median", "none"],
        "median: a training ends early where it is worse than the median of those before it at the "
        "same point.",
    ] = "median"
    every: Annotated[
        int | None, "Steps between two evaluations on the way; null: an epoch.", _SOME
    ] = None
    seed: Annotated[int, "Of the choices and of what is held out.", Keywords(minimum=0)] = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range; raises `UsageError` naming the setting."""
        limits = {
            "validation": (0 < self.validation < 1, "a share is above 0 and below 1"),
            "trials": (self.trials >= 1, "try at least once"),
            "every": (self.every is None or self.every >= 1, "a step is the shortest way"),
            "seed": (self.seed in SEEDS, SEEDS_HINT),
        }
        for name, (holds, range_) in limits.items():
            if not holds:
                raise UsageError(f"{setting(name, getattr(self, name))}: is out of range", range_)

    @property
    def highest(self) -> bool:
        """Whether the highest objective is the best."""
        if self.direction is None:
            return self.objective != "loss"
        return self.direction == "maximize"


@dataclass(frozen=True)
class ScheduleSettings:
    """A schedule to draw, and how to rewrite it at the same noise scale."""

    schedule: Annotated[str, "The learning rate, as `sharp train` takes it."]
    steps: Annotated[int, "Updates.", _SOME] = 1000
    batch_size: Annotated[int | None, "Examples an update.", _SOME] = None
    batch_schedule: Annotated[str | None, "The same by step, in place of batch_size."] = None
    examples: Annotated[int | None, "Examples of the training data.", _SOME] = None
    momentum: Annotated[
        float, "The optimizer's momentum.", Keywords(minimum=0, exclusiveMaximum=1)
    ] = 0.0
    rewrite: Annotated[
        Rewriting | None,
        "batch-size: the rate's decay as a growing batch; linear-scaling: to another batch size; "
        "momentum: to another momentum.",
    ] = None
    to_batch_size: Annotated[int | None, "For linear-scaling.", _SOME] = None
    to_momentum: Annotated[float | None, "For momentum."] = None
    max_batch: Annotated[
        int | None, "The largest batch to grow to; null: a tenth of the examples.", _SOME
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


def typed(kind: Any, value: Any) -> Any:
    """A value of a TOML or JSON file as an annotation of a setting has it: lists become tuples.

    Raises:
        ValueError: The text says what is wanted: `a whole number`.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return typed(arguments[0], value)
    if origin in (Union, types.UnionType):
        wanted = []
        for each in (each for each in arguments if each is not type(None)):
            try:
                return typed(each, value)
            except ValueError as error:
                wanted.append(str(error))
        raise ValueError(" or ".join(wanted))
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError("one of " + ", ".join(map(str, arguments)))
    if origin is tuple:
        return _typed_items(arguments, value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {name: typed(arguments[1], each) for name, each in value.items()}
        raise ValueError("a table")
    if kind is Any:
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (whole or (isinstance(value, float) and math.isfinite(value))):
        return float(value)
    if kind is int and whole:
        return value
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(_WANTED.get(kind, f"a {getattr(kind, '__name__', kind)}"))


_WANTED = {
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}


def _typed_items(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """The items of a list, each as its own annotation has it."""
    if not isinstance(value, list | tuple):
        raise ValueError("a list")
    if arguments[-1:] == (...,):
        return tuple(typed(arguments[0], each) for each in value)
    if len(value) != len(arguments):
        raise ValueError(f"a list of {len(arguments)}")
    return tuple(typed(each, item) for each, item in zip(arguments, value, strict=True))
