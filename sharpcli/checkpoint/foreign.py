"""Recognise other tools' formats by their first bytes and names, and say how to convert them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpcli.errors import SharpError

__all__ = ["foreign_by_bytes", "foreign_by_name", "foreign_folder"]

_STATE_DICT = "in PyTorch save the state dict: torch.save(model.state_dict(), 'model.pt')"
_TO_SAFETENSORS = (
    "safetensors.numpy.save_file({name: array, …}, 'model.safetensors') with the PyTorch model's "
    "names and shapes"
)
_ZERO = (
    "merge its shards: python zero_to_fp32.py FOLDER OUTPUT, with the script and the FOLDER that "
    "DeepSpeed wrote (FOLDER holds 'latest')"
)
_FLAX = (
    "with transformers 4: AutoModel.from_pretrained(folder, from_flax=True).save_pretrained(folder)"
    f"; else flax.serialization.msgpack_restore(bytes), then {_TO_SAFETENSORS}"
)
_KERAS = (
    "with transformers 4: AutoModel.from_pretrained(folder, from_tf=True).save_pretrained(folder); "
    f"else keras.models.load_model(file).get_weights(), then {_TO_SAFETENSORS}"
)
_TENSORFLOW = (
    "with transformers 4: AutoModel.from_pretrained(folder, from_tf=True).save_pretrained(folder); "
    f"else tf.train.load_checkpoint(path).get_tensor(name) for each name, then {_TO_SAFETENSORS}"
)
_ORBAX = (
    f"restore it: orbax.checkpoint.PyTreeCheckpointer().restore(folder), then {_TO_SAFETENSORS}"
)
_ONNX = (
    "use the weights that it was exported from, or convert them: "
    "torch.save(onnx2torch.convert(file).state_dict(), 'model.pt')"
)
_NPZ = (
    f"numpy.load(file) (in MLX: mlx.core.load(file)), then {_TO_SAFETENSORS}; in MLX convolutions "
    "have their channels last"
)
_MERGE_DCP = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} model.pt"


@dataclass(frozen=True)
class _Format:
    """How a format is recognised, what it is called, and how to convert it."""

    kind: str
    hint: str


# by the end of a file's name, before its content is looked at
_BY_NAME = {
    re.compile(r"\.distcp$"): _Format(
        "one shard of a distributed checkpoint", f"convert its folder: {_MERGE_DCP}"
    ),
    re.compile(r"(^|_)zero_pp_rank_\d+.*_states\.pt$"): _Format(
        "one shard of a DeepSpeed ZeRO checkpoint", _ZERO
    ),
    re.compile(r"_optim_states\.pt$"): _Format(
        "the optimizer's state of a DeepSpeed checkpoint", _ZERO
    ),
    re.compile(r"\.onnx$"): _Format("an ONNX graph", _ONNX),
    re.compile(r"\.npz$"): _Format("an archive of NumPy arrays, as MLX and JAX write", _NPZ),
    re.compile(r"\.keras$"): _Format("a Keras archive", _KERAS),
    re.compile(r"\.pt2$"): _Format("a program of torch.export", _STATE_DICT),
    re.compile(r"\.(ckpt\.index|ckpt(-\d+)?\.(data-\d+-of-\d+|index|meta))$"): _Format(
        "a part of a TensorFlow checkpoint", _TENSORFLOW
    ),
    re.compile(r"\.msgpack$"): _Format("a msgpack file of Flax", _FLAX),
}
# by the first bytes, where the file is neither safetensors nor of torch
_BY_BYTES = {
    b"\x89HDF\r\n": _Format("an HDF5 (Keras) file", _KERAS),
    b"GGUF": _Format(
        "a GGUF file",
        "with transformers: AutoModelForCausalLM.from_pretrained(folder, "
        "gguf_file='{name}').save_pretrained(output); it must be F32 or F16 to keep its weights",
    ),
    b"\x93NUMPY": _Format("a NumPy array", _NPZ),
    b"\x1f\x8b": _Format("a gzip archive", "unpack it: gunzip, or tar -xzf"),
    b"\x28\xb5\x2f\xfd": _Format("a Zstandard archive", "unpack it: zstd -d"),
    b"7z\xbc\xaf": _Format("a 7-Zip archive", "unpack it: 7z x"),
}
_FLAX_MAP = re.compile(rb"(?:[\x81-\x8f]|\xde..)[\xa1-\xbf][\x20-\x7e]", re.DOTALL)
_ONNX_HEAD = re.compile(rb"\x08[\x01-\x20]\x12.?[a-zA-Z]|\x08[\x01-\x20]\x3a", re.DOTALL)


def foreign_by_name(path: Path) -> SharpError | None:
    """The error for a file whose name is another tool's."""
    for pattern, format_ in _BY_NAME.items():
        if pattern.search(path.name):
            return _refused(path, format_)
    return None


def foreign_by_bytes(path: Path, head: bytes) -> SharpError | None:
    """The error for a file that starts as another tool's, where it is of no known kind."""
    for signature, format_ in _BY_BYTES.items():
        if head.startswith(signature):
            return _refused(path, format_)
    if head[4:8] == b"TFL3":
        return _refused(path, _Format("a TensorFlow Lite file", _TENSORFLOW))
    if head[257:262] == b"ustar":
        return _refused(path, _Format("a tar archive", "unpack it: tar -xf"))
    if _FLAX_MAP.match(head):
        return _refused(path, _Format("a msgpack file, as Flax writes it", _FLAX))
    if _ONNX_HEAD.match(head):
        return _refused(path, _Format("an ONNX graph", _ONNX))
    return None


def foreign_folder(folder: Path, names: Sequence[str]) -> SharpError | None:
    """The error for a folder of another tool, by the names in it."""
    every = set(names)
    if ".metadata" in every or any(name.endswith(".distcp") for name in names):
        return SharpError(
            f"{folder}: is a distributed checkpoint",
            f"convert it: {_MERGE_DCP.format(folder=folder)}",
        )
    inner = next((name for name in names if name.startswith("pytorch_model_fsdp")), None)
    if inner is not None:
        return SharpError(
            f"{folder}: is a sharded checkpoint of accelerate",
            f"merge its shards: accelerate merge-weights {folder / inner} OUTPUT",
        )
    if "zero_to_fp32.py" in every or any("zero_pp_rank_" in name for name in names):
        return SharpError(f"{folder}: is a DeepSpeed ZeRO checkpoint", _ZERO)
    if every & {"manifest.ocdbt", "_CHECKPOINT_METADATA", "_METADATA"}:
        return SharpError(f"{folder}: is an Orbax checkpoint", _ORBAX)
    if "saved_model.pb" in every:
        return SharpError(f"{folder}: is a TensorFlow SavedModel", _TENSORFLOW)
    for name in names:
        if (error := foreign_by_name(folder / name)) is not None:
            return SharpError(
                f"{folder}: holds no weights for PyTorch; {error.message}", error.hint
            )
        if name.endswith((".gguf", ".h5")):
            kind = _BY_BYTES[b"GGUF" if name.endswith(".gguf") else b"\x89HDF\r\n"]
            return _refused(folder / name, kind)
    return None


def _refused(path: Path, format_: _Format) -> SharpError:
    hint = format_.hint.replace("{folder}", str(path.parent)).replace("{name}", path.name)
    return SharpError(f"{path}: is {format_.kind}, not a checkpoint of PyTorch weights", hint)
