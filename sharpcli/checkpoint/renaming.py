"""Find the names under which a checkpoint's tensors fit a model."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sharpcli.checkpoint.other_forms import Forms

__all__ = ["Renaming", "best_names", "module_names", "renamings"]

# prefixes that DataParallel, torch.compile, Lightning modules and training scripts add
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
# what torch.compile, FSDP and activation checkpointing put into the middle of names
_INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_MOST_CHANGES = 4
_MOST_PREFIXES = 8  # of the file's or the model's own that are tried: those that fit most names
_DEEPEST = 8  # components of a prefix
_Names = dict[str, str]  # the name as renamed → the name in the checkpoint


@dataclass(frozen=True)
class Renaming:
    """The model's names of a checkpoint's tensors.

    Attributes:
        names: the name as renamed → the name in the checkpoint.
        notes: the changes, one line each.
        prefix: what all these names begin with in the checkpoint, if it is removed.
        plain: whether the prefix is none, or made of those that wrappers add.
        aside: names in the checkpoint that do not begin so.
    """

    names: _Names
    notes: tuple[str, ...] = ()
    prefix: str = ""
    plain: bool = True
    aside: tuple[str, ...] = ()


def best_names(stored: Iterable[str], wanted: Collection[str]) -> tuple[_Names, list[str]]:
    """The renaming by usual prefixes under which most names match, with the fewest changes."""
    best: tuple[_Names, list[str]] = ({}, [])
    most = -1
    given = {name: name for name in stored}
    forms = Forms(given, wanted)
    for names, notes in _by_usual_prefixes(given, wanted):
        names, more = forms.converted(names)
        fitting = sum(name in wanted for name in names)
        if fitting > most:
            best, most = (names, [*notes, *more]), fitting
        if fitting == len(wanted) == len(names):
            break
    return best


def renamings(
    stored: Iterable[str], wanted: Collection[str], adapters: Sequence[str] = ()
) -> Iterator[Renaming]:
    """Renamings worth trying: by usual prefixes, then by prefixes of the file and of the model.

    Args:
        stored: the names in the checkpoint.
        wanted: the names in the model.
        adapters: the names of the model's adapters, which their own files leave out.
    """
    given = {name: name for name in stored}
    names, notes = best_names(given, wanted)
    changed = any(old.endswith(f".{new}") and new in wanted for new, old in names.items())
    kept = [old for new, old in names.items() if new == old and new not in wanted]
    yield Renaming(names, tuple(notes), aside=tuple(kept) if changed else ())
    given, infixes = _without_infixes(given, wanted)
    forms = Forms(given, wanted, adapters)
    goals = {*wanted, *forms.shorter}
    for prefix in _common_prefixes(given, goals):
        inside = {
            new.removeprefix(prefix): old for new, old in given.items() if new.startswith(prefix)
        }
        aside = tuple(old for new, old in given.items() if not new.startswith(prefix))
        removed = (f"prefix '{prefix}' removed",) if prefix else ()
        plain = all(f"{part}." in _PREFIXES for part in prefix.split(".")[:-1])
        names, more = forms.converted(inside)
        yield Renaming(names, (*infixes, *removed, *more), prefix, plain, aside)
    for prefix in ("", *_wrappers(given)):
        inside = {new.removeprefix(prefix): old for new, old in given.items()}
        for added in _common_prefixes(goals, inside):
            longer = {name if name in goals else added + name: old for name, old in inside.items()}
            if not added or len(longer) < len(given):
                continue
            removed = (f"prefix '{prefix}' removed",) if prefix else ()
            names, more = forms.converted(longer)
            yield Renaming(names, (*infixes, *removed, f"prefix '{added}' added", *more))


def _common_prefixes(longer: Iterable[str], shorter: Collection[str]) -> list[str]:
    """Prefixes of `longer` names whose rest is one of the `shorter`, those of most names first."""
    counts: Counter[str] = Counter()
    for name in longer:
        cut = 0
        for _ in range(_DEEPEST):
            if name[cut:] in shorter:
                counts[name[:cut]] += 1
            cut = name.find(".", cut) + 1
            if not cut:
                break
    return [prefix for prefix, _ in counts.most_common(_MOST_PREFIXES)]


def _wrappers(names: Iterable[str]) -> list[str]:
    """The prefix of wrappers that all names begin with, if there is one: `module.model.`."""
    shared = ""
    every = list(names)
    for _ in range(_MOST_CHANGES):
        more = next(
            (p for p in _PREFIXES if all(name.startswith(shared + p) for name in every)), None
        )
        if more is None:
            break
        shared += more
    return [shared] if shared else []


def _without_infixes(names: _Names, wanted: Iterable[str]) -> tuple[_Names, tuple[str, ...]]:
    """`names` without what wrappers of submodules put in, unless the model has it too."""
    notes = []
    for infix in _INFIXES:
        if any(infix in name for name in names) and not any(infix in name for name in wanted):
            bare = {name.replace(infix, ""): old for name, old in names.items()}
            if len(bare) == len(names):
                names = bare
                notes.append(f"prefix '{infix}' removed")
    return names, tuple(notes)


def _by_usual_prefixes(names: _Names, wanted: Iterable[str]) -> Iterator[tuple[_Names, list[str]]]:
    """All renamings by at most `_MOST_CHANGES` usual prefixes, fewest changes first."""
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


def _removed(names: _Names, prefix: str) -> _Names:
    """`names` without one leading `prefix`; torch.compile may add its prefix to any submodule."""
    if prefix == "_orig_mod.":
        return {name.replace(prefix, ""): kept for name, kept in names.items()}
    return {name.removeprefix(prefix): kept for name, kept in names.items()}


def module_names(modules: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """The names in the checkpoint of a model's modules, by the names that their tensors have there.

    Args:
        modules: the names of the model's modules, "" for the outermost, parents first.
        names: the tensor's name in the model → its name in the checkpoint.

    A module without tensors has its parent's name in the checkpoint, and its own.
    """
    found: dict[str, str] = {}
    first: dict[str, tuple[str, str]] = {}  # a module → the rest of a tensor's name, the old name
    for new, old in names.items():
        for cut in (0, *(i + 1 for i, letter in enumerate(new) if letter == ".")):
            if f".{old}".endswith(f".{new[cut:]}"):
                first.setdefault(new[: max(cut - 1, 0)], (new[cut:], old))
    for name in modules:
        if name in first:
            rest, old = first[name]
            found[name] = old.removesuffix(rest).removesuffix(".")
        else:
            parent, _, last = name.rpartition(".")
            found[name] = f"{found.get(parent, parent)}.{last}".lstrip(".")
    return found
