"""Folders of small images, and a stand-in for timm, whose torchvision the tests do not need."""

import types

import numpy
import torch
from PIL import Image
from torch import nn


def images(folder, classes=("cat", "dog"), each=10, size=8, seed=0):
    """Write random images, brighter for later classes."""
    random = numpy.random.default_rng(seed)
    for number, name in enumerate(classes):
        place = folder / name
        place.mkdir(parents=True)
        for index in range(each):
            pixels = random.integers(0, 120, (size, size, 3)) + 100 * number
            Image.fromarray(pixels.astype("uint8")).save(place / f"{index:02}.png")


class Small(nn.Module):
    default_cfg = types.MappingProxyType({"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)})

    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        return self.head(self.conv(images).tanh().mean((2, 3)))


def stand_in():
    """The functions of timm that the task calls, as its documentation describes them."""
    timm = types.ModuleType("timm")
    timm.data = types.ModuleType("timm.data")
    timm.is_model = lambda name: name == "small_net"
    timm.list_models = lambda pattern: ["small_net"] if pattern.strip("*") in "small_net" else []

    def create_model(name, pretrained, num_classes):
        assert (name, pretrained) == ("small_net", False)
        return Small(num_classes)

    def resolve_model_data_config(model):
        return {"input_size": (3, 6, 6), **model.default_cfg}

    def create_transform(input_size, mean, std, is_training):
        assert is_training is False

        def transform(image):
            pixels = numpy.asarray(image.resize(input_size[1:]), dtype="float32") / 255
            pixels = (pixels - numpy.array(mean)) / numpy.array(std)
            return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)

        return transform

    timm.create_model = create_model
    timm.data.resolve_model_data_config = resolve_model_data_config
    timm.data.create_transform = create_transform
    return timm
