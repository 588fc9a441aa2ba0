"""What is computed between and around checkpoints: lines, planes, curved paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from sharpcli.errors import UsageError, counted, setting
from sharpcli.settings.fields import OPTIONAL, SOME, Keywords

__all__ = [
    "BatchNormMode",
    "BatchNormSettings",
    "DirectionSettings",
    "GridSettings",
    "InterpolateSettings",
    "LandscapeSettings",
    "PathKind",
    "PathSettings",
]

BatchNormMode = Literal["recalibrate", "interpolate", "batch"]
PathKind = Literal["bezier", "chain"]
T = TypeVar("T")
_ARE = {1: "is one", 2: "are two"}


@dataclass(frozen=True)
class GridSettings:
    """The grid points of a line or a plane; a single entry applies to every axis."""

    points: Annotated[
        tuple[Annotated[int, SOME], ...],
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
        SOME,
    ] = None


@dataclass(frozen=True)
class PathSettings:
    """How a curved path between two checkpoints is trained."""

    kind: Annotated[PathKind, "bezier: quadratic; chain: two segments."] = "bezier"
    steps: Annotated[int, "Training steps.", SOME] = 1000
    batch_size: Annotated[int, "Examples a step.", SOME] = 128
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
        OPTIONAL,
    ] = None
