"""From settings to an optimizer of torch's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sharpcli.training import TrainSettings

__all__ = ["build_optimizer"]


def build_optimizer(parameters: Iterable[Tensor], settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer that `settings` describe, over `parameters`."""
    lr, decay = settings.step_size, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr, betas=settings.betas, weight_decay=decay)
