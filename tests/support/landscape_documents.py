"""Landscapes by formula, whose pages and pictures are known to the digit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import scenes
from scenes import spread

from sharpcli.documents.results import Document

Curve = Callable[..., float | None]

LINE = [round(-1 + 0.125 * i, 3) for i in range(25)]


def checkpoint(
    name: str,
    path: str,
    coordinates: Sequence[float],
    *,
    role: str = "anchor",
    unseen: float = 0.0,
    loss: tuple[float, float] = (0.0123, 0.31),
    accuracy: tuple[float, float] = (1.0, 0.94),
) -> Document:
    train_test = ("train", "test")
    return scenes.checkpoint(
        name,
        role,
        dict(zip(train_test, loss, strict=True)),
        unseen,
        path=path,
        accuracy=dict(zip(train_test, accuracy, strict=True)),
        **dict(zip(("alpha", "beta"), coordinates, strict=False)),
    )


def accuracy(loss: float | None, best: float = 1.0) -> float | None:
    return None if loss is None else 0.1 + (best - 0.1) * math.exp(-0.9 * max(loss, 0.0))


def curves(train: Sequence[float | None], test: Sequence[float | None] | None) -> dict[str, Any]:
    both = {"train": {"loss": list(train), "accuracy": [accuracy(y) for y in train]}}
    if test is not None:
        both["test"] = {"loss": list(test), "accuracy": [accuracy(y, 0.96) for y in test]}
    return both


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
    a = checkpoint("A", "runs/sgd-32/model.safetensors", [0.0], loss=(0.0123, 0.2941))
    b = checkpoint(
        "B",
        "runs/sgd-400/model.safetensors",
        [1.0],
        loss=(0.003, 0.2835),
        accuracy=(1.0, 0.9139),
    )
    return scenes.line_on(list(x), curves(train, test), [a, b], norm=12.34, **more)


def line_with_all() -> Document:
    """A line, the aligned line and a Bézier path."""
    aligned = [0.35 * keskar(a) + 0.008 for a in LINE]
    t = [i / 24 for i in range(25)]
    bent = [0.012 - 0.009 * s + 0.05 * s * (1 - s) for s in t]
    return line(
        aligned=scenes.aligned_on(LINE, curves(aligned, [0.28 + y for y in aligned])),
        path=scenes.bezier_on(t, curves(bent, [0.28 + y for y in bent]), 400),
        batch_norm="recalibrate",
    )


def surface(
    alphas: Sequence[float],
    betas: Sequence[float],
    height: Curve,
    checkpoints: Sequence[Document],
    *,
    kind: str = "landscape",
    test: bool = True,
    **more: Any,
) -> Document:
    """A plane whose training loss is a formula of the coordinates; α runs fastest."""
    values = [height(a, b) for b in betas for a in alphas]
    tests = [None if y is None else 0.28 + 1.1 * y for y in values] if test else None
    more = {"meanings": ("first", "second"), "norm": 12.34, "cosine": 1.2e-9, **more}
    return scenes.surface(kind, alphas, betas, curves(values, tests), checkpoints, **more)


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
    return surface(
        spread(-2.5, 14.8, 25),
        spread(-2.0, 11.6, 21),
        height,
        [*found, marked],
        kind="interpolate",
        meanings=(
            "from A towards B, in units of weight distance",
            "towards C, across the first axis",
        ),
        norm=1.0,
    )


def random_plane(count: int = 31) -> Document:
    """A bowl with ripples around one checkpoint; the upper left corner is not finite."""

    def height(a: float, b: float) -> float | None:
        if a - b < -1.75:
            return None
        ripples = 1 + 0.5 * math.sin(5 * a) * math.cos(4 * b)
        return 0.01 + 9 * (a * a + 0.6 * b * b + 0.5 * a * b) * ripples

    return surface(
        spread(-1, 1, count),
        spread(-1, 1, count),
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
    return surface(
        spread(-2, 16, 37),
        spread(-3, 3, 13),
        height,
        [checkpoint("A", "runs/adam/epoch-20.pt", (0.0, 0.0), role="center")],
        test=False,
        directions="trajectory",
        normalize="none",
        meanings=("first principal axis of the path", "second principal axis of the path"),
        shares=(0.8312, 0.1104),
        norm=1.0,
        trajectories=[
            scenes.trajectory(
                "runs/adam",
                [f"runs/adam/epoch-{i}.pt" for i in range(points)],
                way,
                [0.02 * i % 0.3 for i in range(points)],
            )
        ],
    )
