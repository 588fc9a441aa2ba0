"""Which parameter each entry of an optimizer's state is of.

State dicts know parameters by number only, in the order of the parameter groups. Nothing is guessed
here: an assignment of numbers to parameters that names or shapes do not determine is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import listed
from sharpcli.checkpoint.renaming import best_names
from sharpcli.errors import SharpError, counted

__all__ = ["OWN_ORDER", "Entries"]

# Places in all groups that a search for an order looks at: real optimizers need one a parameter.
_MOST_PLACES = 200_000
OWN_ORDER = (
    "save the optimizer with its parameters' names: give it model.named_parameters() "
    "(PyTorch 2.6 or later)"
)


@dataclass(frozen=True)
class Entries:
    """A state as a file has it: entries by number or name, listed by each of the groups.

    Attributes:
        path: the file.
        name: of the optimizer; None for one that is not known.
        slots: what it remembers, by entry.
        groups: the settings of each group.
        order: the entries of each group.
        names: of all entries in that order, if the file has them.
    """

    path: Path
    name: str | None
    slots: Mapping[Any, Mapping[str, Any]]
    groups: Sequence[Mapping[str, Any]]
    order: Sequence[Sequence[Any]]
    names: Sequence[str] | None = None

    def parameter_names(self, parameters: Mapping[str, Tensor]) -> dict[Any, str]:
        """The name of each entry's parameter; `SharpError` if names and shapes do not say it."""
        entries = [entry for group in self.order for entry in group]
        return self._by_name(entries, parameters) or self._by_order(parameters)

    def _by_name(self, entries: Sequence[Any], parameters: Mapping[str, Tensor]) -> dict[Any, str]:
        """The parameter of each entry by the names in the file; empty if it has none."""
        stored = self.names or [each for each in entries if isinstance(each, str)]
        if len(stored) != len(entries) or not entries:
            return {}
        found, _ = best_names(stored, parameters)
        back = {old: new for new, old in found.items()}
        unknown = [each for each in stored if back.get(each) not in parameters]
        if unknown:
            raise SharpError(
                f"{self.path}: is of other parameters: the model has no {listed(unknown)}",
                "name the state that belongs to this checkpoint",
            )
        return {entry: back[name] for entry, name in zip(entries, stored, strict=True)}

    def _by_order(self, parameters: Mapping[str, Tensor]) -> dict[Any, str]:
        """The parameter of each number by order and shape.

        Within each group the parameters are in the model's order.

        Raises:
            SharpError: they fit in no way, or in more than one.
        """
        shapes = {entry: _shape(slots) for entry, slots in self.slots.items()}
        count = sum(map(len, self.order))
        trained = {name: each for name, each in parameters.items() if each.requires_grad}
        candidates = [trained] if len(trained) == len(parameters) else [trained, parameters]
        sized = [each for each in candidates if len(each) == count]
        for candidate in sized:
            order = _interleaved(self.order, shapes, list(candidate.items()))
            if order is _AMBIGUOUS:
                raise SharpError(
                    f"{self.path}: its {counted(len(self.order), 'parameter group')} fit the "
                    "model's parameters in more than one way",
                    OWN_ORDER,
                )
            if order is not None:
                return {entry: name for name, entry in order.items()}
        model = " or ".join(str(len(each)) for each in candidates)
        what = (
            "shapes that do not fit the model's in their order"
            if sized
            else f"{counted(count, 'entry', 'entries')}, and the model {model} parameters"
        )
        raise SharpError(
            f"{self.path}: is of other parameters: it has {what}",
            f"name the state that belongs to this checkpoint, or {OWN_ORDER}",
        )


_AMBIGUOUS: dict[str, Any] = {}


def _interleaved(
    groups: Sequence[Sequence[Any]],
    shapes: Mapping[Any, Any],
    parameters: Sequence[tuple[str, Tensor]],
) -> dict[str, Any] | None:
    """The only way to merge the groups, each in order, so that all shapes fit.

    None if there is no way, `_AMBIGUOUS` if there are more. An entry without a state fits all.
    """
    layers: list[dict[tuple[int, ...], tuple[int, tuple[int, ...], Any]]]
    layers = [{(0,) * len(groups): (1, (), None)}]
    places = 0
    for _, parameter in parameters:
        found: dict[tuple[int, ...], tuple[int, tuple[int, ...], Any]] = {}
        for place, (ways, *_) in layers[-1].items():
            for which, group in enumerate(groups):
                at = place[which]
                if at == len(group):
                    continue
                shape = shapes.get(group[at])
                if shape is not None and shape != parameter.shape:
                    continue
                after = (*place[:which], at + 1, *place[which + 1 :])
                known = found[after][0] if after in found else 0
                found[after] = (min(known + ways, 2), place, group[at])
        places += len(found)
        if places > _MOST_PLACES:
            return _AMBIGUOUS
        layers.append(found)
    ends = list(layers[-1].items())
    if not ends:
        return None
    ((place, (ways, *_)),) = ends
    if ways > 1:
        return _AMBIGUOUS
    order: dict[str, Any] = {}
    for (name, _), layer in zip(reversed(parameters), reversed(layers[1:]), strict=True):
        _, before, entry = layer[place]
        order[name], place = entry, before
    return order


def _shape(slots: Mapping[str, Any]) -> Any:
    """The shape of a parameter by its slots; None if they do not show it."""
    shaped = (each.shape for each in slots.values() if isinstance(each, Tensor) and each.ndim)
    return next(shaped, None)
