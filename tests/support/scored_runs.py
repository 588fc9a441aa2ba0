"""Runs with curves made by hand, for the tests of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sharpcli.documents.results import Document, to_document
from sharpcli.documents.scoring import Asked, score
from sharpcli.documents.scoring.runs import Run

__all__ = ["run", "scored"]


def run(
    values: Sequence[float | None] = (0.1, 0.5, 0.9),
    *,
    seed: int = 0,
    metric: str = "accuracy",
    status: str = "ok",
    every: int = 10,
    **settings: Any,
) -> Run:
    """A run evaluated every so many steps; an epoch is 20 steps, a step takes half a second."""
    steps = [every * index for index in range(len(values))]
    evaluations = {
        "step": steps,
        "epochs": [step / 20 for step in steps],
        "seconds": [step / 2 for step in steps],
        "train": {"loss": [1.0] * len(values)},
        "test": {metric: list(values)},
    }
    name = f"{settings}-{seed}"
    ended = status == "ok"
    return Run(
        name=name,
        path=f"{name}/model.safetensors",
        settings={"task": "t", "seed": seed, **settings},
        seed=seed,
        status=status,
        sha256=None,
        evaluations=evaluations if ended else None,
    )


def scored(runs: Sequence[Run], **asked: Any) -> Document:
    """The document of their scores."""
    return to_document(score(runs, Asked(**asked), ["runs"]))
