"""What a run is asked to do, one frozen dataclass a concern. Knows neither Click nor torch."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from sharpcli.errors import UsageError, counted, setting

__all__ = [
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
    "RunSettings",
    "SpectrumSettings",
    "Split",
    "typed",
]

Split = Literal["train", "test", "both"]
PathKind = Literal["bezier", "chain"]
T = TypeVar("T")
_ARE = {1: "is one", 2: "are two"}


class Keywords(dict[str, Any]):
    """Keywords of JSON Schema in an annotation, from which docs/schema.json is made."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_SOME = Keywords(minimum=1)
_OPTIONAL = Keywords(optional=True)  # documents of earlier releases lack it

BatchNormMode = Literal["recalibrate", "interpolate", "batch"]
Operator = Literal["hessian", "ggn", "fisher", "empirical-fisher"]
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
    """On which data, in which arithmetic and where a checkpoint is measured.

    `samples` is a seeded subset of the split (None: all of it), of each split where both are
    measured; `batch_size` bounds memory and never changes the answer (None: chosen by itself).
    `fixed_batch` declares a loss that is defined on batches of so many consecutive examples.
    `parameters` are patterns of the shell over the names of parameters: θ holds those that match
    one, the rest stays as it is (none: θ holds all). `tf32` lets a GPU make float32 products with
    factors of three digits.
    """

    split: Annotated[Split, "The data that is measured on."] = "train"
    samples: Annotated[int | None, "Size of the seeded subset; null for all.", _SOME] = None
    batch_size: Annotated[
        int | None, "Bounds memory, never changes the answer; null: chosen by itself.", _SOME
    ] = None
    device: Annotated[str, "As asked for."] = "auto"
    dtype: Annotated[Literal["float32", "float64", "bfloat16"], "The arithmetic."] = "float32"
    mode: Annotated[Literal["eval", "train"], "Mode of the model's layers."] = "eval"
    seed: Annotated[int, "The seed of everything random."] = 0
    parameters: Annotated[
        tuple[str, ...], "Patterns of the parameters that are measured; empty: all.", _OPTIONAL
    ] = ()
    tf32: Annotated[
        bool,
        "Whether a GPU was let make float32 products with factors of three digits.",
        _OPTIONAL,
    ] = False
    fixed_batch: Annotated[
        int | None,
        "Examples in the batches on which a loss is defined that couples the examples of a batch; "
        "null: each example's loss is its own.",
        Keywords(minimum=1, optional=True),
    ] = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and what contradicts a fixed batch.

        Raises `UsageError` naming the setting.
        """
        for name in ("samples", "batch_size", "fixed_batch"):
            _check(self, name, lambda x: x is None or x >= 1, "give 1 or more")
        _check(self, "seed", lambda x: 0 <= x < 2**32, "a seed is 0 to 4294967295")
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
    """Which matrix stands for the curvature, and how its products are made.

    `hvp` is the mode of differentiation of a Hessian product, "auto" the fastest on the model at
    hand. `memory` bounds the bytes that a measurement takes beside model, checkpoint and data: kept
    graphs, the basis of eigenvectors, microbatches (None: what is free).
    """

    operator: Operator = "hessian"
    hvp: ProductMode = "auto"
    memory: int | None = None

    def __post_init__(self) -> None:
        """Refuse a mode of a product that there is not; raises `UsageError`."""
        if self.operator != "hessian" and self.hvp != "auto":
            raise UsageError(
                f"{setting('hvp', self.hvp)}: is a way to a Hessian product, and "
                f"{setting('operator', self.operator)} has none",
                f"leave {setting('hvp')} out: Gauss-Newton and Fisher matrices take first "
                "derivatives only",
            )


@dataclass(frozen=True)
class MeasureSettings:
    """Which measures, and how far each is driven.

    `measures` are names of the registry, empty for the default set. ε-sharpness is measured for
    every one of `epsilons` in every one of `subspaces` (None is the full space, p the mean over
    `draws` random subspaces of p dimensions). `tol` bounds an eigenvalue's residual as a share of
    λ1, `relative_error` the trace's standard error as a share of the trace. Samples of the data
    grow until `sampling_error` bounds what they leave unknown, as a share (None: they do not). `by`
    "layer": each layer's block of the parameters is measured too. `options` are those that measures
    bring themselves, by name.
    """

    measures: tuple[str, ...] = ()
    epsilons: tuple[float, ...] = (1e-3, 5e-4)  # both of Keskar et al. 2017
    subspaces: tuple[int | None, ...] = (None,)
    draws: int = 5  # a standard error of the mean that is itself known to about a third
    maximizer: Literal["lbfgsb", "corner", "both", "raw"] = "both"
    iterations: int = 10  # Keskar et al. 2017
    top: int = 5
    tol: float = 1e-3
    max_products: int | None = None
    relative_error: float = 0.02
    sampling_error: float | None = None
    curvature: CurvatureSettings = CurvatureSettings()
    by: Literal["layer"] | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse numbers out of range; raises `UsageError` naming the setting."""
        for name in ("draws", "iterations", "top", "max_products"):
            _check(self, name, lambda x: x is None or x >= 1, "give 1 or more")
        for name in ("relative_error", "sampling_error"):
            _check(self, name, lambda x: x is None or x > 0, "a share is above 0")
        _check(self, "tol", lambda x: 0 < x <= 1, "a share of λ1 is above 0 and at most 1")
        _check(self, "epsilons", lambda all_: all(x > 0 for x in all_), "each ε is above 0")
        _check(
            self, "subspaces", lambda all_: all(x is None or x >= 1 for x in all_), "give 1 or more"
        )


