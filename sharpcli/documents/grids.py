"""The results of `sharp interpolate` and `sharp landscape`: values on a line or plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from sharpcli.documents.fields import Metadata, Notes, Number, Sha256, absent
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import Outcome
from sharpcli.settings.exploring import PathKind
from sharpcli.settings.fields import Keywords

__all__ = [
    "MAP_TITLES",
    "Aligned",
    "AnchoredAxis",
    "Axis",
    "Barrier",
    "Barriers",
    "BySplit",
    "Curve",
    "CurvedPath",
    "Curves",
    "Explored",
    "ExploredCheckpoint",
    "HessianMap",
    "Interpolated",
    "PathPlace",
    "Place",
    "Points",
    "ProjectedPlace",
    "Rise",
    "SamplingCurves",
    "Trajectory",
    "TrajectoryPoint",
    "Unseen",
]

_COUNT = Keywords(minimum=0)
_SHARE = Keywords(minimum=0, maximum=1.0000001)
_COSINE = Keywords(minimum=-1.0000001, maximum=1.0000001)
_ON_PATH = Keywords(minimum=0, maximum=1)
_SPLITS = Keywords(propertyNames={"enum": ["train", "test"]})
_AT_LEAST_ONE = Keywords(minItems=1)
_AXES = Keywords(minItems=1, maxItems=2)

Curve = Annotated[
    Mapping[str, Sequence[float | None]],
    "Values of one split by name: the loss and the task's metrics, one per point; null: not "
    "finite, or not reached.",
    Keywords(required=["loss"]),
]
Curves = Annotated[
    Mapping[str, Curve],
    "Values at the points, by split; empty if no point was reached.",
    _SPLITS,
]
SamplingCurves = Annotated[
    Mapping[str, Mapping[str, Sequence[float | None]]],
    "Standard errors from sampling the data, by split and name, one per point.",
    Keywords(minProperties=1, **_SPLITS),
]
BySplit = Annotated[
    Mapping[str, Scalar], "One number per split.", Keywords(minProperties=1, **_SPLITS)
]
Unseen = Annotated[
    Number,
    "Fraction of its distance from the origin that lies off the line or plane; null if its weights "
    "are not finite.",
    _SHARE,
]


@dataclass(frozen=True)
class Place:
    """Coordinates on the line or plane."""

    alpha: Annotated[float, "Along the first axis."]
    beta: Annotated[float | None, "Along the second axis; absent on a line."] = absent()


@dataclass(frozen=True)
class ProjectedPlace:
    """Coordinates of a checkpoint, by least squares; null if its weights are not finite."""

    alpha: Annotated[Number, "Along the first axis."]
    beta: Annotated[Number | None, "Along the second axis; absent on a line."] = absent()


@dataclass(frozen=True)
class PathPlace:
    """A place."""

    t: Annotated[float, "From 0 to 1.", _ON_PATH]


@dataclass(frozen=True, kw_only=True)
class Rise(Scalar):
    """The highest rise and where it is."""

    alpha: Annotated[float | None, "Its place on a line."] = absent()
    t: Annotated[float | None, "Its place on a curved path.", _ON_PATH] = absent()


@dataclass(frozen=True, kw_only=True)
class Barrier(Rise):
    """Max over [0, 1] of L(α) − ((1−α)L_A + αL_B), at the computed points (Entezari et al. 2022).

    `value` is the highest rise above the straight line between the losses of the ends.
    """

    above_mean: Annotated[Rise, "Max over [0, 1] of L(α) − (L_A + L_B)/2 (Frankle et al. 2020)."]


Barriers = Annotated[
    Mapping[str, Barrier],
    "By split; a split is left out if its ends were not reached or are not finite.",
    _SPLITS,
]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis."""

    name: Annotated[str, "Its name.", Keywords(enum=["alpha", "beta"])]
    meaning: Annotated[str, "What the axis is."]
    eigenvalue: Annotated[Scalar | None, "Of the Hessian; Hessian axes only."] = absent()
    values: Annotated[Sequence[float], "Its grid values, ascending.", _AT_LEAST_ONE]
    norm: Annotated[float, "Weight distance of one unit.", _COUNT]
    explained_variance: Annotated[
        Number | None,
        "Fraction of the paths' variance about the origin along this axis; with trajectories.",
        _SHARE,
    ] = absent()


@dataclass(frozen=True, kw_only=True)
class _ValuesFirst:
    name: str
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class AnchoredAxis(Axis, _ValuesFirst):
    """An axis through checkpoints; the document lists its values first."""


@dataclass(frozen=True)
class ExploredCheckpoint:
    """A checkpoint on the line or plane."""

    name: Annotated[str, "A, B, C, or M1, M2, … for marked ones."]
    path: Annotated[str, "As given."]
    sha256: Sha256
    parameters: Annotated[int, "Number of measured parameters, tied ones once.", _COUNT]
    metadata: Metadata
    notes: Notes
    role: Annotated[
        Literal["anchor", "center", "marked"],
        "anchor: spans the line or plane; center: at 0; marked: shown at its projection.",
    ]
    coordinates: Annotated[ProjectedPlace, "Its place on the line or plane, by least squares."]
    unseen: Unseen
    measures: Annotated[
        Mapping[str, BySplit] | None,
        "At the checkpoint itself, with its own buffers, as in `sharp measure`; absent after an "
        "interruption.",
        Keywords(required=["loss"]),
    ] = absent()
    on_surface: Annotated[
        Mapping[str, BySplit] | None,
        "At its place on the line or plane, with the running statistics used there.",
        Keywords(required=["loss"]),
    ] = absent()
    parameters_in_all: Annotated[
        int | None, "Number of all parameters, measured or not; with parameters chosen.", _COUNT
    ] = absent()


