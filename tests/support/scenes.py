"""Made-up interpolate and landscape documents: what real ones look like, in a few milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

ENVIRONMENT = {"sharpcli": "0.2.0", "python": "3.12", "torch": "2.6", "device": "cpu"}
TASK = {
    "name": "digits",
    "options": {},
    "fingerprint": "ab12",
    "examples": {"train": 1437, "test": 360},
}


def scalar(value: float | None, **more: Any) -> dict[str, Any]:
    status = "converged" if value is not None else "not_finite"
    return {"value": value, "error": None, "error_kind": None, "status": status, **more}


def bound(value: float, **more: Any) -> dict[str, Any]:
    return scalar(value, **more) | {"status": "lower_bound", "error_kind": "lower_bound"}


def settings(kind: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a run would have had."""
    run = {"split": "train", "samples": None, "batch_size": None, "device": "auto"}
    more: dict[str, Any] = {"align": "aligned" in result, "path": None}
    if kind == "landscape":
        chosen = {"kind": result.get("directions", "random"), "dimensions": result["dimensions"]}
        chosen |= {"normalize": result.get("normalize"), "tol": 1e-3, "max_products": None}
        more = {"directions": chosen}
    return {
        "run": {**run, "dtype": "float32", "mode": "eval", "seed": 0},
        "grid": {"points": result["shape"], "ranges": []},
        "batch_norm": {"mode": "recalibrate", "examples": None},
        **more,
    }


def document(kind: str, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": "sharpcli/1",
        "kind": kind,
        "settings": settings(kind, result),
        "environment": ENVIRONMENT,
        "task": deepcopy(TASK),  # a test may change its document
        "results": [{"status": "ok", **result}],
    }


def checkpoint(
    name: str, role: str, loss: Mapping[str, float], unseen: float = 0.0, **coordinates: float
) -> dict[str, Any]:
    return {
        "name": name,
        "path": f"runs/{name}/model.safetensors",
        "sha256": "ab" * 32,
        "parameters": 669706,
        "metadata": {},
        "notes": [],
        "role": role,
        "coordinates": coordinates,
        "unseen": unseen,
        "measures": {"loss": {split: scalar(value) for split, value in loss.items()}},
    }


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


def barriers(curves: Mapping[str, Any], places: Sequence[float], key: str) -> dict[str, Any]:
    found = {}
    for split, values in curves.items():
        loss = values["loss"]
        a, b = (min(range(len(places)), key=lambda i: abs(places[i] - end)) for end in (0, 1))
        rises = [
            (loss[i] - (1 - places[i]) * loss[a] - places[i] * loss[b], places[i])
            for i in range(a, b + 1)
            if loss[i] is not None
        ]
        height, place = max(rises, default=(0.0, 0.0))
        found[split] = bound(height, **{key: place, "above_mean": bound(height, **{key: place})})
    return found


def line(points: int = 25, start: float = -1.0, stop: float = 2.0, **more: Any) -> dict[str, Any]:
    """A -- B on one line, 0 and 1 on the grid."""
    alphas = spread(start, stop, points)
    curves = line_curves(alphas)
    ends = line_curves([0.0, 1.0])
    anchors = [
        checkpoint(name, "anchor", {s: ends[s]["loss"][i] for s in ends}, alpha=float(i))
        for i, name in enumerate("AB")
    ]
    return document(
        "interpolate",
        {
            "checkpoints": anchors,
            "dimensions": 1,
            "shape": [points],
            "axes": [
                {
                    "name": "alpha",
                    "values": alphas,
                    "meaning": "from A (0) to B (1)",
                    "norm": 12.3,
                }
            ],
            "batch_norm": None,
            "coordinates": [{"alpha": a} for a in alphas],
            "curves": curves,
            "barrier": barriers(curves, alphas, "alpha"),
            **more,
        },
    )


def aligned(points: int = 25) -> dict[str, Any]:
    alphas = spread(-1.0, 2.0, points)
    curves = line_curves(alphas, height=0.35)
    return {
        "curves": curves,
        "barrier": barriers(curves, alphas, "alpha"),
        "norm": 9.1,
        "groups": 4,
        "moved": 1022,
        "function_difference": 1e-7,
    }


def bezier(points: int = 21) -> dict[str, Any]:
    places = spread(0.0, 1.0, points)
    curves = line_curves(places, height=0.04)
    return {
        "kind": "bezier",
        "steps": 600,
        "coordinates": [{"t": t} for t in places],
        "curves": curves,
        "barrier": barriers(curves, places, "t"),
    }


# Surfaces.


