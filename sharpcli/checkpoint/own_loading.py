"""The fit of a checkpoint to a model after the model's own loading."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sharpcli.checkpoint.contents import Checkpoint, listed
from sharpcli.checkpoint.fitting import Fit, Goal, fitted, rank
from sharpcli.checkpoint.mismatch import mismatch
from sharpcli.checkpoint.own_hooks import (
    OwnLoading,
    TranslationError,
    by_place,
    handed,
    held,
    load,
    loaders,
    loads_itself,
    reads_versions,
    translated,
    versions_of,
)
from sharpcli.checkpoint.renaming import Renaming
from sharpcli.checkpoint.state_dict import StateDict
from sharpcli.errors import SharpError

__all__ = ["Choice", "as_loaded", "by_own_hooks", "failed", "loaded_by_itself"]


@dataclass(frozen=True)
class Choice:
    """The weights of a checkpoint that a model gets.

    Attributes:
        fit: how they fit.
        goal: what they fit: the model, or what its own loading made of it.
        own: what its own loading did; None: it has none.
        notes: what that changed.
    """

    fit: Fit
    goal: Goal
    own: OwnLoading | None = None
    notes: tuple[str, ...] = ()


def by_own_hooks(stored: Mapping[str, Tensor], best: Fit, goal: Goal) -> Choice | None:
    """The fit after the model's own hooks have translated the names, if it is better.

    Where classes of the model load themselves, an equally good fit is also taken. A
    `TranslationError` says that a hook failed.
    """
    if goal.model is None or _is_held(stored):
        return None
    alike = loads_itself(goal.model)
    inside = {n: old for n, old in best.renaming.names.items() if old not in best.outside}
    tried = [({n: n for n in stored}, ()), (best.renaming.names, best.renaming.notes)]
    if best.outside:
        tried.append((inside, best.renaming.notes))
    chosen: Choice | None = None
    for names, notes in tried:
        own = _part_translated(goal, stored, names)
        if own is None:
            return None
        found = _fit(own, goal)
        least = rank(best if chosen is None else chosen.fit)
        better = rank(found.fit) > least
        if not better and not (alike and chosen is None and rank(found.fit) == least):
            continue
        said = ("names translated by the model's own load_state_dict",) if better else ()
        renaming = replace(
            found.fit.renaming,
            notes=(*notes, *said),
            prefix=best.renaming.prefix if notes else "",
            plain=best.renaming.plain or not notes,
        )
        outside = best.outside if names is inside else ()
        chosen = replace(
            found,
            fit=replace(found.fit, renaming=renaming, outside=outside),
            notes=_notes(own, stored, names, goal),
        )
        if chosen.fit.whole:
            break
    return chosen


def _part_translated(
    goal: Goal, stored: Mapping[str, Tensor], names: Mapping[str, str]
) -> OwnLoading | None:
    """What the model's own loading makes of tensors that may be those of a part.

    Where its code needs the others, it sees those of the model as it was built.

    Raises:
        TranslationError: the code failed.
    """
    assert goal.model is not None
    try:
        return translated(goal.model, stored, names, goal.built or goal.rest)
    except TranslationError:
        if goal.rest is None:
            raise
    given = {new: stored[old] for new, old in names.items()}
    versions = versions_of(goal.model, stored, names)
    both = StateDict({**goal.rest, **given}, versions)
    own = translated(goal.model, both, {name: name for name in both}, goal.rest)
    if own is None:
        return None
    return replace(own, tensors={k: each for k, each in own.tensors.items() if k in given})


def as_loaded(checkpoint: Checkpoint, stored: Mapping[str, Tensor], fit: Fit, goal: Goal) -> Choice:
    """The choice of a fit whose names fit, with the values that the model's own loading makes.

    PyTorch runs that code in every `load_state_dict`, whether names fit or not.

    Raises:
        SharpError: that code failed, or did not take all tensors.

    Cost: nothing where no class of the model loads itself; else a copy of the model.
    """
    if goal.model is None or _is_held(stored) or not loads_itself(goal.model):
        return Choice(fit, goal)
    same = {name: name for name in stored}
    twins = {name: fit.renaming.names[twin] for name, twin in fit.filled.items()}
    renamed = {**fit.renaming.names, **twins}
    choice, reason = Choice(fit, goal), ""
    for names in (same, renamed) if same != renamed else (same,):
        try:
            own = translated(goal.model, stored, names, goal.built or goal.rest)
        except TranslationError as failure:
            reason = str(failure)
            continue
        if own is None:
            return Choice(fit, goal)
        choice, reason = _fit(own, goal), ""
        if choice.fit.whole:
            kept = replace(
                choice.fit,
                renaming=fit.renaming,
                filled=fit.filled,
                left=fit.left,
                outside=fit.outside,
                tensors={**fit.tensors, **choice.fit.tensors},
            )
            return replace(choice, fit=kept, notes=_notes(own, stored, names, goal))
    if reason:
        error = failed(checkpoint, reason)
        raise error
    refused = mismatch(checkpoint, choice.goal, choice.fit, partial=False)
    raise SharpError(
        f"{refused.message}; so it is after the model's own load_state_dict "
        f"({listed(loaders(goal.model), 3)}), before which the names fit",
        refused.hint,
    )


def failed(checkpoint: Checkpoint, reason: str) -> SharpError:
    """The error to raise where the model's own code for loading raised one, said in `reason`."""
    return SharpError(
        f"{checkpoint.path}: the model's own load_state_dict fails on it {reason}",
        "model().load_state_dict(…) of the file fails in the same way: mend the model's load hook "
        "or _load_from_state_dict, or build the model that the file is of",
    )


