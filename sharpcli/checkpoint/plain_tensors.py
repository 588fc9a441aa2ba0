"""Refuse tensors that cannot be measured, or that are larger than the file that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sharpcli.checkpoint.contents import NotPlain, is_text, place, quoted, refuse_many
from sharpcli.errors import SharpError

__all__ = ["SAVE", "check_total_size", "plain_tensor", "within_bounds"]

SAVE = "save it as torch.save({'model': model.state_dict(), …}) or as safetensors"
# Limit on the size of overlapping tensors together, in file sizes. The usual reason for overlap,
# views of one buffer, gives about one.
_MOST_OVERLAP = 4
_SMALL = 2**20  # bytes; reading these takes no time


def plain_tensor(path: Path, name: str, tensor: Tensor | NotPlain, size: int) -> Tensor:
    """The tensor itself, of a file of `size` bytes.

    Raises:
        SharpError: it cannot be measured, or is larger than the file.
    """
    where = f"{path}: tensor {quoted(name)}"
    if not is_text(name):
        raise SharpError(f"{where} has a name that is not valid text", SAVE)
    if isinstance(tensor, NotPlain):
        raise SharpError(f"{where} {tensor.reason}", tensor.hint)
    if tensor.numel() * tensor.element_size() > size:
        raise SharpError(
            f"{where} of shape {tuple(tensor.shape)} is larger than the file that holds it",
            "save it with .contiguous(); if it is contiguous already, copy the file again",
        )
    return tensor


def check_total_size(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise `SharpError` if names or overlaps are so many that reading them would never end."""
    refuse_many(path, len(tensors), size)
    if not within_bounds(tensors, size):
        total = _total_bytes(tensors)
        once = {place(tensor) for tensor in tensors.values()}
        raise SharpError(
            f"{path}: its {len(once)} tensors together have {total} bytes, the file {size}: they "
            "overlap",
            "save each with .contiguous(); if all are contiguous already, copy the file again",
        )


def within_bounds(tensors: Mapping[str, Tensor], size: int) -> bool:
    """Whether tensors, which may overlap, are together not much larger than their file."""
    return _total_bytes(tensors) <= _MOST_OVERLAP * size + _SMALL


def _total_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The bytes of all tensors, each view of the same data counted once."""
    once = {place(tensor): tensor for tensor in tensors.values()}.values()
    return sum(tensor.numel() * tensor.element_size() for tensor in once)