def surface(
    kind: str,
    alphas: Sequence[float],
    betas: Sequence[float],
    loss: Callable[[float, float], float | None],
    **more: Any,
) -> dict[str, Any]:
    """A 2-D document; each axis's meaning and the rest can be given in `more`."""
    train = [loss(a, b) for b in betas for a in alphas]
    test = [None if x is None else 0.15 + 1.2 * x for x in train]
    curves: dict[str, dict[str, list[float | None]]] = {
        "train": {"loss": train, "accuracy": [_accuracy(x) for x in train]},
        "test": {"loss": test, "accuracy": [_accuracy(x) for x in test]},
    }
    along, across = "along the line from A to B", "away from that line, towards C"
    meanings = more.pop("meanings", (along, across))
    facts = more.pop("facts", ({}, {}))
    axes = [
        {"name": name, "values": list(values), "meaning": meaning, "norm": 1.0, **fact}
        for name, values, meaning, fact in zip(
            ("alpha", "beta"), (alphas, betas), meanings, facts, strict=True
        )
    ]
    return document(
        kind,
        {
            "checkpoints": [],
            "dimensions": 2,
            "shape": [len(alphas), len(betas)],
            "axes": axes,
            "cosine": 0.0,
            "batch_norm": "recalibrate",
            "coordinates": [{"alpha": a, "beta": b} for b in betas for a in alphas],
            "curves": curves,
            **more,
        },
    )


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


def plane(n_alpha: int = 21, n_beta: int = 21, **more: Any) -> dict[str, Any]:
    """Through three minima, in weight distance."""
    checkpoints = [
        checkpoint(name, "anchor", {"train": plane_loss(x, y)}, alpha=x, beta=y)
        for name, (x, y) in zip("ABC", MINIMA, strict=True)
    ]
    return surface(
        "interpolate",
        spread(-4.0, 18.5, n_alpha),
        spread(-4.0, 16.0, n_beta),
        plane_loss,
        **{"checkpoints": checkpoints, **more},
    )


def bowl(a: float, b: float) -> float:
    return 0.01 + 6 * (a * a + 0.35 * b * b) ** 1.3 * (1.2 + math.sin(5 * a + 3 * b) * 0.3)


def random_plane(n_alpha: int = 21, n_beta: int = 21, **more: Any) -> dict[str, Any]:
    """Around one minimum along filter-normalised random directions."""
    center = checkpoint("A", "center", {"train": bowl(0, 0)}, alpha=0.0, beta=0.0)
    return surface(
        "landscape",
        spread(-1.0, 1.0, n_alpha),
        spread(-1.0, 1.0, n_beta),
        bowl,
        **{
            "checkpoints": [center],
            "directions": "random",
            "normalize": "filter",
            "meanings": ("a random direction",) * 2,
            **more,
        },
    )


def path_plane(n_alpha: int = 25, n_beta: int = 17, **more: Any) -> dict[str, Any]:
    """Around the end of a run on the principal axes of its path, with that path."""

    def loss(a: float, b: float) -> float:
        return 0.02 + 0.012 * a * a + 0.15 * b * b + 0.04 * (1 + math.cos(a))

    center = checkpoint("A", "center", {"train": loss(0, 0)}, alpha=0.0, beta=0.0)
    points = [
        {
            "path": f"run/{i}.pt",
            "coordinates": {
                "alpha": 11 * math.exp(-i / 5) - 0.1,
                "beta": 2.6 * math.exp(-i / 7) * math.cos(i / 3) - 0.05,
            },
            "unseen": 0.1,
        }
        for i in range(30)
    ]
    return surface(
        "landscape",
        spread(-3.0, 13.0, n_alpha),
        spread(-3.0, 3.6, n_beta),
        loss,
        **{
            "checkpoints": [center],
            "directions": "trajectory",
            "normalize": "none",
            "meanings": ("principal axis 1 of the path", "principal axis 2 of the path"),
            "facts": ({"explained_variance": 0.831}, {"explained_variance": 0.093}),
            "trajectories": [{"name": "run", "points": points}],
            **more,
        },
    )


def random_line(points: int = 25) -> dict[str, Any]:
    """Around one minimum along one direction."""
    alphas = spread(-1.0, 1.0, points)
    loss = [bowl(a, 0.0) for a in alphas]
    center = checkpoint("A", "center", {"train": bowl(0, 0)}, alpha=0.0)
    return document(
        "landscape",
        {
            "checkpoints": [center],
            "dimensions": 1,
            "shape": [points],
            "axes": [
                {
                    "name": "alpha",
                    "values": alphas,
                    "meaning": "eigenvector 1 of the Hessian",
                    "norm": 1.0,
                    "eigenvalue": scalar(12.31, error=0.04) | {"error_kind": "residual"},
                }
            ],
            "directions": "hessian",
            "normalize": "none",
            "batch_norm": None,
            "coordinates": [{"alpha": a} for a in alphas],
            "curves": {"train": {"loss": loss}},
        },
    )
