"""Read a `Checkpoint` from a file, a sharded index or a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import stat
from pathlib import Path, PurePosixPath

from torch import Tensor

from sharpcli.checkpoint.contents import (
    Checkpoint,
    Metadata,
    is_text,
    listed,
    open_error,
    quoted,
    read_json,
    regular_size,
)
from sharpcli.checkpoint.foreign import foreign_by_bytes, foreign_by_name, foreign_folder
from sharpcli.checkpoint.nesting import under_prefix, unnest
from sharpcli.checkpoint.safetensors_file import looks_like_safetensors, read_safetensors
from sharpcli.checkpoint.settings_beside import add_settings, read_optimizer
from sharpcli.checkpoint.torch_file import (
    looks_like_torch,
    read_torch_with_notes,
    refuse_text_pickle,
)
from sharpcli.errors import SharpError, nearest, setting

__all__ = ["load_checkpoint", "read_checkpoint"]

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
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_BESIDE_WEIGHTS = (  # Hugging Face's Trainer and accelerate
    *("optimizer", "scheduler", "scaler", "training_args", "rng_state"),
    *("sampler", "dl_state_dict", "random_states", "custom_checkpoint"),
)


def load_checkpoint(path: str | Path, weights: str | None = None) -> Checkpoint:
    """Read the checkpoint at `path`. The content decides the format, not the name.

    It is a safetensors file, a torch file, a sharded index, or a folder. No code in it runs.

    Args:
        path: the file or folder.
        weights: the mapping or the prefix of names to take, such as "ema" or "backbone."; None: the
            usual ones.

    Raises:
        SharpError: it is not a complete checkpoint of plain tensors, or several mappings could be
            the weights; the message names the file and the tensor.

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
    checkpoint = read_checkpoint(path, weights)
    if checkpoint.undecided:
        raise SharpError(
            f"{path}: more than one entry could be the weights: {listed(checkpoint.undecided)}",
            f"choose one with {setting('weights', checkpoint.undecided[0])}",
        )
    aside = (f"not read: {listed(checkpoint.others)}",) if checkpoint.others else ()
    return dataclasses.replace(checkpoint, notes=(*checkpoint.notes, *aside), others={})


def read_checkpoint(path: str | Path, weights: str | None = None) -> Checkpoint:
    """Read the checkpoint at `path` as `load_checkpoint` does, for a model that chooses in it.

    The file's other mappings of tensors are kept in `others`. If none of several is the usual one,
    `undecided` has their keys.

    Raises:
        SharpError: as `load_checkpoint`.
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
            checkpoint = _read_folder(path, weights)
        elif path.name.endswith(".index.json"):
            checkpoint = _only(_read_sharded(path), weights)
        else:
            checkpoint = _read_file(path, weights)
    except OSError as error:
        unreadable = open_error(path, error)
        raise unreadable from error
    if not checkpoint.tensors:
        raise SharpError(f"{path}: holds no tensors", "save the model's state dict in it")
    if not stat.S_ISDIR(status.st_mode):
        notes = [*checkpoint.notes]
        add_settings(path.parent, checkpoint.metadata, notes, own=False)
        checkpoint = dataclasses.replace(checkpoint, notes=tuple(notes))
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


def _only(checkpoint: Checkpoint, weights: str | None) -> Checkpoint:
    """A checkpoint of one mapping with only the names under the prefix `weights`, if given."""
    if weights is None:
        return checkpoint
    tensors = under_prefix(checkpoint.path, checkpoint.tensors, weights)
    note = f"only names under {quoted(weights)} taken"
    return dataclasses.replace(checkpoint, tensors=tensors, notes=(*checkpoint.notes, note))


def _read_file(path: Path, weights: str | None = None) -> Checkpoint:
    size = regular_size(path)
    if (foreign := foreign_by_name(path)) is not None:
        raise foreign
    try:
        with path.open("rb") as file:
            head = file.read(512)
        kind = _format(path, head, size)
        if kind == "safetensors":
            checkpoint = _only(read_safetensors(path), weights)
        else:
            loaded, aside = read_torch_with_notes(path)
            checkpoint = unnest(path, loaded, size, weights)
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
    if (foreign := foreign_by_bytes(path, head)) is not None:
        raise foreign
    if head[8:9] == b"{" or path.suffix.lower() == ".safetensors":
        return "safetensors"
    raise SharpError(f"{path}: is neither safetensors nor a torch file", _KNOWN)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", "strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)


def _read_folder(folder: Path, weights: str | None) -> Checkpoint:
    file = _weights_in(folder)
    sharded = file.name.endswith(".index.json")
    inner = _only(_read_sharded(file), weights) if sharded else _read_file(file, weights)
    notes = [f"read from '{file.name}'", *inner.notes]
    metadata, optimizer = dict(inner.metadata), inner.optimizer
    add_settings(folder, metadata, notes, own=True)
    if optimizer is None:
        optimizer = read_optimizer(folder, metadata, notes)
    return dataclasses.replace(
        inner, path=folder, metadata=metadata, notes=tuple(notes), optimizer=optimizer
    )


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
    foreign = foreign_folder(folder, [each.name for each in every])
    # DeepSpeed's shards are files of torch
    sharded = any(each.name.endswith("_states.pt") for each in files)
    if foreign is not None and (sharded or not (indices or files)):
        raise foreign
    found = indices or files
    if len(found) == 1:
        return found[0]
    if found:
        raise SharpError(
            f"{folder}: has more than one checkpoint: {listed(each.name for each in found)}",
            f"name one, as {found[0]}",
        )
    below = [each for each in every if each.is_dir() and each.name.startswith("checkpoint")]
    raise SharpError(
        f"{folder}: is a folder without a checkpoint",
        f"pass one of the folders in it: {listed(each.name for each in below)}"
        if below
        else f"it should hold one of {', '.join(_FOLDER_NAMES)}",
    )


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
    weight_map = read_json(index).get("weight_map")
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
