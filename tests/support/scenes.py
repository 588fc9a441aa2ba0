"""Made-up interpolate and landscape documents: what real ones look like, in a few milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sharpcli.documents.scalars import Scalar
from sharpcli.settings.exploring import (
    DirectionSettings,
    GridSettings,
    InterpolateSettings,
    LandscapeSettings,
)
from sharpcli.settings.measuring import RunSettings

from sharpcli.documents.grids import (
    Aligned,
    AnchoredAxis,
    Axis,
    Barrier,
    CurvedPath,
    Explored,
    ExploredCheckpoint,
    Interpolated,
    PathPlace,
    Place,
    ProjectedPlace,
    Rise,
    Trajectory,
    TrajectoryPoint,
)
from sharpcli.documents.results import Document, Report, to_document

ENVIRONMENT = {"sharpcli": "0.2.0", "python": "3.12", "torch": "2.6", "device": "cpu"}
TASK = {
    "name": "digits",
    "options": {"width": 128},
    "fingerprint": "ab12",
    "examples": {"train": 1437, "test": 360},
}


def plain(part: Any) -> Any:
    """A part of a result as a document holds it."""
    return to_document(Report("", {}, {}, {}, [part]))["results"][0]


def scalar(value: float | None, **more: Any) -> dict[str, Any]:
    return dict(plain(Scalar(value, **more)))


def document(result: Interpolated | Explored, **more: Any) -> Document:
    """A document of one result; `more` goes into the result as it is."""
    shape = tuple(result.shape)
    chosen: Any = InterpolateSettings(GridSettings(shape), align="aligned" in more)
    if isinstance(result, Explored):
        directions = DirectionSettings(result.directions, len(shape), result.normalize)
        chosen = LandscapeSettings(GridSettings(shape), directions=directions)
    kind = "landscape" if isinstance(result, Explored) else "interpolate"
    settings = {"run": asdict(RunSettings()), **asdict(chosen)}
    made = to_document(Report(kind, settings, ENVIRONMENT, TASK, [result]))
    made["results"][0] |= plain(more)
    return made


def checkpoint(
    name: str,
    role: Any,
    loss: Mapping[str, float],
    unseen: float = 0.0,
    *,
    path: str | None = None,
    accuracy: Mapping[str, float] | None = None,
    **coordinates: float,
) -> Document:
    measured = {"loss": loss, **({} if accuracy is None else {"accuracy": accuracy})}
    return dict(
        plain(
            ExploredCheckpoint(
                name=name,
                path=path or f"runs/{name}/model.safetensors",
                sha256="ab" * 32,
                parameters=669706,
                metadata={},
                notes=[],
                role=role,
                coordinates=ProjectedPlace(**coordinates) if coordinates else {},  # type: ignore[arg-type]
                unseen=unseen,
                measures={
                    key: {split: Scalar(value) for split, value in each.items()}
                    for key, each in measured.items()
                },
            )
        )
    )


def spread(start: float, stop: float, count: int) -> list[float]:
    if count == 1:
        return [start]
    return [start + (stop - start) * i / (count - 1) for i in range(count)]


# The line of Keskar et al. 2017: a wide minimum at 0, a sharp one at 1, steep walls outside.


def line_loss(a: float, floor: float = 0.003, height: float = 2.3) -> float:
    hump = height * math.exp(-(((a - 0.55) / 0.16) ** 2))
    wall = 30 * (max(0.0, a - 1.05) / 0.95) ** 1.5 + 3 * (max(0.0, -a) ** 2)
    return floor * (1 + 4 * abs(a)) + hump + wall


def line_accuracy(loss: float, ceiling: float) -> float:
    return 0.1 + (ceiling - 0.1) / (1 + (loss / 1.6) ** 1.5)


def line_curves(alphas: Sequence[float], height: float = 2.3) -> dict[str, dict[str, list[Any]]]:
    train = [line_loss(a, 0.003, height) for a in alphas]
    test = [0.21 + 1.1 * line_loss(a, 0.01, height) for a in alphas]
    return {
        "train": {"loss": train, "accuracy": [line_accuracy(x, 1.0) for x in train]},
        "test": {"loss": test, "accuracy": [line_accuracy(x - 0.2, 0.94) for x in test]},
    }


def barrier(places: Sequence[float], losses: Sequence[float | None], key: str = "alpha") -> Barrier:
    """Over the ends of the points that are within [0, 1] and reached."""
    bound: dict[str, Any] = {"error_kind": "lower_bound", "status": "lower_bound"}
    inside = [(t, x) for t, x in zip(places, losses, strict=True) if 0 <= t <= 1 and x is not None]
    if not inside:
        nothing = Rise(None, error_kind="lower_bound", status="not_finite")
        return Barrier(**vars(nothing), above_mean=nothing)
    start, end = inside[0][1], inside[-1][1]
    rise, at = max((x - ((1 - t) * start + t * end), t) for t, x in inside)
    mean, at_mean = max((x - (start + end) / 2, t) for t, x in inside)
    above = Rise(mean, **bound, **{key: at_mean})
    return Barrier(rise, **bound, **{key: at}, above_mean=above)


def barriers(
    curves: Mapping[str, Any], places: Sequence[float], key: str = "alpha"
) -> dict[str, Barrier]:
    return {split: barrier(places, values["loss"], key) for split, values in curves.items()}


def line_on(
    alphas: Sequence[float],
    curves: Mapping[str, Any],
    checkpoints: Sequence[Document],
    *,
    norm: float = 12.3,
    **more: Any,
) -> Document:
    """A line from A to B with these curves."""
    axis = AnchoredAxis(name="alpha", values=alphas, meaning="from A (0) to B (1)", norm=norm)
    made: Any = {"checkpoints": checkpoints, "curves": curves}
    result = Interpolated(
        status="ok",
        dimensions=1,
        batch_norm=None,
        shape=[len(alphas)],
        axes=[axis],
        coordinates=[Place(a) for a in alphas],
        barrier=barriers(curves, alphas),
        **made,
    )
    return document(result, **more)


def line(points: int = 25, start: float = -1.0, stop: float = 2.0, **more: Any) -> Document:
    """A -- B on one line, 0 and 1 on the grid."""
    alphas, ends = spread(start, stop, points), line_curves([0.0, 1.0])
    anchors = [
        checkpoint(name, "anchor", {s: ends[s]["loss"][i] for s in ends}, alpha=float(i))
        for i, name in enumerate("AB")
    ]
    return line_on(alphas, line_curves(alphas), **{"checkpoints": anchors, **more})


def aligned(points: int = 25) -> Aligned:
    alphas = spread(-1.0, 2.0, points)
    return aligned_on(alphas, line_curves(alphas, height=0.35))


def aligned_on(alphas: Sequence[float], curves: Mapping[str, Any]) -> Aligned:
    return Aligned(curves, barriers(curves, alphas), 9.1, 4, 1022, 1.2e-7)


def bezier(points: int = 21) -> CurvedPath:
    places = spread(0.0, 1.0, points)
    return bezier_on(places, line_curves(places, height=0.04), 600)


def bezier_on(places: Sequence[float], curves: Mapping[str, Any], steps: int) -> CurvedPath:
    on_path = [PathPlace(t) for t in places]
    return CurvedPath("bezier", on_path, curves, barriers(curves, places, "t"), steps)


# Surfaces.


def surface(
    kind: str,
    alphas: Sequence[float],
    betas: Sequence[float],
    curves: Mapping[str, Any],
    checkpoints: Sequence[Document],
    *,
    meanings: Sequence[str] = ("along the line from A to B", "away from that line, towards C"),
    shares: Sequence[float | None] = (None, None),
    norm: float = 1.0,
    cosine: float = 0.0,
    **more: Any,
) -> Document:
    """A 2-D document of these curves, α fastest; each axis's meaning can be given."""
    axes = [
        Axis(name=name, values=values, meaning=meaning, norm=norm, explained_variance=share)
        for name, values, meaning, share in zip(
            ("alpha", "beta"), (alphas, betas), meanings, shares, strict=True
        )
    ]
    made: dict[str, Any] = {"checkpoints": checkpoints, "curves": curves, "batch_norm": None}
    if kind == "landscape":
        made |= {"directions": "random", "normalize": "filter"}
    own = {key: more.pop(key) for key in [*more] if key in made}
    result = (Explored if kind == "landscape" else Interpolated)(
        status="ok",
        dimensions=2,
        shape=[len(alphas), len(betas)],
        axes=axes,
        cosine=cosine,
        coordinates=[Place(a, b) for b in betas for a in alphas],
        **{**made, **own},
    )
    return document(result, **more)


