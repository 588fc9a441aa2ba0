"""What lies beside a checkpoint's weights: the settings of its training, and its optimizer's state.

Hugging Face's Trainer, accelerate and others write a folder: `trainer_state.json`,
`training_args.bin`, `config.json`, `optimizer.pt` or `optimizer.bin`, and a random state for each
process. None of it is needed to measure the weights, so what cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharpcli.checkpoint.contents import Metadata, is_text, plain_scalar, read_json
from sharpcli.checkpoint.optimizer import add_optimizer, is_optimizer
from sharpcli.checkpoint.plain_objects import holds_settings
from sharpcli.checkpoint.stand_ins import Global, Stub
from sharpcli.checkpoint.torch_file import looks_like_torch, read_inert, read_torch
from sharpcli.errors import SharpError
from sharpcli.settings.training_names import FROM_ARGUMENTS, FROM_CONFIG, add_names

__all__ = ["add_settings", "flat_settings", "read_optimizer"]

_OPTIMIZERS = ("optimizer.pt", "optimizer.bin")  # of Hugging Face's Trainer, of accelerate
# One file for each process: of Hugging Face's Trainer, of accelerate.
_OF_PROCESSES = ("rng_state_*.pth", "random_states_*.pkl")
_CONFIGS = ("config.json", "hparams.json", "args.json")
_DEEPEST = 3  # levels of mappings in settings
_MOST = 50  # entries of a mapping in settings; more are a table, such as the labels of classes
_LONGEST_LIST = 3

Scalars = Iterator[tuple[str, str | int | float | bool]]


def add_settings(folder: Path, metadata: Metadata, notes: list[str], *, own: bool) -> None:
    """Add what the files in a folder say of a training; what is there already stays.

    Args:
        folder: the folder of the weights.
        metadata: the checkpoint's.
        notes: receives a note on a file that is broken, and on how a batch size was computed.
        own: the folder is one checkpoint, so that all in it belongs to it. Else only settings that
            all checkpoints in a folder share are read.
    """
    found: Metadata = {}
    if own:
        found |= _of_trainer(folder, notes)
        found |= _of_arguments(folder / "training_args.bin")
        processes = max(len([*folder.glob(pattern)]) for pattern in _OF_PROCESSES)
        if processes > 1:
            found["num_processes"] = processes
    for name in _CONFIGS:
        try:
            table = read_json(folder / name) if (folder / name).is_file() else {}
        except SharpError:
            continue
        found |= {f"{FROM_CONFIG}{key}": value for key, value in flat_settings(table)}
    for name, value in found.items():
        metadata.setdefault(name, value)
    notes += add_names(metadata)


def read_optimizer(folder: Path, metadata: Metadata, notes: list[str]) -> Mapping[str, Any] | None:
    """The optimizer's state in a folder, whose settings are added to the metadata."""
    path = next((folder / name for name in _OPTIMIZERS if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        # mapped from disk: it is twice the size of the weights, and few measures need it
        loaded = read_torch(path, mapped=True)
    except SharpError as error:
        notes.append(f"optimizer state not read: {error.message}")
        return None
    if not is_optimizer(loaded):
        notes.append(f"'{path.name}' not read: it holds no optimizer state")
        return None
    optimizer: Mapping[str, Any] = loaded
    add_optimizer(metadata, optimizer)
    return optimizer


def flat_settings(value: object) -> Scalars:
    """The scalars of a mapping or an object with settings; of mappings in it as `model.width`.

    Lists of up to three become text. A member of an enum becomes its value. Every mapping is
    visited once: a hostile file may link to it from many places.
    """
    return _flat(value, "", _DEEPEST, set())


def _flat(value: object, prefix: str, depth: int, seen: set[int]) -> Scalars:
    if not isinstance(value, Mapping) or id(value) in seen or (prefix and len(value) > _MOST):
        return
    seen.add(id(value))
    for name, each in value.items():
        if not isinstance(name, str | int) or not is_text(str(name)):
            continue
        scalar = _scalar(each)
        if scalar is not None:
            yield f"{prefix}{name}", scalar
        elif depth > 1 and holds_settings(each):
            yield from _flat(each, f"{prefix}{name}.", depth - 1, seen)


def _scalar(value: object) -> str | int | float | bool | None:
    scalar = plain_scalar(value)
    if scalar is None and isinstance(value, list | tuple) and 0 < len(value) <= _LONGEST_LIST:
        parts = [plain_scalar(part) for part in value]
        return None if None in parts else ",".join(str(part) for part in parts)
    if isinstance(value, Global) and value.member is not None:
        return value.member.lower()  # as transformers name the members after their values
    if isinstance(value, Stub) and len(value.arguments) == 1 and not value:
        return plain_scalar(value.arguments[0])
    return scalar


def _of_trainer(folder: Path, notes: list[str]) -> Metadata:
    """The scalars of Hugging Face's `trainer_state.json`; a broken file only adds a note."""
    path = folder / "trainer_state.json"
    if not path.is_file():
        return {}
    try:
        state = read_json(path)
    except SharpError as error:
        notes.append(f"not read: {error.message}")
        return {}
    scalars = {name: plain_scalar(value) for name, value in state.items()}
    found = {k: value for k, value in scalars.items() if value is not None and is_text(k)}
    if isinstance(found.get("epoch"), int | float):
        found.setdefault("epochs", found["epoch"])
    return found


def _of_arguments(path: Path) -> Metadata:
    """The plain values of a pickled `TrainingArguments`; nothing if there are none."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        loaded = read_inert(path) if looks_like_torch(head) else None
    except (OSError, SharpError):
        return {}
    return {f"{FROM_ARGUMENTS}{name}": value for name, value in flat_settings(loaded)}
