"""Match the tensors of a checkpoint to those of a model, and note each conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.checkpoint.choice import chosen
from sharpcli.checkpoint.contents import Checkpoint, listed, quoted
from sharpcli.checkpoint.fitting import Fit, Goal
from sharpcli.checkpoint.state_dict import StateDict
from sharpcli.errors import SharpError

__all__ = ["Match", "match_tensors"]


@dataclass(frozen=True)
class Match:
    """A model's tensors under the names of its state dict, and notes on the conversions.

    `covered` has the names of those that the file holds, where the rest is the model's own.
    `tensors` also has the buffers outside the state dict that the model's own loading made.

    Where that loading changed more than tensors by name, `loaded` is the model that it made, and
    `attributes` says what it changed, in values that can be compared. `given` is what it was
    handed: the tensors as they are in the file.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    covered: tuple[str, ...] | None = None
    loaded: nn.Module | None = None
    attributes: tuple[tuple[str, Any], ...] = ()
    given: StateDict | None = None


def match_tensors(
    checkpoint: Checkpoint,
    expected: Mapping[str, Tensor],
    *,
    model: nn.Module | None = None,
    rest: Mapping[str, Tensor] | None = None,
    built: Mapping[str, Tensor] | None = None,
) -> Match:
    """Return the checkpoint's tensors under the names of the model's state dict.

    Prefixes are removed or added only if more names match then. Where a file holds several sets of
    weights, the one that fits is taken, and the others are named. A tied tensor that the file
    leaves out is taken from its twin. Dtypes stay as stored.

    Args:
        checkpoint: what was read.
        expected: the model's `state_dict()`.
        model: the model. Where its classes or hooks of its own load it, they do so on a copy, with
            the versions of modules in the file; None: no hooks run.
        rest: the tensors of the model as it was built, for what a file of a part leaves out; None:
            the file must hold all.
        built: the tensors of the model as it was built, for its own code that loads it; None: as
            the model has them.

    Raises:
        SharpError: tensors are missing, unexpected or misshaped, with both shapes and the nearest
            name; tied ones differ; or several sets of weights fit equally.

    Cost: no copies; the values of tied tensors are compared once. A model that loads itself is
    copied.

    >>> from pathlib import Path
    >>> model = torch.nn.Linear(3, 2)
    >>> stored = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    >>> match = match_tensors(Checkpoint(Path("a.pt"), stored, {}, ""), model.state_dict())
    >>> sorted(match.tensors), match.notes
    (['bias', 'weight'], ("prefix 'module.' removed",))
    """
    wanted = {name: tensor for name, tensor in expected.items() if isinstance(tensor, Tensor)}
    choice, notes = chosen(checkpoint, Goal(wanted, model, rest, built), partial=rest is not None)
    fit, goal, own = choice.fit, choice.goal, choice.own
    wanted = dict(goal.wanted)
    matched = dict(fit.matched)
    for name in fit.counters:
        matched[name] = wanted[name].detach().clone()
    covered = None
    if rest is not None and fit.missing:
        covered = tuple(fit.matched)
        if made := [name for name in fit.missing if name not in rest]:
            raise SharpError(
                f"{checkpoint.path}: {listed(made, 3)} of the model is neither in the file nor in "
                "model(): the model's own load_state_dict makes it when it is loaded",
                "save a state dict that holds it, or let model() make that layer",
            )
        matched |= {name: rest[name] for name in fit.missing}
        notes.append(_coverage(fit, goal))
    if other := [name for name, each in expected.items() if not isinstance(each, Tensor)]:
        notes.append(
            f"{listed(other, 2)} of the model's state dict {'is' if len(other) == 1 else 'are'} no "
            "tensor: as model() made it, whatever the file says"
        )
    matched = {name: matched[name] for name in wanted}
    _check_tied(checkpoint, matched, goal.twins, {*fit.missing})
    if own is not None:
        matched = StateDict(matched | own.buffers, own.versions)
    more = own is not None and bool(own.attributes)
    return Match(
        matched,
        (*notes, *_noted(fit, goal)),
        covered,
        own.model if own is not None and more else None,
        tuple(own.attributes.items()) if own is not None else (),
        own.given if own is not None else None,
    )


def _coverage(fit: Fit, goal: Goal) -> str:
    """How much of the model the file covers."""
    own = goal.model.named_parameters() if goal.model else goal.wanted.items()
    parameters = {name for name, _ in own}
    inside = sum(t.numel() for name, t in fit.matched.items() if name in parameters)
    rest = sum(goal.wanted[name].numel() for name in fit.missing if name in parameters)
    return (
        f"the file has {len(fit.matched)} of the model's {len(goal.wanted)} tensors ({inside:,} of "
        f"{inside + rest:,} parameters); the others are as model() made them"
    )


def _noted(fit: Fit, goal: Goal) -> list[str]:
    """Notes on tensors that were filled in or left out."""
    notes = []
    if fit.filled:
        pairs = [f"{quoted(name)} from {quoted(twin)}" for name, twin in fit.filled.items()]
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        notes.append(f"tied tensors filled: {', '.join(pairs[:3])}{more}")
    if fit.counters:
        notes.append(f"{listed(fit.counters, 2)} not in the file: kept from the model")
    if fit.left:
        notes.append(f"{listed(fit.left, 2)} not in the model: left out")
    if fit.outside:
        prefix = fit.renaming.prefix
        where = f"outside {quoted(prefix)}" if prefix else "not in the model"
        notes.append(f"{listed(fit.outside, 2)} {where}: left out")
    own = goal.buffers if fit.left else {}
    changed = [
        name for name in fit.left if name in own and not _alike(own[name], fit.tensors[name])
    ]
    if changed:
        notes.append(f"{listed(changed, 2)} differs from the model's own, which is used")
    return notes


def _alike(own: Tensor, stored: Tensor) -> bool:
    return torch.equal(own.detach().cpu().to(stored.dtype), stored)


def _check_tied(
    checkpoint: Checkpoint,
    matched: Mapping[str, Tensor],
    twins: Mapping[str, list[str]],
    rest: set[str],
) -> None:
    for name, (other, *_) in twins.items():
        first = matched[name]
        if {name, other} & rest:
            continue
        if first is not matched[other] and not _same(first, matched[other]):
            raise SharpError(
                f"{checkpoint.path}: {quoted(other)} and {quoted(name)} are one tensor in the "
                "model but differ in the file",
                "untie them in the task's model(), or check that the file is of this model",
            )


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype:
        return False
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    # bit for bit, so that a NaN equals itself and is later reported as a NaN
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