def surface_curves(
    alphas: Sequence[float], betas: Sequence[float], loss: Callable[[float, float], float | None]
) -> dict[str, dict[str, list[float | None]]]:
    train = [loss(a, b) for b in betas for a in alphas]
    test = [None if x is None else 0.15 + 1.2 * x for x in train]
    return {
        split: {"loss": losses, "accuracy": [_accuracy(x) for x in losses]}
        for split, losses in (("train", train), ("test", test))
    }


def _accuracy(loss: float | None) -> float | None:
    return None if loss is None else line_accuracy(loss, 0.99)


MINIMA = ((0.0, 0.0), (14.2, 0.0), (6.1, 11.8))


def plane_loss(a: float, b: float) -> float:
    """Three basins of different width with ridges between them."""
    wells = [
        1 - math.exp(-((a - x) ** 2 + (b - y) ** 2) / width**2)
        for (x, y), width in zip(MINIMA, (4.5, 3.0, 3.6), strict=True)
    ]
    return 0.004 + 2.6 * math.prod(wells) + 0.00002 * ((a - 7) ** 2 + (b - 4) ** 2) ** 2


def plane(n_alpha: int = 21, n_beta: int = 21, **more: Any) -> Document:
    """Through three minima, in weight distance."""
    anchors = [
        checkpoint(name, "anchor", {"train": plane_loss(x, y)}, alpha=x, beta=y)
        for name, (x, y) in zip("ABC", MINIMA, strict=True)
    ]
    alphas, betas = spread(-4.0, 18.5, n_alpha), spread(-4.0, 16.0, n_beta)
    curves = surface_curves(alphas, betas, plane_loss)
    more = {"checkpoints": anchors, "batch_norm": "recalibrate", **more}
    return surface("interpolate", alphas, betas, curves, **more)


