"""Read a `Checkpoint` from a file, a sharded index or a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import (
    Checkpoint,
    Metadata,
    TooManyValues,
    is_text,
    listed,
    open_error,
    parse_json,
    plain_scalar,
    quoted,
    regular_size,
)
from sharpcli.checkpoint.nesting import unnest
from sharpcli.checkpoint.optimizer import is_optimizer, optimizer_settings
from sharpcli.checkpoint.safetensors_file import looks_like_safetensors, read_safetensors
from sharpcli.checkpoint.torch_file import (
    looks_like_torch,
    read_torch,
    read_torch_with_notes,
    refuse_text_pickle,
)
from sharpcli.errors import SharpError, nearest

__all__ = ["load_checkpoint"]

_FORMATS = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
    ".bin": "torch",
}
_KNOWN = f"pass a safetensors file, a torch file ({', '.join(list(_FORMATS)[1:])}) or a folder"
_FOLDER_NAMES = (  # in the order of preference
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_BESIDE_WEIGHTS = ("optimizer", "scheduler", "scaler", "training_args", "rng_state")
_LARGEST_JSON = 256 * 2**20  # bytes; an index of a million tensors takes half of this
_SIGNATURES = {
    b"\x89HDF\r\n": "an HDF5 (Keras) file",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
}


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read the checkpoint at `path`. The content decides the format, not the name.

    It is a safetensors file, a torch file, a sharded index, or a folder. No code in it runs.

    Raises:
        SharpError: it is not a complete checkpoint of plain tensors; the message names the file
            and the tensor.

    Cost: one pass over the file, and its size in memory; twice its size while the digest of a
    torch file is computed.

    >>> import tempfile, torch
    >>> from sharpcli.checkpoint import save_checkpoint
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = f"{folder.name}/model.safetensors"
    >>> tensors = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    >>> facts = {"optimizer": "adam", "lr": 0.001, "betas": (0.9, 0.999)}
    >>> saved = save_checkpoint(path, tensors, facts)
    >>> checkpoint = load_checkpoint(path)
    >>> checkpoint.sha256 == saved.sha256
    True
    >>> {name: tuple(tensor.shape) for name, tensor in sorted(checkpoint.tensors.items())}
    {'bias': (2,), 'weight': (2, 3)}
    >>> checkpoint.metadata
    {'betas': '0.9,0.999', 'lr': 0.001, 'optimizer': 'adam'}
    >>> folder.cleanup()
    """
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise SharpError(f"{path}: there is no such file", _nearby(path)) from error
    except (OSError, ValueError) as error:
        reason = OSError(str(error)) if isinstance(error, ValueError) else error
        unreadable = open_error(path, reason)
        raise unreadable from error
    try:
        if stat.S_ISDIR(status.st_mode):
            checkpoint = _read_folder(path)
        elif path.name.endswith(".index.json"):
            checkpoint = _read_sharded(path)
        else:
            checkpoint = _read_file(path)
    except OSError as error:
        unreadable = open_error(path, error)
        raise unreadable from error
    if not checkpoint.tensors:
        raise SharpError(f"{path}: holds no tensors", "save the model's state dict in it")
    return checkpoint


def _nearby(path: Path) -> str:
    """A hint with the nearest name in the same folder, if there is one."""
    if set("*?[") & {*str(path)}:  # a shell passes a pattern on if no file matches it
        return "no file matches this pattern: check the folder that the command runs in"
    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:
        return "check the path"
    return nearest(path.name, names) or "check the path"


