"""Format numbers with their errors, as short as the errors allow.

There is one notation. `12.31(4)` is 12.31 ± 0.04 with the computation's own error (a residual
bound, the standard error of a random estimate). `15.2±0.7` shows a spread of the data (the sampling
error of a subset, a standard deviation over a group). `≥17.2` is a lower bound, `≤0.1` an upper
one. A `?` at the end means that the spread is unreliable. Rounding never claims more than was
computed: an error in parentheses is rounded up and includes the rounding of the value, a lower
bound is rounded down, an upper bound up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

from sharpcli.documents.statuses import NOT_CONVERGED, Status

__all__ = [
    "NOT_FINITE",
    "UNKNOWN",
    "bound_rounding",
    "bound_sign",
    "format_cells",
    "format_number",
    "format_scalar",
    "format_signed",
    "format_uncertain",
]

NOT_FINITE = "not finite"
UNKNOWN = "unknown"

_EXACT_DIGITS = 4  # of a number without an error: enough to distinguish two checkpoints
_MOST_DIGITS = 5  # even for a tiny error: the JSON has the rest
_BOUND_DIGITS = 3  # of a bound: the search for an extreme is no more repeatable than that
_BOUNDS = {"lower_bound": "≥", "upper_bound": "≤"}  # by error_kind, which may also be a status
_FIXED = (-3, 6)  # decades written without an exponent: 0.001 up to 999999
_TWO_DIGITS_BELOW = Decimal(
    "3.55"
)  # an error of .12 keeps two digits, one of .4 keeps one (Particle Data Group)


def format_number(
    value: float, digits: int = _EXACT_DIGITS, rounding: str = ROUND_HALF_EVEN
) -> str:
    """`value` with `digits` significant digits: 0.6931, 1.523e-05, 18.10, 123457.

    A whole number of Python's, such as a count, is written as it is.
    """
    if isinstance(value, int):
        return str(value)
    exact = _exact(value)
    if exact == 0:
        return "0"
    unit = _decade(exact) - digits + 1
    decade = _decade(_round(exact, unit, rounding))
    if decade < _FIXED[1]:
        unit = min(unit, 0)  # integers keep all their digits
    if decade > _decade(exact):
        unit += 1
    return _written(exact, unit, None, None, rounding)


def format_uncertain(
    value: float,
    error: float | None = None,
    spread: float | None = None,
    rounding: str = ROUND_HALF_EVEN,
) -> str:
    """`value` with the computation's `error` in parentheses and the data's `spread` after ±.

    The larger of the two determines the digits; an error below a tenth of the spread is not shown.
    `rounding` keeps bounds valid, see `bound_rounding`.

    >>> format_uncertain(12.312, error=0.036), format_uncertain(15.23, spread=0.68)
    ('12.31(4)', '15.2±0.7')
    """
    exact = _exact(value)
    error_, spread_ = (_exact(x) if x else None for x in (error, spread))
    if error_ is not None and spread_ is not None and 10 * error_ <= spread_:
        error_ = None
    largest = max((x for x in (error_, spread_) if x is not None), default=None)
    if largest is None:
        return format_number(value, rounding=rounding)
    unit = _unit_of(largest)
    if exact:
        unit = max(unit, _decade(exact) - _MOST_DIGITS + 1)
    return _written(exact, unit, error_, spread_, rounding)


def format_cells(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """One scalar of each row, by its flat key; a dash if a row lacks it."""
    return [format_scalar(row[key]) if key in row else "–" for row in rows]


def format_scalar(scalar: Mapping[str, Any]) -> str:
    """A document's scalar as text, or words if it has no value.

    It ends in `!` if it did not converge, and in `?` if its sampling error is unreliable.
    """
    value, error, spread = (scalar.get(key) for key in ("value", "error", "sampling_error"))
    mark = "!" if scalar.get("status") in NOT_CONVERGED else ""
    mark = ("?" if scalar.get("sampling_status") else "") + mark
    if value is None:
        return (NOT_FINITE if scalar.get("status") == Status.NOT_FINITE else UNKNOWN) + mark
    if sign := bound_sign(scalar):
        rounding = bound_rounding(sign)
        own = error if scalar.get("error_kind") == "standard_error" else None
        return f"{sign}{_format_bound(value, own, spread, rounding)}{mark}"
    if scalar.get("error_kind") == "standard_error" and error == spread:
        error = None  # there is only the sampling error
    if scalar.get("error_kind") == "rounding" and error is not None and not _shows(value, error):
        error = None
    return format_uncertain(value, error, spread) + mark


def _shows(value: float, error: float) -> bool:
    """Whether an error affects the digits that a number without an error shows."""
    exact = _exact(value)
    return _exact(error) >= Decimal(1).scaleb(_decade(exact) - _EXACT_DIGITS)


def bound_sign(scalar: Mapping[str, Any]) -> str:
    """`≥` for a lower bound, `≤` for an upper bound, else the empty string."""
    kinds = (scalar.get("status"), scalar.get("error_kind"))
    return next((_BOUNDS[kind] for kind in kinds if kind in _BOUNDS), "")


def bound_rounding(sign: str) -> str:
    """The rounding mode that keeps the number after a `≥` or a `≤` a bound."""
    return {"≥": ROUND_FLOOR, "≤": ROUND_CEILING}.get(sign, ROUND_HALF_EVEN)


def format_signed(
    value: float,
    error: float | None = None,
    spread: float | None = None,
    rounding: str = ROUND_HALF_EVEN,
) -> str:
    """`format_uncertain` with an explicit sign: +1.2, (+6±7)e-04."""
    text = format_uncertain(value, error, spread, rounding)
    bracket = "(" if text.startswith("(") else ""
    number = text.removeprefix(bracket)
    return bracket + (number if number.startswith("-") else f"+{number}")


def _format_bound(value: float, error: float | None, spread: float | None, rounding: str) -> str:
    """A bound with the standard `error` of a mean of bounds and the data's `spread`."""
    exact = _exact(value)
    error_, around = (_exact(x) if x else None for x in (error, spread))
    largest = max((x for x in (error_, around) if x is not None), default=None)
    if largest is None:
        return format_number(value, _BOUND_DIGITS, rounding)
    unit = max(_unit_of(largest), _decade(exact) - _MOST_DIGITS + 1)
    return _written(exact, unit, error_, around, rounding)