@dataclass(frozen=True)
class SpectrumSettings:
    """How finely and how surely a spectral density is drawn.

    `probes` random directions (None: as many as the size asks for), `steps` Lanczos steps from
    each; two probes at least, or copies of an eigenvalue could not be told.
    """

    probes: Annotated[
        int | None, "Random starts; null: as many as the size asks for.", Keywords(minimum=2)
    ] = None
    steps: Annotated[int, "Lanczos steps from each.", Keywords(minimum=5)] = 80
    curvature: Annotated[
        CurvatureSettings, "Which matrix, and how its products are made.", Keywords(type="object")
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
    """Which points of a line or a plane; a single entry holds for every axis."""

    points: Annotated[
        tuple[Annotated[int, _SOME], ...],
        "Points along each axis; one number holds for all.",
        Keywords(minItems=1, maxItems=2),
    ] = (25,)  # Keskar et al. 2017, figure 3
    ranges: Annotated[
        tuple[tuple[float, float], ...],
        "From where to where along each axis; empty: chosen by what is drawn.",
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
    """What running statistics are at a point between checkpoints."""

    mode: Annotated[
        BatchNormMode,
        "recalibrate: taken anew on training data; interpolate: summed from the checkpoints'; "
        "batch: those of the data evaluated on.",
    ] = "recalibrate"
    examples: Annotated[
        int | None,
        "Training examples for recalibration; null: as many as go in one pass.",
        Keywords(minimum=2),
    ] = None


@dataclass(frozen=True)
class DirectionSettings:
    """The axes around one checkpoint, of a kind of `runs.direction_kinds`."""

    kind: Annotated[str, Keywords({"$ref": "#/$defs/direction_kind"})] = "random"
    dimensions: Annotated[Literal[1, 2], "A line or a plane."] = 2
    normalize: Annotated[
        Literal["filter", "layer", "none"] | None,
        "As asked for; null: filter for random axes, none for others.",
    ] = None
    tol: Annotated[
        float,
        "Hessian axes: residual at which an eigenvalue has converged, as a share of the largest.",
        Keywords(exclusiveMinimum=0),
    ] = 1e-3
    max_products: Annotated[
        int | None,
        "Hessian axes: the most Hessian-vector products; null: no limit of its own.",
        _SOME,
    ] = None


@dataclass(frozen=True)
class OutputSettings:
    """Where the result goes and in which form; `plot` are files of figures and exports of it."""

    format: str = "table"  # of render.formats
    output: Path | None = None
    quiet: bool = False
    strict: bool = False
    verbose: bool = False
    plot: tuple[Path, ...] = ()


@dataclass(frozen=True)
class FigureSettings:
    """How a figure looks: the loss's axis, the width in inches, what is drawn of a plane.

    None stands for the width that fits the panels, and for the loss.
    """

    scale: Literal["auto", "linear", "log"] = "auto"
    width: float | None = None
    metric: str | None = None


@dataclass(frozen=True)
class PathSettings:
    """How the bend of a curved path between two checkpoints is trained."""

    kind: Annotated[PathKind, "bezier: quadratic; chain: two segments."] = "bezier"
    steps: Annotated[int, "Training steps.", _SOME] = 1000
    batch_size: Annotated[int, "Examples a step.", _SOME] = 128
    lr: Annotated[
        float,
        "The first step in each parameter, as a share of the ends' root mean square distance.",
        Keywords(exclusiveMinimum=0),
    ] = 0.1
    seed: Annotated[int, "The seed of batches and places."] = 0

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
    """What is drawn between checkpoints; beside a line, B aligned with A and a curved path."""

    grid: GridSettings = GridSettings()
    batch_norm: BatchNormSettings = BatchNormSettings()
    align: Annotated[bool, "Whether B is also aligned with A."] = False
    path: Annotated[PathSettings | None, "How a curved path is trained; null: none is."] = None


@dataclass(frozen=True)
class LandscapeSettings:
    """What is drawn around a checkpoint."""

    grid: GridSettings = GridSettings()
    batch_norm: BatchNormSettings = BatchNormSettings()
    directions: DirectionSettings = DirectionSettings()


def typed(kind: Any, value: Any) -> Any:
    """A value of a TOML or JSON file as an annotation of a setting has it: lists become tuples.

    Raises `ValueError`, whose text says what is wanted: `a whole number`.
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