@dataclass(frozen=True)
class TrajectoryPoint:
    """One checkpoint of a trajectory."""

    path: Annotated[str, "As given."]
    coordinates: Annotated[ProjectedPlace, "Its projection, by least squares."]
    unseen: Unseen


@dataclass(frozen=True)
class Trajectory:
    """An optimizer's path."""

    name: Annotated[str, "The label of the path."]
    points: Annotated[Sequence[TrajectoryPoint], "In the order given.", _AT_LEAST_ONE]


@dataclass(frozen=True)
class Aligned:
    """The line from A to B after permuting B's hidden units, at the same coordinates."""

    curves: Curves
    barrier: Barriers
    norm: Annotated[float, "Weight distance from A to the permuted B.", _COUNT]
    groups: Annotated[int, "Groups of hidden units that can be permuted.", Keywords(minimum=1)]
    moved: Annotated[int, "Units that changed position.", _COUNT]
    function_difference: Annotated[
        float | None,
        "Difference of the outputs from B's in float64, relative to the largest.",
        _COUNT,
    ]


@dataclass(frozen=True)
class CurvedPath:
    """A trained curve from A to B."""

    kind: Annotated[PathKind, "bezier: quadratic; chain: two segments."]
    coordinates: Annotated[Sequence[PathPlace], "Places on it, A at 0, B at 1."]
    curves: Curves
    barrier: Barriers
    steps: Annotated[int, "Training steps taken.", _COUNT]


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """How a line or plane was drawn."""

    status: Annotated[
        Literal[Outcome.OK, Outcome.INTERRUPTED],
        "interrupted: Ctrl-C ended it; points not reached are null.",
    ]
    dimensions: Annotated[Literal[1, 2], "1: a line; 2: a plane."]
    batch_norm: Annotated[
        Literal["recalibrate", "interpolate", "batch"] | None,
        "How running statistics were set; null: the model has none.",
    ]
    batch_norm_examples: Annotated[
        int | None,
        "Training examples that they were computed from; with recalibrate.",
        Keywords(minimum=1),
    ] = absent()
    cosine: Annotated[float | None, "Cosine between the two axes.", _COSINE] = absent()


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points of a line or plane, and the checkpoints on it."""

    checkpoints: Annotated[
        Sequence[ExploredCheckpoint],
        "Those that span the line or plane, then those marked on it.",
        _AT_LEAST_ONE,
    ]
    shape: Annotated[
        Sequence[Annotated[int, Keywords(minimum=1)]], "Points along alpha, and along beta.", _AXES
    ]
    axes: Annotated[Sequence[Axis], "alpha, and beta on a plane.", _AXES]
    coordinates: Annotated[Sequence[Place], "Every point; alpha runs fastest.", _AT_LEAST_ONE]
    curves: Curves
    sampling_errors: SamplingCurves | None = absent()
    trajectories: Annotated[
        Sequence[Trajectory], "Optimizers' paths on the line or plane.", _AT_LEAST_ONE
    ] = absent(())
    explained_variance: Annotated[
        Number | None,
        "Fraction of the paths' variance about the origin along both axes together.",
        _SHARE,
    ] = absent()


@dataclass(frozen=True, kw_only=True)
class Interpolated(Points, _Drawing):
    """The result of `interpolate`."""

    barrier: Barriers | None = absent()
    aligned: Aligned | None = absent()
    path: CurvedPath | None = absent()


@dataclass(frozen=True, kw_only=True)
class _Directions:
    directions: Annotated[str, Keywords({"$ref": "#/$defs/direction_kind"})]
    normalize: Annotated[
        str, "How the axes were scaled.", Keywords(enum=["filter", "layer", "none"])
    ]


# The names of a map's quantities in tables and figures.
MAP_TITLES = {"ratio": "|λmin/λ1|", "largest": "λ1", "smallest": "λmin"}


@dataclass(frozen=True, kw_only=True)
class HessianMap:
    """Both ends of the Hessian's spectrum at every point; null where a point was not reached."""

    largest: Annotated[Sequence[Scalar | None], "λ1.", _AT_LEAST_ONE]
    smallest: Annotated[Sequence[Scalar | None], "λmin.", _AT_LEAST_ONE]
    ratio: Annotated[
        Sequence[Scalar | None], "|λmin/λ1|, near 0 where the loss is convex.", _AT_LEAST_ONE
    ]
    products: Annotated[int, "Hessian-vector products of all points.", _COUNT]


@dataclass(frozen=True, kw_only=True)
class Explored(Points, _Directions, _Drawing):
    """The result of `landscape`."""

    hessian: Annotated[HessianMap | None, "With a map of the Hessian."] = absent()