def _unit_of(error: Decimal) -> int:
    """The decade of the last digit to show for an error of this size."""
    decade = _decade(error)
    return decade - 1 if error.scaleb(-decade) < _TWO_DIGITS_BELOW else decade


def _exact(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def _decade(value: Decimal) -> int:
    return value.adjusted() if value else 0


def _round(value: Decimal, unit: int, rounding: str) -> Decimal:
    return (value.scaleb(-unit).to_integral_value(rounding)).scaleb(unit)


def _written(
    value: Decimal, unit: int, error: Decimal | None, spread: Decimal | None, rounding: str
) -> str:
    """Value, error and spread in units of 10**unit, with one exponent if the decade needs it."""
    shown = _round(value, unit, rounding) or Decimal(0)  # never -0
    off = abs(value - shown)
    bound = None if error is None else _round(error + off, unit, ROUND_CEILING)
    least = Decimal(1).scaleb(unit)
    around = None if spread is None else max(least, _round(spread, unit, ROUND_HALF_EVEN))
    decade = max(_decade(x) for x in (shown, bound, around) if x) if shown or bound or around else 0
    plain = _FIXED[0] <= decade < _FIXED[1]
    shift = 0 if plain else decade
    places = max(0, shift - unit)
    text, inner, outer = (
        None if x is None else f"{x.scaleb(-shift):.{places}f}" for x in (shown, bound, around)
    )
    if bound is not None:
        digits = inner if bound.scaleb(-shift) >= 1 else int(bound.scaleb(-unit))
        text = f"{text}({digits})"
    if outer is not None:
        text = f"{text}±{outer}"
    if plain:
        return str(text)
    power = f"e{shift:+03d}"
    return f"({text}){power}" if outer is not None else f"{text}{power}"
