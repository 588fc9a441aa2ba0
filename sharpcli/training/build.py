"""Optimizers built over a model's parameters, and how each takes its steps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import SharpError, setting
from sharpcli.training.catalogue import IMPLEMENTATION
from sharpcli.training.proximal import Proximal
from sharpcli.training.sam import SAM

__all__ = [
    "Muon",
    "at_evaluated_weights",
    "build_optimizer",
    "repeats",
    "take_step",
    "tensors_together",
]

# Up to so many weights torch's optimizers take each operation on all tensors at once, as they do on
# a GPU. The numbers are the same, bit for bit; of 5,000 to 140,000 weights a step of SGD took 0.65
# to 0.85 of its time on one core, one of AdamW 0.6 to 0.75. For large networks it would need a
# copy of the weights.
_TOGETHER = 2_000_000

# They need the gradient at other parameters within a step, or evaluate it themselves.
_AGAIN = ("SAM", "ASAM", "LookSAM", "FriendlySAM", "BSAM", "SmoothAdam", "Proximal")
_EVALUATING = ("LBFGS", "AliG")
# Those of pytorch-optimizer that take matrices by one rule and all other parameters by AdamW.
_GROUPED = ("AdaGO", "AdaMuon", "Muon", "MuonClip", "NorMuon")


def build_optimizer(
    kind: Callable[..., torch.optim.Optimizer],
    parameters: Sequence[Tensor],
    values: dict[str, Any],
    base: Callable[..., torch.optim.Optimizer] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer over `parameters`; `base` is the class that takes the steps of SAM and its kin.

    Muon is for matrices: the other parameters are AdamW's, at the same rate and weight decay.
    """
    if base is not None and issubclass(kind, SAM | Proximal):  # type: ignore[arg-type]  # it is a class
        built = functools.partial(_built, base)
        return kind(parameters, **{**values, "base_optimizer": built})
    if base is not None:
        return kind(parameters, **{**values, "base_optimizer": base})
    if kind is getattr(torch.optim, "Muon", None):  # PyTorch has it since 2.9
        return Muon(parameters, **values)
    if kind.__name__ in _GROUPED:
        matrices, others = _by_shape(parameters)
        groups = ({"params": matrices, "use_muon": True}, {"params": others, "use_muon": False})
        return kind([group for group in groups if group["params"]], **values)
    return kind(parameters, **values)


def _built(
    kind: Callable[..., torch.optim.Optimizer], parameters: Sequence[Tensor], **values: Any
) -> torch.optim.Optimizer:
    return build_optimizer(kind, parameters, values)


class Muon(torch.optim.Optimizer):
    """Torch's Muon for matrices, and AdamW at the same rate and weight decay for the rest."""

    def __init__(self, parameters: Sequence[Tensor], **values: Any) -> None:
        matrices, others = _by_shape(parameters)
        shared = {name: values[name] for name in ("lr", "weight_decay") if name in values}
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, **values))
        if others:
            self._parts.append(torch.optim.AdamW(others, **shared))
        # The groups are the parts' own, and the state is shared: both are kept as those of one.
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part in self._parts:
            part.state = self.state

    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 (as every optimizer's)
        """A step of both parts."""
        for part in self._parts:
            part.step()


def _by_shape(parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    matrices = [each for each in parameters if each.ndim == 2]
    return matrices, [each for each in parameters if each.ndim != 2]


def tensors_together(optimizer: torch.optim.Optimizer) -> None:
    """Let a step handle all tensors together where torch can and would not by itself."""
    groups = optimizer.param_groups
    if sum(each.numel() for group in groups for each in group["params"]) > _TOGETHER:
        return
    for group in groups:
        chosen = any(group.get(name) for name in IMPLEMENTATION)
        if not chosen and group.get("foreach", False) is None and _is_of_torch(optimizer):
            group["foreach"] = True


def _is_of_torch(optimizer: torch.optim.Optimizer) -> bool:
    if isinstance(optimizer, SAM | Proximal):
        return _is_of_torch(optimizer.base_optimizer)
    return isinstance(optimizer, Muon) or type(optimizer).__module__.startswith("torch.optim")


def repeats(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step takes the gradient of its batch more than once."""
    return type(optimizer).__name__ in _AGAIN + _EVALUATING


def take_step(
    optimizer: torch.optim.Optimizer, gradient: Callable[[], Tensor], loss: Tensor
) -> None:
    """A step, where the gradient of the batch's `loss` is in place; `gradient` puts it there again.

    Raises:
        SharpError: if the optimizer cannot take one; the message names it.
    """
    name = type(optimizer).__name__
    known = [loss] if name in _EVALUATING else []

    def again() -> Tensor:
        return known.pop() if known else gradient()

    try:
        if repeats(optimizer):
            optimizer.step(again)  # type: ignore[arg-type]  # closures may return tensors
        else:
            optimizer.step()
    except SharpError:
        raise
    except Exception as error:  # of an optimizer's own code, whatever it is
        raise SharpError(
            f"the optimizer {name} cannot take a step on this model: {error}",
            f"check its options, or take another one: {setting('optimizer', 'sgd')}",
        ) from error


@contextlib.contextmanager
def at_evaluated_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While active, the model has the weights that are to be evaluated.

    Schedule-free optimizers train at other weights than those, and switch between both.
    """
    switches = all(hasattr(optimizer, name) for name in ("eval", "train"))
    if switches:
        optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if switches:
            optimizer.train()  # type: ignore[attr-defined]
