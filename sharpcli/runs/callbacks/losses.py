"""The loss of each example of a model that computes its own mean loss, as transformers' do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.tasks import defaults

__all__ = ["has_labels", "own_loss", "predict"]

Loss = Callable[[Any, Any], Any]

# How far the mean over examples may be from the model's own loss: it is computed in another
# precision, and token by token.
_SAME = 2e-3


def predict(model: nn.Module, batch: Any) -> Any:
    """The model's outputs; of a mapping the labels stay out where the model needs none."""
    config = getattr(model, "config", None)
    if not isinstance(batch, Mapping) or getattr(config, "is_encoder_decoder", True):
        return defaults.predict(model, batch)
    return model(**{name: value for name, value in batch.items() if name != "labels"})


def has_labels(batch: Any) -> bool:
    """Whether a batch has the labels of which a model may compute its own loss."""
    return isinstance(batch, Mapping) and "labels" in batch


def own_loss(model: nn.Module, batch: Any, name: str) -> Loss:
    """The loss of each example whose mean is the loss that the model computes from `labels`.

    Args:
        model: in evaluation mode.
        batch: a few rows, on the model's device.
        name: of the model, for messages.

    Returns:
        `defaults.loss_for(name)` for a model that computes none.

    Raises:
        SharpError: the model's own loss is none of those known here.

    Cost: two forward passes over the batch.
    """
    usual = defaults.loss_for(name)
    if not has_labels(batch):
        return usual
    with torch.no_grad():
        own = getattr(defaults.predict(model, batch), "loss", None)
        if own is None:
            return usual
        outputs = predict(model, batch)
        for loss in _known(usual):
            found = loss(outputs, batch)
            if found is None:
                continue
            total, weight = (each.double().sum() for each in found)
            if abs(float(total / weight) - float(own)) <= _SAME * max(abs(float(own)), 1e-3):
                return loss
    raise SharpError(
        f"{name}: its own loss is {float(own):.6g} on {len(batch['labels'])} examples, and neither "
        "cross-entropy of classes or tokens, squared error nor binary cross-entropy gives this",
        "give loss(outputs, batch), which returns one loss for each example",
    )


def _known(usual: Loss) -> Iterator[Loss]:
    """Losses of outputs and a mapping with labels: (sum, weight) of each example, or None."""

    def classes(outputs: Any, batch: Any) -> Any:
        scores, targets = outputs.logits, batch["labels"]
        if targets.is_floating_point() or scores.ndim != 2 or targets.numel() != len(scores):
            return None
        return usual(scores, (None, targets.reshape(-1)))

    def next_tokens(outputs: Any, batch: Any) -> Any:
        scores, targets = outputs.logits, batch["labels"]
        if targets.is_floating_point() or scores.shape[:-1] != targets.shape or scores.ndim != 3:
            return None
        return usual(scores[:, :-1], (None, targets[:, 1:]))

    def tokens(outputs: Any, batch: Any) -> Any:
        scores, targets = outputs.logits, batch["labels"]
        if targets.is_floating_point() or scores.shape[:-1] != targets.shape or scores.ndim != 3:
            return None
        return usual(scores, (None, targets))

    def squares(outputs: Any, batch: Any) -> Any:
        scores, targets = outputs.logits, batch["labels"]
        if not targets.is_floating_point() or scores.numel() != targets.numel():
            return None
        return _means((scores - targets.reshape(scores.shape)).square())

    def binary(outputs: Any, batch: Any) -> Any:
        scores, targets = outputs.logits, batch["labels"]
        if not targets.is_floating_point() or scores.shape != targets.shape:
            return None
        own = nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return _means(own)

    yield from (classes, next_tokens, tokens, squares, binary)


def _means(each: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each example's values, with weight one."""
    own = each.flatten(1).mean(1) if each.ndim > 1 else each
    return own, torch.ones_like(own)
