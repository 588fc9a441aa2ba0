"""Match the tensors of a checkpoint to those of a model, and note each conversion."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.checkpoint.contents import Checkpoint, listed, quoted, tied
from sharpcli.errors import SharpError, setting

__all__ = ["Match", "best_names", "match_tensors"]

# prefixes that DataParallel, torch.compile, Lightning modules and training scripts add
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_MOST_CHANGES = 4
_SHOWN = 5
_COUNTER = "num_batches_tracked"  # step counter of batch norm; does not affect eval mode
# Suffixes of a normalised weight's tensors in torch.nn.utils: as a hook, and as a parametrization.
# The tensors and the arithmetic are the same.
_PARAMETRIZED = "parametrizations."
_FORMS = {
    "weight norm": (("_g", ".original0"), ("_v", ".original1")),
    "spectral norm": (("_orig", ".original"), ("_u", ".0._u"), ("_v", ".0._v")),
}
_Names = dict[str, str]  # the name as renamed → the name in the checkpoint


@dataclass(frozen=True)
class Match:
    """A model's tensors under the names of its state dict, and notes on the conversions."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def match_tensors(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> Match:
    """Return the checkpoint's tensors under the names of the model's state dict.

    Prefixes that wrappers add are removed or added only if more names match then. A tied tensor
    that the file leaves out is taken from its twin. Dtypes stay as stored.

    `expected` is the model's `state_dict()`. A `SharpError` lists missing, unexpected and misshaped
    tensors with both shapes and the nearest name, and tied tensors that differ.

    Cost: no copies; the values of tied tensors are compared once.

    >>> from pathlib import Path
    >>> model = torch.nn.Linear(3, 2)
    >>> stored = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    >>> match = match_tensors(Checkpoint(Path("a.pt"), stored, {}, ""), model.state_dict())
    >>> sorted(match.tensors), match.notes
    (['bias', 'weight'], ("prefix 'module.' removed",))
    """
    wanted = {name: tensor for name, tensor in expected.items() if isinstance(tensor, Tensor)}
    names, notes = best_names(checkpoint.tensors, wanted)
    given = {name: checkpoint.tensors[stored] for name, stored in names.items()}
    twins = tied(wanted.items())
    matched: dict[str, Tensor] = {}
    missing, filled, counters = [], [], []
    for name, model_tensor in wanted.items():
        twin = next((each for each in twins[name] if each in given), None)
        if name in given:
            matched[name] = given[name]
        elif twin is not None:
            matched[name] = given[twin]
            filled.append(f"{quoted(name)} from {quoted(twin)}")
        elif _is_counter(name, model_tensor):
            matched[name] = model_tensor.detach().clone()
            counters.append(name)
        else:
            missing.append(name)
    extra = [name for name in given if name not in wanted]
    ignored = [name for name in extra if _is_counter(name, given[name])]
    unexpected = [name for name in extra if name not in ignored]
    misfits = [name for name in matched if _misfit(matched[name], wanted[name])]
    if missing or unexpected or misfits:
        mismatch = _error(checkpoint, wanted, given, matched, missing, unexpected, misfits)
        raise mismatch
    _check_tied(checkpoint, matched, twins)
    if filled:
        more = f" and {len(filled) - 3} more" if len(filled) > 3 else ""
        notes.append(f"tied tensors filled: {', '.join(filled[:3])}{more}")
    if counters:
        notes.append(f"{listed(counters, 2)} not in the file: kept from the model")
    if ignored:
        notes.append(f"{listed(ignored, 2)} not in the model: left out")
    return Match(matched, tuple(notes))


def best_names(stored: Iterable[str], wanted: Mapping[str, Tensor]) -> tuple[_Names, list[str]]:
    """The renaming under which most names match; among equals, the one with fewest changes."""
    best: tuple[_Names, list[str]] = ({}, [])
    most = -1
    given = {name: name for name in stored}
    parametrized = any(_PARAMETRIZED in name for name in (*given, *wanted))
    for names, notes in _renamings(given, wanted):
        if parametrized:
            names, more = _in_other_form(names, wanted)
            notes = [*notes, *more]
        fitting = sum(name in wanted for name in names)
        if fitting > most:
            best, most = (names, notes), fitting
        if fitting == len(wanted) == len(names):
            break
    return best


def _renamings(names: _Names, wanted: Iterable[str]) -> Iterator[tuple[_Names, list[str]]]:
    """All renamings by at most `_MOST_CHANGES` prefixes, fewest changes first."""
    addable = [p for p in _PREFIXES if any(name.startswith(p) for name in wanted)]
    seen: set[frozenset[str]] = {frozenset(names)}
    queue: deque[tuple[_Names, list[str]]] = deque([(names, [])])
    while queue:
        names, notes = queue.popleft()
        yield names, notes
        if len(notes) == _MOST_CHANGES:
            continue
        changes = [
            (_removed(names, prefix), f"prefix '{prefix}' removed") for prefix in _PREFIXES
        ] + [
            ({prefix + name: kept for name, kept in names.items()}, f"prefix '{prefix}' added")
            for prefix in addable
        ]
        for renamed, note in changes:
            key = frozenset(renamed)
            if len(renamed) == len(names) and key not in seen:
                seen.add(key)
                queue.append((renamed, [*notes, note]))