def _read_file(path: Path) -> Checkpoint:
    size = regular_size(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
        kind = _format(path, head, size)
        if kind == "safetensors":
            checkpoint = read_safetensors(path)
        else:
            loaded, aside = read_torch_with_notes(path)
            checkpoint = unnest(path, loaded, size)
            checkpoint = dataclasses.replace(checkpoint, notes=(*checkpoint.notes, *aside))
    except OSError as error:
        raise open_error(path, error) from error
    named = _FORMATS.get(path.suffix.lower())
    if named is not None and named != kind:
        note = f"named '{path.suffix}' but holds {'a torch file' if kind == 'torch' else kind}"
        checkpoint = dataclasses.replace(checkpoint, notes=(note, *checkpoint.notes))
    return checkpoint


def _format(path: Path, head: bytes, size: int) -> str:
    """Tell safetensors from torch by the first bytes, and by the suffix if these do not decide.

    Raises:
        SharpError: the file is neither; the message says what it seems to be.
    """
    # The length of a safetensors header may look like the start of a pickle, so this comes first.
    if looks_like_safetensors(head, size):
        return "safetensors"
    if looks_like_torch(head):
        return "torch"
    if _FORMATS.get(path.suffix.lower()) == "torch":
        refuse_text_pickle(path)
    if head.startswith(b"version https://git-lfs"):
        raise SharpError(f"{path}: is a Git LFS pointer, not the file itself", "run: git lfs pull")
    if _is_text(head):
        raise SharpError(f"{path}: is a text file, not a checkpoint", _KNOWN)
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            raise SharpError(f"{path}: is {name}, not a checkpoint", _KNOWN)
    if head[8:9] == b"{" or path.suffix.lower() == ".safetensors":
        return "safetensors"
    raise SharpError(f"{path}: is neither safetensors nor a torch file", _KNOWN)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", "strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)


def _read_folder(folder: Path) -> Checkpoint:
    weights = _weights_in(folder)
    sharded = weights.name.endswith(".index.json")
    inner = _read_sharded(weights) if sharded else _read_file(weights)
    notes = [f"read from '{weights.name}'", *inner.notes]
    metadata, optimizer = dict(inner.metadata), inner.optimizer
    for name, value in _trainer_state(folder, notes).items():
        metadata.setdefault(name, value)
    if optimizer is None and (folder / "optimizer.pt").is_file():
        try:
            # mapped from disk: it is twice the size of the weights, and few measures need it
            loaded = read_torch(folder / "optimizer.pt", mapped=True)
        except SharpError as error:
            notes.append(f"optimizer state not read: {error.message}")
        else:
            if is_optimizer(loaded):
                optimizer = loaded
                for name, value in optimizer_settings(loaded).items():
                    metadata.setdefault(name, value)
            else:
                notes.append("'optimizer.pt' not read: it holds no optimizer state")
    return Checkpoint(folder, inner.tensors, metadata, inner.sha256, tuple(notes), optimizer)


def _weights_in(folder: Path) -> Path:
    for name in _FOLDER_NAMES:
        if (folder / name).exists():
            return folder / name
    every = sorted(folder.iterdir())
    indices = [each for each in every if each.name.endswith(".index.json")]
    files = [
        each
        for each in every
        if each.suffix.lower() in _FORMATS and not each.name.startswith(_BESIDE_WEIGHTS)
    ]
    found = indices or files
    if len(found) == 1:
        return found[0]
    if found:
        raise SharpError(
            f"{folder}: has more than one checkpoint: {listed(each.name for each in found)}",
            f"name one, as {found[0]}",
        )
    if any(each.suffix == ".distcp" for each in every):
        raise SharpError(
            f"{folder}: is a distributed checkpoint",
            "convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{folder} model.pt",
        )
    below = [each for each in every if each.is_dir() and each.name.startswith("checkpoint")]
    raise SharpError(
        f"{folder}: is a folder without a checkpoint",
        f"pass one of the folders in it: {listed(each.name for each in below)}"
        if below
        else f"it should hold one of {', '.join(_FOLDER_NAMES)}",
    )