def bowl(a: float, b: float) -> float:
    return 0.01 + 6 * (a * a + 0.35 * b * b) ** 1.3 * (1.2 + math.sin(5 * a + 3 * b) * 0.3)


def random_plane(n_alpha: int = 21, n_beta: int = 21, **more: Any) -> Document:
    """Around one minimum along filter-normalised random directions."""
    center = checkpoint("A", "center", {"train": bowl(0, 0)}, alpha=0.0, beta=0.0)
    alphas, betas = spread(-1.0, 1.0, n_alpha), spread(-1.0, 1.0, n_beta)
    curves = surface_curves(alphas, betas, bowl)
    more = {"batch_norm": "recalibrate", "meanings": ("a random direction",) * 2, **more}
    return surface("landscape", alphas, betas, curves, [center], **more)


def path_plane(n_alpha: int = 25, n_beta: int = 17, **more: Any) -> Document:
    """Around the end of a run on the principal axes of its path, with that path."""

    def loss(a: float, b: float) -> float:
        return 0.02 + 0.012 * a * a + 0.15 * b * b + 0.04 * (1 + math.cos(a))

    center = checkpoint("A", "center", {"train": loss(0, 0)}, alpha=0.0, beta=0.0)
    way = [
        (11 * math.exp(-i / 5) - 0.1, 2.6 * math.exp(-i / 7) * math.cos(i / 3) - 0.05)
        for i in range(30)
    ]
    run = trajectory("run", [f"run/{i}.pt" for i in range(30)], way, [0.1] * 30)
    alphas, betas = spread(-3.0, 13.0, n_alpha), spread(-3.0, 3.6, n_beta)
    return surface(
        "landscape",
        alphas,
        betas,
        surface_curves(alphas, betas, loss),
        [center],
        **{
            "batch_norm": "recalibrate",
            "directions": "trajectory",
            "normalize": "none",
            "meanings": ("principal axis 1 of the path", "principal axis 2 of the path"),
            "shares": (0.831, 0.093),
            "trajectories": [run],
            **more,
        },
    )


def trajectory(
    name: str, paths: Sequence[str], way: Sequence[Sequence[float]], unseen: Sequence[float]
) -> Trajectory:
    """A path whose checkpoints fall at the places of `way`."""
    points = zip(paths, way, unseen, strict=True)
    return Trajectory(name, [TrajectoryPoint(p, ProjectedPlace(*at), u) for p, at, u in points])


def random_line(points: int = 25) -> Document:
    """Around one minimum along one direction."""
    alphas = spread(-1.0, 1.0, points)
    result = Explored(
        status="ok",
        dimensions=1,
        batch_norm=None,
        directions="hessian",
        normalize="none",
        checkpoints=[],
        shape=[points],
        axes=[
            Axis(
                name="alpha",
                meaning="eigenvector 1 of the Hessian",
                eigenvalue=Scalar(12.31, 0.04, "residual"),
                values=alphas,
                norm=1.0,
            )
        ],
        coordinates=[Place(a) for a in alphas],
        curves={"train": {"loss": [bowl(a, 0.0) for a in alphas]}},
    )
    center = checkpoint("A", "center", {"train": bowl(0, 0)}, alpha=0.0)
    return document(result, checkpoints=[center])