def _in_other_form(names: _Names, wanted: Mapping[str, Tensor]) -> tuple[_Names, list[str]]:
    """Rename weight norms and spectral norms to the model's form: hook or parametrization."""
    renamed: _Names = {}
    kinds: list[str] = []
    for name in names:
        for kind, parts in _FORMS.items():
            for way, other in _both_forms(name, parts):
                if way[0] in renamed or not all(
                    a in names and a not in wanted and b in wanted
                    for a, b in zip(way, other, strict=True)
                ):
                    continue
                renamed |= dict(zip(way, other, strict=True))
                kinds.append(kind)
    notes = [
        f"{kind} of {count} tensor{'s' if count > 1 else ''} converted to the model's form"
        for kind in _FORMS
        if (count := kinds.count(kind))
    ]
    return {renamed.get(name, name): kept for name, kept in names.items()}, notes


def _both_forms(
    name: str, parts: Sequence[tuple[str, str]]
) -> Iterator[tuple[list[str], list[str]]]:
    """All names of the norm whose first tensor is `name`, with their names in the other form."""
    hook, parametrization = parts[0]
    if name.endswith(hook):
        where, dot, tensor = name.removesuffix(hook).rpartition(".")
        new = f"{where}{dot}{_PARAMETRIZED}{tensor}"
        yield [f"{where}{dot}{tensor}{end}" for end, _ in parts], [new + end for _, end in parts]
    if name.endswith(parametrization):
        new = name.removesuffix(parametrization)
        where, _, tensor = new.rpartition(_PARAMETRIZED)
        if tensor and "." not in tensor:
            yield [new + end for _, end in parts], [f"{where}{tensor}{end}" for end, _ in parts]


def _removed(names: _Names, prefix: str) -> _Names:
    """`names` without one leading `prefix`; torch.compile may add its prefix to any submodule."""
    if prefix == "_orig_mod.":
        return {name.replace(prefix, ""): kept for name, kept in names.items()}
    return {name.removeprefix(prefix): kept for name, kept in names.items()}


def _is_counter(name: str, tensor: Tensor) -> bool:
    return name.rpartition(".")[2] == _COUNTER and not tensor.is_floating_point()


def _misfit(stored: Tensor, model: Tensor) -> bool:
    return stored.shape != model.shape or _number_kind(stored) != _number_kind(model)


def _number_kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "floating" if tensor.is_floating_point() else "integer"


def _check_tied(
    checkpoint: Checkpoint, matched: Mapping[str, Tensor], twins: Mapping[str, list[str]]
) -> None:
    for name, (other, *_) in twins.items():
        first = matched[name]
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


def _error(
    checkpoint: Checkpoint,
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    matched: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    misfits: list[str],
) -> SharpError:
    """One error for all mismatches: the counts, then details of the first few tensors."""
    counts = [
        f"{len(names)} {what}"
        for names, what in (
            (misfits, "misshaped"),
            (missing, "missing"),
            (unexpected, "unexpected"),
        )
        if names
    ]
    details = []
    for name in misfits[:_SHOWN]:
        stored, model = matched[name], wanted[name]
        details.append(
            f"{quoted(name)} is {_described(stored, model)} in the file and "
            f"{_described(model, stored)} in the model"
        )
    for name in missing[: _SHOWN - len(details)]:
        details.append(
            f"{quoted(name)} {_shape(wanted[name])} is missing"
            f"{_nearest(name, unexpected, given, 'file')}"
        )
    for name in unexpected[: _SHOWN - len(details)]:
        details.append(
            f"{quoted(name)} {_shape(given[name])} is unexpected"
            f"{_nearest(name, missing, wanted, 'model')}"
        )
    more = len(missing) + len(unexpected) + len(misfits) - len(details)
    if more:
        details.append(f"and {more} more")
    fits = any(name in wanted for name in given)
    return SharpError(
        f"{checkpoint.path}: does not fit the task's model ({', '.join(counts)} of "
        f"{len(wanted)}): {'; '.join(details)}",
        "give the model the options it was trained with "
        f"({setting('options.name', 'value')}), or name another task"
        if fits
        else f"no name fits: check that the file and the task ({setting('task')}) are of the same "
        "model",
    )


def _nearest(name: str, others: list[str], tensors: Mapping[str, Tensor], where: str) -> str:
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
