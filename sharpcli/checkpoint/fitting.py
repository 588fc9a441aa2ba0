"""Compare a checkpoint's tensors, under some names, with what a model holds."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sharpcli.checkpoint.contents import tied
from sharpcli.checkpoint.renaming import Renaming

__all__ = ["Fit", "Goal", "fitted", "misfit", "rank"]

_COUNTER = "num_batches_tracked"  # step counter of batch norm; does not affect eval mode
# Last parts of the names of constants that libraries stored in older releases: positions, masks,
# rotary frequencies; and counters of torch's averaged models and of thop.
_CONSTANTS = {
    *("position_ids", "masked_bias", "inv_freq", "relative_position_index", "attn_mask"),
    *("causal_mask", "n_averaged", "total_ops", "total_params"),
}
_CAUSAL_MASK = re.compile(r"(^|\.)(attn|attention|self_attn)\.bias$")  # of shape (1, 1, T, T)
_OF_LOSSES = re.compile(
    r"(criterion|criteria|loss|losses|metrics?|.*_(loss|losses|criterion|metrics?|acc|accuracy)"
    r"|loss_(fn|func|function|module))"
)


@dataclass(frozen=True)
class Goal:
    """What a checkpoint has to fit.

    Attributes:
        wanted: the tensors of the model's state dict.
        model: the model itself, for its buffers and its own ways to load; may be absent.
        rest: the model's tensors as they were built, where a file may lack them.
        built: the same, for code of the model's own that reads them when it is loaded; None: they
            are `rest`, or the model's.
    """

    wanted: Mapping[str, Tensor]
    model: nn.Module | None = None
    rest: Mapping[str, Tensor] | None = None
    built: Mapping[str, Tensor] | None = None
    twins: Mapping[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        """Find the tied tensors once."""
        object.__setattr__(self, "twins", tied(self.wanted.items()))

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the model's adapters, as PEFT keeps them, the active one first."""
        configured = getattr(self.model, "peft_config", None)
        named = list(configured) if isinstance(configured, Mapping) else []
        named.sort(key=lambda name: name != getattr(self.model, "active_adapter", None))
        if not named and any(".lora_A." in name for name in self.wanted):
            named = ["default"]
        return tuple(name for name in named if isinstance(name, str))

    def constant(self, name: str, tensor: Tensor) -> bool:
        """Whether a tensor that the model lacks is no weight of it: a mask, a loss's, a counter."""
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        if is_counter(name, tensor) or last in _CONSTANTS or tensor.dtype == torch.bool:
            return True
        if _CAUSAL_MASK.search(name) and tensor.ndim == 4 and tensor.shape[:2] == (1, 1):
            return True
        if name in self.buffers or any(pattern.search(name) for pattern in self._ignored):
            return True
        own = first in self._first_parts
        return "." in name and not own and _OF_LOSSES.fullmatch(first) is not None

    def second_copy(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a tensor repeats one of a trained copy, which PEFT writes for `bias="all"`.

        The file then has the copy's bias as `head.bias` and as `head.modules_to_save.bias`.
        """
        before, copies, after = name.partition(".modules_to_save.")
        if not copies:
            return False
        whole = (tensors.get(f"{before}{copies}{adapter}.{after}") for adapter in self.adapters)
        return any(each is not None and _identical(each, tensors[name]) for each in whole)

    @functools.cached_property
    def _first_parts(self) -> set[str]:
        return {name.partition(".")[0] for name in self.wanted}

    @functools.cached_property
    def buffers(self) -> dict[str, Tensor]:
        """The model's buffers that its state dict leaves out."""
        named = self.model.named_buffers() if self.model is not None else ()
        return {name: tensor for name, tensor in named if name not in self.wanted}

    @functools.cached_property
    def _ignored(self) -> list[re.Pattern[str]]:
        """Patterns of names that the model's class in transformers ignores in a file."""
        patterns = getattr(self.model, "_keys_to_ignore_on_load_unexpected", None) or ()
        return [re.compile(each) for each in patterns if isinstance(each, str)]


@dataclass(frozen=True)
class Fit:
    """A checkpoint's tensors by the model's names, and how they differ from what it holds.

    Attributes:
        tensors: every tensor that was tried, by its name as renamed.
        matched: those that the model holds, with tied ones in each place.
        filled: names whose tensor is stored under the name of its twin, and that name.
        counters: counters of batch norm that the file lacks.
        missing: names that the file lacks.
        unexpected: weights that the model lacks.
        misfits: names whose shape or kind of number differs.
        left: tensors that the model lacks and that are no weights of it.
        outside: tensors outside the prefix of all others, by their names in the file.
    """

    renaming: Renaming
    tensors: Mapping[str, Tensor]
    matched: Mapping[str, Tensor]
    filled: Mapping[str, str]
    counters: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misfits: tuple[str, ...]
    left: tuple[str, ...]
    outside: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the model is covered and nothing else is left but what is no weight of it."""
        return not (self.missing or self.unexpected or self.misfits)

    @property
    def covered(self) -> int:
        """The number of the model's tensors that the file has in the right shape."""
        return len(self.matched) - len(self.misfits)


def fitted(stored: Mapping[str, Tensor], renaming: Renaming, goal: Goal) -> Fit:
    """Compare the tensors of a renaming with those of the model."""
    tensors = {name: stored[old] for name, old in renaming.names.items()}
    matched: dict[str, Tensor] = {}
    filled: dict[str, str] = {}
    missing, counters = [], []
    for name, own in goal.wanted.items():
        twin = next((each for each in goal.twins[name] if each in tensors), None)
        if name in tensors:
            matched[name] = tensors[name]
        elif twin is not None:
            matched[name] = tensors[twin]
            filled[name] = twin
        elif is_counter(name, own):
            counters.append(name)
        else:
            missing.append(name)
    outside = {old for old in renaming.aside if old in stored}
    extra = [
        name
        for name, old in renaming.names.items()
        if name not in goal.wanted and old not in outside
    ]
    left = dict.fromkeys(
        name
        for name in extra
        if goal.constant(name, tensors[name]) or goal.second_copy(name, tensors)
    )
    return Fit(
        renaming,
        tensors,
        matched,
        filled,
        tuple(counters),
        tuple(missing),
        tuple(name for name in extra if name not in left),
        tuple(name for name in matched if misfit(matched[name], goal.wanted[name])),
        tuple(left),
        tuple(name for name in renaming.aside if name in outside),
    )


def rank(fit: Fit) -> tuple[int, int]:
    """The better of two fits has the larger one."""
    return fit.covered, -len(fit.unexpected) - len(fit.outside)


def is_counter(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is batch norm's counter of its batches."""
    return name.rpartition(".")[2] == _COUNTER and not tensor.is_floating_point()


def misfit(stored: Tensor, model: Tensor) -> bool:
    """Whether a stored tensor has another shape or kind of number than the model's."""
    return stored.shape != model.shape or _number_kind(stored) != _number_kind(model)


def _identical(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _number_kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "floating" if tensor.is_floating_point() else "integer"
