"""A task: the first images of CIFAR-10 with a tanh MLP and a squared loss, as in Cohen et al. 2021.

`folder` is the one into which torchvision downloads, `torchvision.datasets.CIFAR10(folder,
download=True)`; it is never downloaded here. In a sweep file:
task = "sharpcli.runs.experiments.squared_cifar10:".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpcli.errors import SharpError, setting

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["data", "loss", "metrics", "model"]

TASK = "squared_cifar10"


def model(width: int = 200, depth: int = 2) -> nn.Module:
    """An MLP with tanh, whose loss has second derivatives everywhere."""
    from sharpcli.tasks.networks import check_sizes, mlp

    check_sizes(TASK, {"width": width, "depth": depth})
    return mlp(3 * 32**2, 10, width, depth, "tanh", False)


def data(split: str, folder: str = "data", examples: int = 5000) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32), centred and scaled, and classes (N,); the first `examples`."""
    import torch

    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        raise SharpError(
            f"{TASK}: torchvision, which reads the images, cannot be imported: {error}",
            "install the torchvision of the torch that is installed",
        ) from error
    try:
        found = datasets.CIFAR10(folder, train=split == "train")
    except RuntimeError as error:
        raise SharpError(
            f"{TASK}: {setting('options.folder', folder)} has no CIFAR10",
            f"python -c \"import torchvision; torchvision.datasets.CIFAR10('{folder}', "
            'download=True)"',
        ) from error
    pixels = torch.as_tensor(found.data[:examples]).permute(0, 3, 1, 2)
    classes = torch.as_tensor(found.targets[:examples]).long()
    return (pixels.float() / 255 - 0.5) / 0.25, classes


def loss(outputs: Tensor, batch: tuple[Tensor, Tensor], cross_entropy: bool = False) -> Tensor:
    """Each example's loss (N,): half the squared distance from the class's unit vector.

    Or its cross-entropy, to compare.
    """
    from torch.nn import functional

    if cross_entropy:
        return functional.cross_entropy(outputs, batch[1], reduction="none")
    targets = functional.one_hot(batch[1], outputs.shape[1]).to(outputs)
    return (outputs - targets).square().sum(1) / 2


def metrics(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Whether each example has its class."""
    return {"accuracy": (outputs.argmax(1) == batch[1]).double()}
