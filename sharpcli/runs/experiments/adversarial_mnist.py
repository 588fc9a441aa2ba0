"""The task `small_mnist` with adversarial examples in the steps of a training.

Each image of a step is moved by ±`adversarial` in every pixel, to where the loss rises (the fast
gradient sign method). Losses and accuracies that are reported are of the images as they are.

Source: Goodfellow, Shlens & Szegedy 2015, "Explaining and harnessing adversarial examples".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpcli.runs.experiments.small_mnist import augment, data, model

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["augment", "data", "model", "predict"]


def predict(model: nn.Module, batch: tuple[Tensor, Tensor], adversarial: float = 0.0) -> Tensor:
    """The scores of the classes (N, 10), in a training step those of adversarial images."""
    import torch

    images, classes = batch
    if adversarial and model.training and torch.is_grad_enabled():
        moved = images.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(moved), classes)
        (uphill,) = torch.autograd.grad(loss, moved)
        images = images + adversarial * uphill.sign()
    scores: Tensor = model(images)
    return scores
