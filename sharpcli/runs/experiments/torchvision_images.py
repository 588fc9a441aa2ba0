"""A task with whole image data sets: MNIST, CIFAR10 or CIFAR100, from torchvision's folder.

`folder` is the one into which torchvision downloads, `torchvision.datasets.CIFAR10(folder,
download=True)`; it is never downloaded here. In a sweep file:
task = "sharpcli.runs.experiments.torchvision_images:".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sharpcli.errors import SharpError, setting

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

__all__ = ["augment", "data", "model", "predict"]

TASK = "torchvision_images"
Name = Literal["MNIST", "CIFAR10", "CIFAR100"]
_SHIFT = 4  # pixels, at most, as is usual for CIFAR


def model(
    images: Name = "CIFAR10",
    model: Literal["mlp", "cnn", "resnet"] = "resnet",
    width: int = 256,
    depth: int = 2,
    batch_norm: bool = True,
) -> nn.Module:
    """An MLP, a CNN or a ResNet; by default about a WRN-16-4, with stages of 64, 128 and 256."""
    from sharpcli.tasks.networks import check_sizes, cnn, mlp, resnet

    check_sizes(TASK, {"width": width, "depth": depth})
    channels, side = (1, 28) if images == "MNIST" else (3, 32)
    classes = 100 if images == "CIFAR100" else 10
    if model == "mlp":
        return mlp(channels * side**2, classes, width, depth, "relu", batch_norm)
    if model == "cnn":
        return cnn(channels, side, classes, width, depth, "relu", batch_norm)
    return resnet(channels, classes, width, depth, "relu", batch_norm)


def data(split: str, folder: str = "data", images: Name = "CIFAR10") -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W), centred and scaled, and classes (N,) of one split."""
    import torch

    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        raise SharpError(
            f"{TASK}: torchvision, which reads the images, cannot be imported: {error}",
            "install the torchvision of the torch that is installed",
        ) from error
    try:
        found = getattr(datasets, images)(folder, train=split == "train")
    except RuntimeError as error:
        raise SharpError(
            f"{TASK}: {setting('options.folder', folder)} has no {images}",
            f"python -c \"import torchvision; torchvision.datasets.{images}('{folder}', "
            'download=True)"',
        ) from error
    pixels = torch.as_tensor(found.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return (pixels.float() / 255 - 0.5) / 0.25, torch.as_tensor(found.targets).long()


def augment(batch: tuple[Tensor, Tensor], generator: Generator) -> tuple[Tensor, Tensor]:
    """Each image shifted by up to 4 pixels; grey moves in. Colour images are mirrored at random."""
    import torch

    pixels, classes = batch
    count, channels, height, width = pixels.shape
    up, left = torch.randint(0, 2 * _SHIFT + 1, (2, count, 1, 1), generator=generator)
    mirrored = torch.rand(count, generator=generator) < (0.5 if channels == 3 else 0.0)
    device = pixels.device
    columns = torch.arange(width).expand(count, 1, width)
    columns = torch.where(mirrored[:, None, None], columns.flip(-1), columns)
    rows, columns = (torch.arange(height)[:, None] + up).to(device), (columns + left).to(device)
    framed = torch.nn.functional.pad(pixels, (_SHIFT,) * 4)
    which = torch.arange(count, device=device)[:, None, None]
    return framed.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2), classes


def predict(model: nn.Module, batch: tuple[Tensor, Tensor], adversarial: float = 0.0) -> Tensor:
    """The scores of the classes; in a training step those of adversarial images, if asked for."""
    from sharpcli.runs.experiments.adversarial_mnist import predict

    return predict(model, batch, adversarial)
