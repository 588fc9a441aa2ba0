"""Made-up documents of `sharp interpolate` and `sharp landscape`: curves by formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sharpcli.documents.results import Document, Report, Scalar, to_document

Curve = Callable[..., float | None]

LINE = [round(-1 + 0.125 * i, 3) for i in range(25)]


def scalar(value: float | None, **fields: Any) -> dict[str, Any]:
    return to_document(Report("", {}, {}, {}, [Scalar(value, **fields)]))["results"][0]


def checkpoint(
    name: str,
    path: str,
    coordinates: Sequence[float],
    *,
    role: str = "anchor",
    unseen: float = 0.0,
    loss: tuple[float, float] = (0.0123, 0.31),
    accuracy: tuple[float, float] = (1.0, 0.94),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        "name": name,
        "path": path,
        "sha256": "ab" * 32,
        "parameters": 669706,
        "metadata": {},
        "notes": list(notes),
        "role": role,
        "coordinates": dict(zip(("alpha", "beta"), coordinates, strict=False)),
        "unseen": unseen,
        "measures": {
            "loss": {"train": scalar(loss[0]), "test": scalar(loss[1])},
            "accuracy": {"train": scalar(accuracy[0]), "test": scalar(accuracy[1])},
        },
    }


def document(kind: str, result: Mapping[str, Any], **more: Any) -> Document:
    run = {"split": "train", "samples": None, "dtype": "float32", "mode": "eval", "seed": 0}
    return {
        "schema": "sharpcli/1",
        "kind": kind,
        "settings": {"run": run},
        "environment": {"sharpcli": "0.2.0", "python": "3.12", "torch": "2.6", "device": "cpu"},
        "task": {
            "name": "digits",
            "options": {"width": 128},
            "fingerprint": "ab12",
            "examples": {"train": 1437, "test": 360},
        },
        "results": [{"status": "ok", **result}],
        **more,
    }


def accuracy(loss: float | None, best: float = 1.0) -> float | None:
    return None if loss is None else 0.1 + (best - 0.1) * math.exp(-0.9 * max(loss, 0.0))


def curves(train: Sequence[float | None], test: Sequence[float | None] | None) -> dict[str, Any]:
    both = {"train": {"loss": list(train), "accuracy": [accuracy(y) for y in train]}}
    if test is not None:
        both["test"] = {"loss": list(test), "accuracy": [accuracy(y, 0.96) for y in test]}
    return both


def barrier(x: Sequence[float], y: Sequence[float | None], name: str = "alpha") -> dict[str, Any]:
    inside = [(a, v) for a, v in zip(x, y, strict=True) if 0 <= a <= 1 and v is not None]
    if not inside:
        nothing = {**scalar(None, error_kind="lower_bound", status="not_finite"), name: None}
        return {**nothing, "above_mean": nothing}
    start, end = inside[0][1], inside[-1][1]
    value, at = max((v - ((1 - a) * start + a * end), a) for a, v in inside)
    mean, at_mean = max((v - (start + end) / 2, a) for a, v in inside)
    bound = {"error_kind": "lower_bound", "status": "lower_bound"}
    return {
        **scalar(value, **bound),
        name: at,
        "above_mean": {**scalar(mean, **bound), name: at_mean},
    }


def keskar(a: float) -> float:
    """A flat minimum at 0, a sharp one at 1, a hump between, and walls outside."""
    wide, sharp = 0.012 + 1.1 * a * a, 0.003 + 14 * (a - 1) ** 2
    low = -0.15 * math.log(math.exp(-wide / 0.15) + math.exp(-sharp / 0.15))
    return max(low, 0.003) + (6 * max(0.0, -a) ** 3) + 30 * max(0.0, a - 1) ** 2


def line(
    x: Sequence[float] = LINE,
    train: Sequence[float | None] | None = None,
    test: Sequence[float | None] | None = None,
    **more: Any,
) -> Document:
    """A line of 25 points between two minima; keywords go into the result."""
    if train is None:
        train = [keskar(a) for a in x]
        test = [0.28 + 1.15 * keskar(a) for a in x]
    both = curves(train, test)
    result = {
        "checkpoints": [
            checkpoint("A", "runs/sgd-32/model.safetensors", [0.0], loss=(0.0123, 0.2941)),
            checkpoint(
                "B",
                "runs/sgd-400/model.safetensors",
                [1.0],
                loss=(0.003, 0.2835),
                accuracy=(1.0, 0.9139),
            ),
        ],
        "dimensions": 1,
        "shape": [len(x)],
        "axes": [
            {"name": "alpha", "values": list(x), "meaning": "from A (0) to B (1)", "norm": 12.34}
        ],
        "batch_norm": None,
        "coordinates": [{"alpha": a} for a in x],
        "curves": both,
        "barrier": {split: barrier(x, both[split]["loss"]) for split in both},
        **more,
    }
    return document("interpolate", result)


def line_with_all() -> Document:
    """A line, the aligned line and a Bézier path."""
    aligned = [0.35 * keskar(a) + 0.008 for a in LINE]
    both = curves(aligned, [0.28 + y for y in aligned])
    t = [i / 24 for i in range(25)]
    bent = [0.012 - 0.009 * s + 0.05 * s * (1 - s) for s in t]
    path = curves(bent, [0.28 + y for y in bent])
    return line(
        aligned={
            "curves": both,
            "barrier": {split: barrier(LINE, both[split]["loss"]) for split in both},
            "groups": 4,
            "moved": 1022,
            "function_difference": 1.2e-7,
        },
        path={
            "kind": "bezier",
            "coordinates": [{"t": s} for s in t],
            "curves": path,
            "barrier": {split: barrier(t, path[split]["loss"], "t") for split in path},
            "steps": 400,
        },
        batch_norm="recalibrate",
    )


def surface(
    alphas: Sequence[float],
    betas: Sequence[float],
    height: Curve,
    checkpoints: Sequence[Mapping[str, Any]],
    *,
    kind: str = "landscape",
    test: bool = True,
    **more: Any,
) -> Document:
    """A plane whose training loss is a formula of the coordinates; α runs fastest."""
    values = [height(a, b) for b in betas for a in alphas]
    tests = [None if y is None else 0.28 + 1.1 * y for y in values] if test else None
    result = {
        "checkpoints": list(checkpoints),
        "dimensions": 2,
        "shape": [len(alphas), len(betas)],
        "axes": [
            {"name": "alpha", "values": list(alphas), "meaning": "first", "norm": 12.34},
            {"name": "beta", "values": list(betas), "meaning": "second", "norm": 12.34},
        ],
        "cosine": 1.2e-9,
        "batch_norm": None,
        "coordinates": [{"alpha": a, "beta": b} for b in betas for a in alphas],
        "curves": curves(values, tests),
        **more,
    }
    return document(kind, result)


def spaced(low: float, high: float, count: int) -> list[float]:
    return [low + (high - low) * i / max(1, count - 1) for i in range(count)]


def plane() -> Document:
    """Three minima on a plane in true weight distance, a fourth checkpoint near it."""
    minima = {"A": (0.0, 0.0), "B": (12.3, 0.0), "C": (5.8, 9.7)}

    def height(a: float, b: float) -> float:
        wells = [0.01 + 0.05 * ((a - x) ** 2 + (b - y) ** 2) for x, y in minima.values()]
        return -0.4 * math.log(sum(math.exp(-w / 0.4) for w in wells)) + 0.45

    found = [
        checkpoint(name, f"runs/{run}/model.pt", minima[name], unseen=1e-9)
        for name, run in zip(minima, ("sgd-1", "sgd-2", "adam-1"), strict=True)
    ]
    marked = checkpoint("D", "runs/swa/model.pt", (6.1, 3.2), role="marked", unseen=0.412)
    document = surface(
        spaced(-2.5, 14.8, 25), spaced(-2.0, 11.6, 21), height, [*found, marked], kind="interpolate"
    )
    first, second = document["results"][0]["axes"]
    first |= {"meaning": "from A towards B, in units of weight distance", "norm": 1.0}
    second |= {"meaning": "towards C, across the first axis", "norm": 1.0}
    return document


def random_plane(count: int = 31) -> Document:
    """A bowl with ripples around one checkpoint; the upper left corner is not finite."""

    def height(a: float, b: float) -> float | None:
        if a - b < -1.75:
            return None
        ripples = 1 + 0.5 * math.sin(5 * a) * math.cos(4 * b)
        return 0.01 + 9 * (a * a + 0.6 * b * b + 0.5 * a * b) * ripples

    return surface(
        spaced(-1, 1, count),
        spaced(-1, 1, count),
        height,
        [checkpoint("A", "runs/sgd-32/model.safetensors", (0.0, 0.0), role="center")],
        directions="random",
        normalize="filter",
        batch_norm="recalibrate",
    )


def trajectory(points: int = 12) -> Document:
    """The path of an optimizer on its principal axes."""

    def height(a: float, b: float) -> float:
        return 0.02 + 0.01 * a * a + 0.08 * b * b + 0.01 * (a * b)

    way = [
        (14 * math.exp(-0.3 * i), 3 * math.sin(0.7 * i) * math.exp(-0.25 * i))
        for i in range(points)
    ]
    way[-1] = (0.0, 0.0)
    document = surface(
        spaced(-2, 16, 37),
        spaced(-3, 3, 13),
        height,
        [checkpoint("A", "runs/adam/epoch-20.pt", (0.0, 0.0), role="center")],
        test=False,
        directions="trajectory",
        normalize="none",
        trajectories=[
            {
                "name": "runs/adam",
                "points": [
                    {
                        "path": f"runs/adam/epoch-{i}.pt",
                        "coordinates": {"alpha": a, "beta": b},
                        "unseen": 0.02 * i % 0.3,
                    }
                    for i, (a, b) in enumerate(way)
                ],
            }
        ],
    )
    for axis, share, name in zip(
        document["results"][0]["axes"], (0.8312, 0.1104), ("first", "second"), strict=True
    ):
        axis |= {"meaning": f"{name} principal axis of the path", "norm": 1.0}
        axis["explained_variance"] = share
    return document
