"""Find what a model makes at random and no checkpoint replaces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpcli.objective.trees import equal_tensors
from sharpcli.tasks import Task

__all__ = ["random_tensors"]

_OTHER_SEED = 0x5EED  # any that is not the run's


def random_tensors(task: Task, model: nn.Module, seed: int, *, partial: bool) -> frozenset[str]:
    """The names of tensors that another seed makes otherwise, though a checkpoint may lack them.

    They are buffers outside the state dict and tensors in plain attributes; with `partial`, all.

    Args:
        task: makes the model again.
        model: as the task made it.
        seed: that of `model`.
        partial: whether checkpoints may lack any tensor of the state dict.

    Cost: the model is built once more, beside the first, if it has such tensors that no simple rule
    gives; positions, masks and frequencies of a language model are given by one.
    """
    own = _unsaved(model) | (dict(model.state_dict()) if partial else {})
    own = {name: each for name, each in own.items() if _varies(each) and not _is_regular(each)}
    if not own:
        return frozenset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_OTHER_SEED + seed)
        second = task.model()
    again = _unsaved(second) | (dict(second.state_dict()) if partial else {})
    return frozenset(
        name
        for name, tensor in own.items()
        if _varies(again.get(name))
        and tensor.shape == again[name].shape
        and not equal_tensors(tensor.detach().cpu(), again[name].detach().cpu())
    )


def _unsaved(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that are not in the state dict, and tensors in attributes of modules."""
    saved = {*model.state_dict()}
    found = {name: each for name, each in model.named_buffers() if name not in saved}
    for prefix, module in model.named_modules():
        for name, each in vars(module).items():
            # hooks of spectral norm and pruning compute `weight` anew in each pass
            computed = f"{name}_orig" in module._parameters
            if isinstance(each, Tensor) and not each.requires_grad and not computed:
                found[f"{prefix}.{name}" if prefix else name] = each
    return found


def _varies(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and tensor.numel() > 0 and not tensor.is_meta


def _is_regular(tensor: Tensor) -> bool:
    """Whether a rule without chance gives a tensor: a progression or a constant, or a causal mask.

    Tensors of few elements could be so by chance.
    """
    if tensor.layout != torch.strided or tensor.numel() < _FEWEST or tensor.is_complex():
        return False
    with torch.no_grad():
        values = tensor.detach().cpu()
        if values.dtype == torch.bool or not values.is_floating_point():
            values = values.to(torch.int64)
        first = values.reshape(-1)[0]
        return bool((values == first).all()) or _is_causal(values) or _is_progression(values)


def _is_causal(values: Tensor) -> bool:
    """Whether the last two dimensions have one value below the diagonal, and one above it."""
    if values.ndim < 2 or min(values.shape[-2:]) < 3:
        return False
    below, above = values[..., -1, 0].reshape(-1)[0], values[..., 0, -1].reshape(-1)[0]
    lower = torch.ones(values.shape[-2:], dtype=torch.bool).tril()
    return any(
        bool((values == torch.where(each, below, above)).all()) for each in (lower, lower.tril(-1))
    )


def _is_progression(values: Tensor) -> bool:
    """Whether every row is one arithmetic or geometric progression, but for rounding."""
    rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    if rows.shape[1] < _FEWEST or not bool((rows == rows[0]).all()):
        return False
    row = rows[0].double()
    eps = torch.finfo(values.dtype if values.is_floating_point() else torch.float64).eps
    even = torch.linspace(0, 1, len(row), dtype=torch.float64)
    line = row[0] + (row[-1] - row[0]) * even
    if bool(((row - line).abs() <= _ROUNDINGS * eps * row.abs().max()).all()):
        return True
    if bool((row <= 0).any()):
        return False
    curve = row[0] * (row[-1] / row[0]) ** even
    return bool(((row - curve).abs() <= _ROUNDINGS * eps * curve).all())


_FEWEST = 8  # elements of a pattern: random ones of a few bits are one by chance in 1 of 100
_ROUNDINGS = 100  # of a power in the tensor's precision
