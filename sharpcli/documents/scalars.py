"""Numbers with their errors, as dataclasses and as mappings, by their flat keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from sharpcli.documents.fields import absent
from sharpcli.documents.statuses import SOUND, SamplingStatus, Status
from sharpcli.settings.fields import Keywords

__all__ = [
    "Scalar",
    "flat_scalars",
    "is_scalar",
    "leaves",
    "scalar_fields",
    "short_power",
    "to_plain",
    "with_sampling_errors",
]

ErrorKind = Literal["residual", "standard_error", "rounding", "lower_bound", "upper_bound"]


@dataclass(frozen=True)
class Scalar:
    """A number with its error, the kind of the error, and a status."""

    value: Annotated[float | None, "The number; null if it is not finite."]
    error: Annotated[
        float | None,
        "The error, in the unit of the value; null if the value is exact up to rounding or only a "
        "bound.",
        Keywords(minimum=0),
    ] = None
    error_kind: Annotated[
        ErrorKind | None,
        "residual: a bound, ‖Hv − λv‖ for an eigenvalue; standard_error: of a random estimate; "
        "rounding: of the run's arithmetic, measured against another precision; lower_bound: the "
        "true maximum is at least the value; upper_bound: the true minimum is at most the value.",
    ] = None
    status: Annotated[
        Status,
        "converged; lower_bound: the largest found; upper_bound: the smallest found; max_products: "
        "the limit was reached before the tolerance; precision: rounding keeps the error above the "
        "tolerance, or hides how the loss rises; suspect: the second derivatives failed their "
        "self-check; unresolved: the method cannot decide; not_finite: there is no value.",
    ] = Status.CONVERGED
    advice: Annotated[str | None, "What to do where it did not converge."] = absent()
    sampling_error: Annotated[
        float | None,
        "Standard error from sampling the data; ±1.96 times this is a 95 % interval; absent if all "
        "data were measured.",
        Keywords(minimum=0),
    ] = absent()
    sampling_bias: Annotated[
        float | None,
        "How much higher the value is on the sample than on all data, as far as known: the "
        "interval is value − sampling_bias ± 1.96·sampling_error.",
        Keywords(minimum=0),
    ] = absent()
    sampling_status: Annotated[
        SamplingStatus | None,
        "unreliable: the sampling error may be too small, because few examples dominate the number "
        "or the sample may lack important kinds of example; absent if it is reliable.",
    ] = absent()
    shards: Annotated[
        Sequence[float] | None,
        "The number on each of the equal shards of the sample, as far as the shard moves it: their "
        "mean is the number but for small terms. The shards are the same for all checkpoints with "
        "the same `sample`; absent if all data were measured.",
        Keywords(minItems=2),
    ] = absent()
    sampling_shift: Annotated[
        float | None,
        "How far sampling moves the value on average, to second order, as far as known; part of "
        "sampling_error, and not subtracted.",
    ] = absent()


def scalar_fields(scalar: Scalar, **others: Any) -> dict[str, Any]:
    """A `Scalar`'s fields and others in one mapping, like a list entry of a document."""
    return {**{f.name: getattr(scalar, f.name) for f in fields(scalar)}, **others}


def is_scalar(node: Any) -> bool:
    """Whether a node of a document is a number with its error and status."""
    return isinstance(node, Mapping) and "value" in node and "status" in node


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each scalar and plain value below `node` with its flat key, in document order.

    `hessian.eigenvalues[0]`, `epsilon_sharpness[1e-3]` and `epsilon_sharpness[1e-3,p=100]` are
    scalars (mappings). A scalar's extra fields follow it, as in
    `epsilon_sharpness[1e-3].loss_at_maximum`.
    """
    if is_scalar(node):
        yield key, {name: node[name] for name in _SCALAR_FIELDS if name in node}
        node = {name: value for name, value in node.items() if name not in _SCALAR_FIELDS}
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from leaves(value, f"{key}[{_entry_name(index, value)}]")
    else:
        yield key, node


def flat_scalars(measures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The scalars of one result's `measures`, by flat key as in `leaves`.

    The scalars are mappings for a document and `Scalar`s for a report.
    """
    return {key: leaf for key, leaf in leaves(to_plain(measures)) if is_scalar(leaf)}


def with_sampling_errors(node: Any, errors: Mapping[str, float], key: str = "") -> Any:
    """The measures with the sampling errors of some scalars replaced, by flat key.

    If a scalar's error equals its sampling error, both are replaced.
    """
    if isinstance(node, Scalar):
        return replace(node, **_replaced(vars(node), errors[key])) if key in errors else node
    if isinstance(node, Mapping):
        found = {
            name: with_sampling_errors(value, errors, f"{key}.{name}" if key else str(name))
            for name, value in node.items()
        }
        return found | (_replaced(node, errors[key]) if is_scalar(node) and key in errors else {})
    if isinstance(node, list | tuple):
        return [
            with_sampling_errors(value, errors, f"{key}[{_entry_name(index, value)}]")
            for index, value in enumerate(node)
        ]
    return node


def short_power(value: float) -> str:
    """A setting such as ε in short form: 1e-3, 5e-4, 0.05, 2."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


_SCALAR_FIELDS = tuple(f.name for f in fields(Scalar))
_LEFT_OUT_OF_SCALARS = {f.name for f in fields(Scalar) if "absent" in f.metadata}


def _replaced(scalar: Mapping[str, Any], error: float) -> dict[str, Any]:
    all_of_it = scalar.get("error") is not None and scalar["error"] == scalar["sampling_error"]
    return {"sampling_error": error} | ({"error": error} if all_of_it else {})


def _entry_name(index: int, entry: Any) -> str:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("epsilon"), int | float):
        return str(index)
    subspace = entry.get("subspace")
    return short_power(entry["epsilon"]) + (f",p={subspace}" if subspace else "")


def to_plain(node: Any) -> Any:
    """A part of a report in JSON types, as `to_document` writes it."""
    kind = type(node)
    if kind is float:  # most nodes of long curves are, and all that follows takes a while
        return node if math.isfinite(node) else None
    if kind in (int, str):
        return node
    if is_dataclass(node) and not isinstance(node, type):
        values = [(f, getattr(node, f.name)) for f in fields(node)]
        return _checked({f.name: to_plain(x) for f, x in values if not _left_out(f, x)})
    if isinstance(node, Mapping):
        return _checked({str(key): to_plain(value) for key, value in node.items()})
    if isinstance(node, str | Path):
        return str(node)
    if isinstance(node, Sequence):
        return [to_plain(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node


def _left_out(of: Field[Any], value: Any) -> bool:
    """Whether a document leaves a field out: it is empty and its default is `absent`."""
    return "absent" in of.metadata and (value is None or (of.default == () and not value))


def _checked(plain: dict[str, Any]) -> dict[str, Any]:
    """Make a scalar without a value `not_finite` instead of converged, and drop empty advice."""
    if not is_scalar(plain):
        return plain
    if plain["value"] is None and plain["status"] in SOUND:
        plain["status"] = Status.NOT_FINITE.value
    return {k: v for k, v in plain.items() if v is not None or k not in _LEFT_OUT_OF_SCALARS}
