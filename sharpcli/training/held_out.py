"""A part of the training data that no step sees, to choose settings by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from sharpcli.errors import SharpError
from sharpcli.tasks import Task

__all__ = ["VALIDATION", "with_validation"]

VALIDATION = "validation"


def with_validation(task: Task, share: float, seed: int) -> Task:
    """The task with a `validation` split: this share of the training data, drawn by the seed.

    Its `train` split has the rest. Data that are too few for both parts are a `SharpError` when
    they are read.
    """

    def data(split: str) -> Any:
        if split not in ("train", VALIDATION):
            return task.data(split)
        all_of_it = task.data("train")
        columns = isinstance(all_of_it, tuple | list)
        columns &= all(isinstance(each, Tensor) for each in all_of_it)
        total = len(all_of_it[0]) if columns and all_of_it else len(all_of_it)
        kept_out = round(share * total)
        if not 0 < kept_out < total:
            raise SharpError(
                f"{task.name}: {share:g} of {total} training examples leaves one part empty",
                "hold out another share, or choose by another split",
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        chosen = order[:kept_out] if split == VALIDATION else order[kept_out:]
        chosen = chosen.sort().values
        if columns:
            return tuple(each[chosen] for each in all_of_it)
        return Subset(all_of_it, chosen.tolist())

    return replace(task, data=data)
