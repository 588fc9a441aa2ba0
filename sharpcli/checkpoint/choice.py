"""Choose which of a file's weights a model gets, by what fits it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from torch import Tensor

from sharpcli.checkpoint.contents import Checkpoint, listed, quoted
from sharpcli.checkpoint.fitting import Fit, Goal, fitted, rank
from sharpcli.checkpoint.mismatch import mismatch
from sharpcli.checkpoint.own_hooks import TranslationError
from sharpcli.checkpoint.own_loading import Choice, as_loaded, by_own_hooks, failed
from sharpcli.checkpoint.renaming import renamings
from sharpcli.errors import SharpError, setting

__all__ = ["chosen"]


def chosen(checkpoint: Checkpoint, goal: Goal, *, partial: bool) -> tuple[Choice, list[str]]:
    """The weights in a checkpoint that fit a model, and notes on the choice.

    The usual mapping goes first, in it names without a prefix or with one that wrappers add. Where
    it does not fit, the only one that does is taken. With `partial` a fit may lack tensors. A
    `SharpError` says that none fits, or that several do and none is the usual one.
    """
    whole, fits = _fits(checkpoint.tensors, goal)
    stored: Mapping[str, Tensor] = checkpoint.tensors
    others = {
        key: found[0]
        for key, tensors in checkpoint.others.items()
        if (found := _fits(tensors, goal)[0])
    }
    best, reason = max(fits, key=rank), ""
    choice = Choice(best, goal)
    if not whole:
        try:
            choice = by_own_hooks(stored, best, goal) or choice
        except TranslationError as failure:
            reason = str(failure)
    if whole:
        fit, notes = _usual(checkpoint, whole)
        notes += [_fits_too(key) for key in others]
        unread = [key for key in checkpoint.others if key not in others]
    elif others and not choice.fit.whole:
        if len(others) > 1:
            several = _several(checkpoint, list(others))
            raise several
        ((key, fit),) = others.items()
        stored = checkpoint.others[key]
        notes = [f"weights taken from {quoted(key)}: only these fit the model", *fit.renaming.notes]
        unread = [each for each in checkpoint.others if each != key]
    else:
        fit = choice.fit
        if not (fit.whole or (partial and _part(fit))):
            differs = mismatch(checkpoint, choice.goal, fit, partial=partial, reason=reason)
            raise differs
        if reason:
            error = failed(checkpoint, reason)
            raise error
        alike = (
            _translated_alike(stored, best, fits, goal)
            if fit.whole
            else _parts_alike(stored, fit, goal)
        )
        if alike and not fit.renaming.plain:
            several = _several(checkpoint, [each.renaming.prefix for each in (fit, *alike)])
            raise several
        also = [
            key
            for key, each in checkpoint.others.items()
            if each.keys() == stored.keys() or _covers(each, fit, goal)
        ]
        notes = [*fit.renaming.notes, *choice.notes]
        notes += [_fits_too(each.renaming.prefix) for each in alike]
        notes += [_fits_too(key) for key in also]
        unread = [key for key in checkpoint.others if key not in also]
        others = {}
    if whole or others:
        choice = as_loaded(checkpoint, stored, fit, goal)
        notes += choice.notes
    if unread:
        notes.append(f"not read: {listed(unread)}")
    return choice, notes


def _fits(stored: Mapping[str, Tensor], goal: Goal) -> tuple[list[Fit], list[Fit]]:
    """The fits that cover the model, each set of tensors once, and all fits that were tried."""
    whole: dict[frozenset[str], Fit] = {}
    fits: list[Fit] = []
    for renaming in renamings(stored, goal.wanted, goal.adapters):
        fit = fitted(stored, renaming, goal)
        fits.append(fit)
        if fit.whole:
            used = _used(fit)
            whole.setdefault(used, fit)
            if len(used) == len(stored):
                break
    return list(whole.values()), fits


def _part(fit: Fit) -> bool:
    return bool(fit.matched) and not fit.unexpected and not fit.misfits


def _parts_alike(stored: Mapping[str, Tensor], fit: Fit, goal: Goal) -> list[Fit]:
    """Further fits of a part: other tensors of the file, for the same ones of the model."""
    used = [_used(fit)]
    alike: list[Fit] = []
    for renaming in renamings(stored, goal.wanted, goal.adapters):
        each = fitted(stored, renaming, goal)
        if _part(each) and each.matched.keys() == fit.matched.keys() and _used(each) not in used:
            used.append(_used(each))
            alike.append(each)
    return alike


def _translated_alike(
    stored: Mapping[str, Tensor], best: Fit, fits: list[Fit], goal: Goal
) -> list[Fit]:
    """Fits of other tensors of the file that the model's own loading completes as it does `best`.

    Cost: a loading for each that fits as well as `best` before.
    """
    used = [_used(best)]
    alike: list[Fit] = []
    for each in fits:
        if rank(each) != rank(best) or _used(each) in used:
            continue
        used.append(_used(each))
        with contextlib.suppress(TranslationError):  # then it is no other choice
            choice = by_own_hooks(stored, each, goal)
            if choice is not None and choice.fit.whole:
                alike.append(choice.fit)
    return alike


def _covers(stored: Mapping[str, Tensor], fit: Fit, goal: Goal) -> bool:
    """Whether another mapping of the file has the same part of the model."""
    best = max(_fits(stored, goal)[1], key=rank)
    return _part(best) and best.matched.keys() == fit.matched.keys()


def _used(fit: Fit) -> frozenset[str]:
    """The file's names of the tensors that a fit takes."""
    return frozenset(fit.renaming.names[n] for n in fit.matched if n in fit.renaming.names)


def _usual(checkpoint: Checkpoint, whole: list[Fit]) -> tuple[Fit, list[str]]:
    """The fit under the plainest names, and notes on the others; `SharpError` if none is plain."""
    plain = [fit for fit in whole if fit.renaming.plain]
    if not plain and len(whole) > 1:
        several = _several(checkpoint, [fit.renaming.prefix for fit in whole])
        raise several
    fit = (plain or whole)[0]
    notes = list(fit.renaming.notes)
    notes += [_fits_too(each.renaming.prefix) for each in whole if each is not fit]
    return fit, notes


def _fits_too(key: str) -> str:
    return f"{quoted(key)} fits too: {setting('weights', key)} measures it"


def _several(checkpoint: Checkpoint, keys: list[str]) -> SharpError:
    return SharpError(
        f"{checkpoint.path}: several sets of weights fit the model: {listed(keys)}",
        f"choose one: {setting('weights', keys[0])}",
    )
