"""How a measure describes itself; without torch, so that tables of saved results can use it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharpcli.documents.scalars import Scalar, is_scalar
from sharpcli.documents.statuses import Status
from sharpcli.errors import UsageError, setting
from sharpcli.settings.measuring import MeasureSettings

if TYPE_CHECKING:
    from sharpcli.measures.context import Context

__all__ = ["Column", "Measure", "Option", "loaded_later", "marked"]


@dataclass(frozen=True)
class Column:
    """How to show numbers with certain flat keys.

    `keys` is a regular expression for the keys. `title` heads the column and may contain its groups
    (`φ {0}`); with None the numbers appear only in JSON and CSV. The column is left out if there is
    a number with the key `instead`. A number with a `leading` name, which sentences use, determines
    the size of a growing sample. `larger_is_sharper` says what a larger value means when two
    checkpoints are compared: sharper, flatter (False), or only higher (None).
    """

    keys: str
    title: str | None
    leading: str = ""
    instead: str = ""
    larger_is_sharper: bool | None = None


@dataclass(frozen=True)
class Option:
    """An option of `sharp measure` that one measure brings: `Option("rho", 0.05, "…")`.

    The default determines the type: float, int, bool or str. Numbers are at least `low` (above it
    if `open_`) and at most `high`; text is one of `choices` if there are any. The measure reads the
    value from `context.settings.options[name]`.
    """

    name: str
    default: float | int | bool | str
    help: str
    low: float | None = None
    high: float | None = None
    open_: bool = False
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Raise `UsageError` for a value out of the option's range."""
        low, high = self.low, self.high
        wanted = None
        if self.choices and value not in self.choices:
            wanted = f"one of {', '.join(self.choices)}"
        elif low is not None and (value <= low if self.open_ else value < low):
            wanted = f"{'above' if self.open_ else 'at least'} {low:g}"
        elif high is not None and value > high:
            wanted = f"at most {high:g}"
        if wanted is not None:
            raise UsageError(f"{setting(self.name, value)}: is out of range", f"it is {wanted}")


@dataclass(frozen=True)
class Measure:
    """A measure's name, what it means, and the function that computes it.

    `compute(context)` returns its numbers by JSON key; `key` is the measure's own (default: the
    name with underscores). `needs_gradients` and `needs_curvature` mean that it uses first and
    second derivatives, which are then checked once for the model. `of_parameters` is false if the
    numbers do not depend on which parameters are measured. `reads` are the command's parameters,
    not common to all measures, that this one reads (None: any of them); `options` are those that it
    adds.

    In tables its `columns` are at a `place` among those of other measures, smallest first. `legend`
    explains symbols in the titles, and `remarks(flat keys)` returns further lines for a table.
    `exact`: a number without an error is exact up to rounding. `scale_invariant`: whether the
    numbers stay if layers are rescaled without changing the function (None: not known). `of_data`
    is false if the numbers are of the weights alone: a sample of the data has no error for them.
    With `one_split` they are of the measured split alone, and other data need not be read.

    `gradients(settings, size)` is about what it costs, in gradients over the data, for a model of
    that many parameters; without it, it counts as one.

    `check(size, settings)` raises `UsageError` if that many parameters are too few for the
    settings. `applies(context)` raises `SharpError` before anything is computed if the checkpoint
    lacks what the measure needs; a run of all measures then leaves this one out. `vanished(numbers,
    split, advice)` marks the numbers if the loss of a split at θ is too small for float64 (None:
    they do not depend on that loss).
    """

    name: str
    meaning: str
    formula: str
    cost: str
    invariances: str
    source: str
    warns: str
    compute: Callable[[Context], Mapping[str, Any]]
    default: bool = False
    needs_curvature: bool = False
    of_parameters: bool = True
    reads: tuple[str, ...] | None = None
    key: str = ""
    needs_gradients: bool = True
    options: tuple[Option, ...] = ()
    columns: tuple[Column, ...] = ()
    place: int = 100
    exact: bool = False
    of_data: bool = True
    one_split: bool = False
    scale_invariant: bool | None = None
    legend: Mapping[str, str] = field(default_factory=dict)
    remarks: Callable[[Collection[str]], list[str]] = lambda _: []
    gradients: Callable[[MeasureSettings, int], float] | None = None
    check: Callable[[int, MeasureSettings], None] | None = None
    applies: Callable[[Context], None] | None = None
    vanished: Callable[[Any, str | None, str], Any] | None = None

    def __post_init__(self) -> None:
        """Derive the JSON key from the name if it is not given."""
        object.__setattr__(self, "key", self.key or self.name.replace("-", "_"))


def loaded_later(where: str) -> Callable[..., Any]:
    """The function `module.function` of this package, imported when first called."""

    def call(*arguments: Any) -> Any:
        module, _, function = where.rpartition(".")
        return getattr(import_module(f"sharpcli.measures.{module}"), function)(*arguments)

    call.__doc__ = f"See `sharpcli.measures.{where}`."
    return call


def marked(node: Any, _split: str | None, advice: str) -> Any:
    """The numbers, all marked as not converged for the reason in `advice`."""
    if isinstance(node, Scalar):
        return replace(node, status=Status.PRECISION, advice=advice)
    if isinstance(node, Mapping):
        inner = {key: marked(value, _split, advice) for key, value in node.items()}
        return inner | ({"status": Status.PRECISION, "advice": advice} if is_scalar(node) else {})
    return [marked(each, _split, advice) for each in node] if isinstance(node, list) else node