def loaded_by_itself(
    model: nn.Module, state: Mapping[str, Tensor], matched: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Put tensors into a model after its own code for loading has seen them.

    That code may change what it is given; the model holds the tensors as they are all the same.

    Args:
        model: receives the tensors.
        state: they, by the names of its state dict, as the model is to hold them.
        matched: the tensors of the match, with the versions of modules in the file.

    Returns:
        The buffers outside the state dict, as that code made them.
    """
    versions = matched.versions if isinstance(matched, StateDict) else None
    given = handed(StateDict(state, versions))
    # Where it takes files of an older form only, buffers stay as they are.
    with contextlib.suppress(Exception):
        load(model, given, strict=False)
    own = by_place(model)
    with torch.no_grad():
        for name, tensor in state.items():
            if name in own:
                own[name].copy_(tensor)
    saved = {*model.state_dict()}
    return {name: each.clone() for name, each in model.named_buffers() if name not in saved}


def _is_held(stored: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a model in memory, which has nothing to load."""
    return isinstance(stored, StateDict) and stored.origin == "model"


def _fit(own: OwnLoading, goal: Goal) -> Choice:
    """How the tensors after loading fit the model that holds them."""
    found = Goal(held(own.model), own.model, goal.rest, goal.built) if own.attributes else goal
    renaming = Renaming({name: name for name in own.tensors})
    return Choice(fitted(own.tensors, renaming, found), found, own)


def _notes(
    own: OwnLoading, stored: Mapping[str, Tensor], names: Mapping[str, str], goal: Goal
) -> tuple[str, ...]:
    """Notes on a loading of the model's own, and on what it changed."""
    if goal.model is None or not loads_itself(goal.model):
        return ()
    new = [stored[old] for name, old in names.items() if name not in own.tensors]
    other = [
        name
        for name, tensor in own.tensors.items()
        if not any(
            _alike(tensor, each) for each in ([stored[names[name]]] if name in names else new)
        )
    ]
    values = f"it changes the values of {listed(other, 3)}" if other else "no value is changed"
    notes = [f"loaded by the model's own code ({listed(loaders(goal.model), 3)}): {values}"]
    known = isinstance(stored, StateDict) and (stored.versions or stored.origin == "module")
    if not known and reads_versions(goal.model):
        notes.append(
            "the file has no versions of modules (_metadata of a state dict): the model's own code "
            "loads it without, as load_state_dict does"
        )
    if own.buffers:
        notes.append(
            f"{listed(own.buffers, 3)} not in the file: made by the model's own code when it was "
            "loaded, and held fixed"
        )
    if own.attributes:
        where: Sequence[str] = [name or "the model" for name in _outermost(own.attributes)]
        notes.append(f"the model's own code also set {listed(where, 3)} when it was loaded")
    return tuple(notes)


def _outermost(names: Collection[str]) -> list[str]:
    """The names without those of what is inside another one, as a new layer's weights are."""
    above = {name: name.split(".")[:-1] for name in names}
    return [
        name
        for name, parts in above.items()
        if not any(".".join(parts[:cut]) in above for cut in range(1, len(parts) + 1))
    ]


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether a loaded tensor has the values of the stored one, in its own precision."""
    if one.shape != other.shape:
        return False
    if one.layout != torch.strided:
        return True
    return torch.equal(one.nan_to_num(), other.to(one.dtype).nan_to_num())
