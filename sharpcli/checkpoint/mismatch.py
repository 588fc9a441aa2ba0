"""Say why a checkpoint does not fit a model: names, shapes, and the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from torch import Tensor

from sharpcli.checkpoint.contents import Checkpoint, listed, quoted
from sharpcli.checkpoint.fitting import Fit, Goal
from sharpcli.checkpoint.quantized import quantized_error
from sharpcli.errors import SharpError, setting

__all__ = ["mismatch"]

_SHOWN = 5


def mismatch(
    checkpoint: Checkpoint, goal: Goal, fit: Fit, *, partial: bool, reason: str = ""
) -> SharpError:
    """One error for all mismatches of the best fit: the counts, then the first few tensors.

    Args:
        checkpoint: what was read.
        goal: the model.
        fit: the best fit.
        partial: whether tensors that the file lacks are no mismatch.
        reason: what the model's own hooks raised, if they failed.

    Returns:
        The error; where the weights are quantised, one that says how to convert them.
    """
    if (error := quantized_error(checkpoint)) is not None:
        return error
    missing: Sequence[str] = () if partial and fit.matched else fit.missing
    kinds = ((fit.misfits, "misshaped"), (missing, "missing"), (fit.unexpected, "unexpected"))
    counts = [f"{len(names)} {what}" for names, what in kinds if names]
    details = []
    for name in fit.misfits[:_SHOWN]:
        stored, model = fit.matched[name], goal.wanted[name]
        details.append(
            f"{quoted(name)} is {_described(stored, model)} in the file and "
            f"{_described(model, stored)} in the model"
        )
    for name in missing[: _SHOWN - len(details)]:
        details.append(
            f"{quoted(name)} {_shape(goal.wanted[name])} is missing"
            f"{_nearest(name, fit.unexpected, fit.tensors, 'file')}"
        )
    for name in fit.unexpected[: _SHOWN - len(details)]:
        details.append(
            f"{quoted(name)} {_shape(fit.tensors[name])} is unexpected"
            f"{_nearest(name, fit.missing, goal.wanted, 'model')}"
        )
    more = len(missing) + len(fit.unexpected) + len(fit.misfits) - len(details)
    if more:
        details.append(f"and {more} more")
    hooks = f"; the model's own load_state_dict fails on it {reason}" if reason else ""
    return SharpError(
        f"{checkpoint.path}: does not fit the task's model ({', '.join(counts)} of "
        f"{len(goal.wanted)}): {'; '.join(details)}{hooks}",
        _hint(checkpoint, goal, fit, partial=partial),
    )


def _hint(checkpoint: Checkpoint, goal: Goal, fit: Fit, *, partial: bool) -> str:
    if fit.misfits and all(not fit.matched[name].numel() for name in fit.misfits):
        return (
            "its tensors are empty, as in DeepSpeed ZeRO-3 files, where shards hold the data: "
            "merge them with the folder's zero_to_fp32.py (python zero_to_fp32.py . OUTPUT)"
        )
    keys = list(checkpoint.others)
    held = f"; the file also holds {listed(keys)} ({setting('weights', keys[0])})" if keys else ""
    if not goal.adapters and any("lora_A" in name for name in checkpoint.tensors):
        return (
            "it is an adapter: let model() return peft.get_peft_model(base, "
            f"peft.LoraConfig.from_pretrained(folder)), and add {setting('partial', True)}"
        )
    if not any(name in goal.wanted for name in fit.tensors):
        return (
            f"no name fits: check that the file and the task ({setting('task')}) are of the same "
            f"model{held}"
        )
    if not partial and fit.missing and not fit.unexpected and not fit.misfits:
        return (
            f"if the file has a part of the model only, {setting('partial', True)} takes the rest "
            f"from model(); else give the model the options it was trained with{held}"
        )
    return (
        "give the model the options it was trained with "
        f"({setting('options.name', 'value')}), or name another task{held}"
    )


def _nearest(name: str, others: Sequence[str], tensors: Mapping[str, Tensor], where: str) -> str:
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return (
        f" (nearest in the {where}: {quoted(near[0])} {_shape(tensors[near[0]])})" if near else ""
    )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _described(tensor: Tensor, beside: Tensor) -> str:
    """The shape, with the dtype if the shapes agree and only the kind of number differs."""
    if tensor.shape != beside.shape:
        return _shape(tensor)
    return f"{_shape(tensor)} {str(tensor.dtype).removeprefix('torch.')}"
