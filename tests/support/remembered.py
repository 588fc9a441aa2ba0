"""Contexts of checkpoints that come with an optimizer's state, for the tests of its measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from networks import context
from torch import Tensor

from sharpcli.checkpoint import Checkpoint
from sharpcli.measures import Context, choose, options_of
from sharpcli.tasks import Task


def optimizer_of(of: Task, kind: type[torch.optim.Optimizer], **settings: Any) -> Any:
    """An optimizer with the memory of some steps on random gradients of float64, and its model."""
    model = of.model().double()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = kind(trained, **settings)
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        for each in trained:
            each.grad = 0.1 * torch.randn(each.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return model, optimizer


def remembered(
    of: Task,
    optimizer: torch.optim.Optimizer | None,
    dtype: str = "float64",
    *,
    metadata: dict[str, Any] | None = None,
    measure: str = "",
    options: dict[str, Any] | None = None,
    **others: Any,
) -> Context:
    """A context at a task's own starting parameters, with the state in the checkpoint."""
    chosen = choose([measure]) if measure else []
    found = context(of, dtype, options=options_of(chosen, options or {}), **others)
    state = None if optimizer is None else optimizer.state_dict()
    tensors = dict(of.model().state_dict())
    checkpoint = Checkpoint(Path("a.pt"), tensors, metadata or {}, "", (), state)
    return dataclasses.replace(found, checkpoint=checkpoint)


def flat(model: torch.nn.Module, values: dict[Tensor, Tensor]) -> Tensor:
    """One vector of a tensor for each trained parameter."""
    trained = [each for each in model.parameters() if each.requires_grad]
    return torch.cat([values[each].reshape(-1) for each in trained])
