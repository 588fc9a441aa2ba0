"""The built-in task `timm`: an image model of timm on a folder of images.

The images lie in a folder for each class, as torchvision's ImageFolder reads them. They are
resized, cropped and normalised as timm does in evaluation, by the model's own configuration.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, counted, setting

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PACKAGE", "SUMMARY", "data", "model"]

SUMMARY = "an image model of timm, on your folder of images"
PACKAGE = "timm"
EXTRA = "timm"
EXAMPLE = "sharp measure model_best.pth.tar -t timm -O model=NAME -O data=FOLDER"

_TRAIN, _TEST = ("train", "training"), ("val", "validation", "test")
_IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_EVERY = 10  # without a folder for it, every tenth image of each class is for testing


def model(model: str, data: str, classes: int | None = None) -> nn.Module:
    """The model `model` without weights, with an output for each class of the folder `data`.

    `classes` is the number of outputs, if there are more.
    """
    made: nn.Module = _create(model, _outputs(data, classes))
    return made


def data(split: str, data: str, model: str, classes: int | None = None) -> Any:
    """Images as the model takes them, with the place of their folder's name as class."""
    from sharpcli.tasks.notes import note

    folder, part = _folder_of(Path(data), split)
    if folder is None:
        return None
    images = _images(folder, list(_classes(data)))
    if part is not None:
        place: dict[int, int] = {}
        chosen = []
        for path, number in images:
            place[number] = place.get(number, -1) + 1
            if (place[number] % _EVERY == _EVERY - 1) == (part == "test"):
                chosen.append((path, number))
        images = chosen
        note(
            f"test data: every tenth image of each class of {data}, which has no folder "
            f"{' or '.join(_TEST)}"
        )
        if not images:
            return None
    return _Images(images, _transform(model, _outputs(data, classes)))


class _Images:
    """Images and their classes, read when asked for. `targets` are the classes."""

    def __init__(self, images: list[tuple[Path, int]], transform: Any) -> None:
        self._images, self._transform = images, transform
        self.targets = [number for _, number in images]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Any = importlib.import_module("PIL.Image")
        path, number = self._images[index]
        try:
            with image.open(path) as opened:
                return self._transform(opened.convert("RGB")), number
        except (OSError, SyntaxError) as error:  # Pillow raises both for a damaged file
            raise SharpError(f"timm: {path} is no image: {error}", "take it out") from error


@contextlib.contextmanager
def _timm() -> Iterator[Any]:
    """The package timm.

    Raises:
        SharpError: it cannot be imported.
    """
    try:
        found = importlib.import_module("timm")
        importlib.import_module("PIL.Image")
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        first = str(error).partition("\n")[0]
        raise SharpError(
            f"timm: cannot be imported: {first}",
            "pip install 'sharpcli[timm]' (timm needs the torchvision of the torch that is "
            "installed)",
        ) from error
    yield found


def _create(name: str, classes: int) -> Any:
    """A model of timm with random weights, on the CPU; nothing is downloaded."""
    if ":" in name:
        raise SharpError(
            f"timm: {setting('options.model', name)}: only timm's own models are built, without "
            "downloads",
            "name one of timm.list_models()",
        )
    with _timm() as timm:
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.partition('.')[0][:8]}*")[:5]
            raise SharpError(
                f"timm: has no model '{name}'",
                f"there are: {', '.join(near)}" if near else "timm.list_models() lists them",
            )
        return timm.create_model(name, pretrained=False, num_classes=classes)


@functools.lru_cache(maxsize=2)
def _transform(name: str, classes: int) -> Any:
    """The preprocessing of evaluation: the model's own size, crop, mean and deviation."""
    with _timm() as timm:
        model = _create(name, classes)
        settings = timm.data.resolve_model_data_config(model)
        return timm.data.create_transform(**settings, is_training=False)


def _outputs(folder: str, asked: int | None) -> int:
    found = len(_classes(folder))
    if asked is not None and asked < found:
        raise SharpError(
            f"timm: {setting('options.classes', asked)}: {folder} has "
            f"{counted(found, 'class', 'classes')}",
            "leave it out, or give the number of the model's outputs",
        )
    return asked or found


def _classes(folder: str) -> Mapping[str, int]:
    """The names of the classes in order, from the training images."""
    place, _ = _folder_of(Path(folder), "train")
    names = sorted(each.name for each in place.iterdir() if each.is_dir()) if place else []
    if not names:
        raise SharpError(
            f"timm: {folder} has no folders of images",
            "put the images of each class into a folder: FOLDER/train/CLASS/IMAGE, or "
            "FOLDER/CLASS/IMAGE",
        )
    return {name: number for number, name in enumerate(names)}


def _folder_of(root: Path, split: str) -> tuple[Path | None, str | None]:
    """The folder of a split, and the split itself if it is a part of that folder's images."""
    if not root.is_dir():
        raise SharpError(
            f"timm: there is no folder {root}", f"name it: {setting('options.data', 'FOLDER')}"
        )
    train = next((root / name for name in _TRAIN if (root / name).is_dir()), None)
    tests = [root / name for name in _TEST if (root / name).is_dir()]
    if train is None:
        if tests:
            raise SharpError(
                f"timm: {root} has the folder '{tests[0].name}', but none of the training images",
                f"call it {_TRAIN[0]}, or name a folder whose folders are the classes",
            )
        return root, split
    if split == "train":
        return train, None
    return (tests[0], None) if tests else (None, None)


def _images(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """The images of a folder in order, each with the number of its class."""
    names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise SharpError(
            f"timm: {folder} has the class '{unknown[0]}', which the training images do not have",
            "the folders of both splits have the same names",
        )
    found = [
        (path, classes.index(name))
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in _IMAGES
    ]
    if not found:
        raise SharpError(
            f"timm: {folder} holds no images ({', '.join(_IMAGES)})", "check the folder"
        )
    return found