def _trainer_state(folder: Path, notes: list[str]) -> Metadata:
    """The scalars of Hugging Face's `trainer_state.json`; a broken file only adds a note."""
    path = folder / "trainer_state.json"
    if not path.is_file():
        return {}
    try:
        state = _read_json(path)
    except SharpError as error:
        notes.append(f"not read: {error.message}")
        return {}
    scalars = {name: plain_scalar(value) for name, value in state.items()}
    return {k: value for k, value in scalars.items() if value is not None and is_text(k)}


def _read_json(path: Path) -> dict[str, Any]:
    size = regular_size(path)
    if size > _LARGEST_JSON:
        raise SharpError(f"{path}: is too large to be an index or a state", "check the file")
    try:
        with path.open("rb") as file:
            table = parse_json(file.read(size), size)
    except OSError as error:
        raise open_error(path, error) from error
    except TooManyValues as error:
        raise SharpError(f"{path}: is refused: {error}", "check the file") from error
    except ValueError as error:
        raise SharpError(f"{path}: is not JSON", "copy or download it again") from error
    if not isinstance(table, dict):
        raise SharpError(f"{path}: is not a JSON object", "copy or download it again")
    return table


def _read_sharded(index: Path) -> Checkpoint:
    """Read all shards that an index names, one after the other.

    Raises:
        SharpError: a shard lacks a tensor that the index assigns to it.
    """
    shards = _shards(index)
    digest = hashlib.sha256()
    tensors: dict[str, Tensor] = {}
    metadata: Metadata = {}
    notes = [f"{len(shards)} shards"]
    for shard, names in sorted(shards.items()):
        part = _read_file(index.parent / shard)
        digest.update(bytes.fromhex(part.sha256))
        absent = [name for name in names if name not in part.tensors]
        if absent:
            raise SharpError(
                f"{index.parent / shard}: lacks {listed(absent)}, which {index.name} says it holds",
                "the index and the shards belong to different checkpoints: copy both again",
            )
        extra = [name for name in part.tensors if name not in names]
        if extra:
            notes.append(f"left out {listed(extra)} of '{shard}': not in the index")
        tensors.update({name: part.tensors[name] for name in names})
        metadata.update(part.metadata)
        notes.extend(note for note in part.notes if note not in notes)
    return Checkpoint(index, tensors, metadata, digest.hexdigest(), tuple(notes))


def _shards(index: Path) -> dict[str, list[str]]:
    """Map each shard file to its tensors.

    Raises:
        SharpError: the index is damaged, or a shard is missing or outside the index's folder.
    """
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SharpError(f"{index}: has no 'weight_map'", "pass a safetensors or torch index")
    shards: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        named = isinstance(shard, str) and PurePosixPath(shard).parts  # "." has none
        if not named or not is_text(name + shard):
            raise SharpError(
                f"{index}: tensor {quoted(name)} names no file",
                "copy or download the index again",
            )
        parts = PurePosixPath(shard.replace("\\", "/")).parts
        if ".." in parts or PurePosixPath(shard).is_absolute() or "\0" in shard or ":" in parts[0]:
            raise SharpError(
                f"{index}: refused: tensor {quoted(name)} lies in {quoted(shard)}, outside the "
                "checkpoint's folder",
                "the index is not trustworthy: download it again from where it was published",
            )
        # one spelling per file, so that each file is read once
        shards.setdefault(str(PurePosixPath(shard)), []).append(name)
    missing = [shard for shard in sorted(shards) if not (index.parent / shard).exists()]
    if missing:
        raise SharpError(
            f"{index}: the shard {listed(missing)} is missing ({len(missing)} of {len(shards)})",
            "copy or download the missing shards into the same folder",
        )
    files: dict[tuple[int, int], str] = {}
    for shard in shards:
        status = (index.parent / shard).stat()
        other = files.setdefault((status.st_dev, status.st_ino), shard)
        if other != shard:
            raise SharpError(
                f"{index}: the shards {listed([other, shard])} are the same file",
                "copy or download the shards again",
            )
    return shards
