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

    Cost: the model is built once more if it has any such tensors; its memory until then.
    """
    own = _unsaved(model) | (dict(model.state_dict()) if partial else {})
    if not any(map(_varies, own.values())):
        return frozenset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_OTHER_SEED + seed)
        second = task.model()
    again = _unsaved(second) | (dict(second.state_dict()) if partial else {})
    return frozenset(
        name
        for name, tensor in own.items()
        if _varies(tensor)
        and _varies(again.get(name))
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
