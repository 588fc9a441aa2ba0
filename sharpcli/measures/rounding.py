"""Numbers that are sums over the data, with their errors from rounding and sampling."""

from __future__ import annotations

import math

from sharpcli.documents.scalars import ErrorKind, Scalar
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import setting

__all__ = ["with_rounding"]

# A number whose rounding is a larger share of it has no value.
_LARGEST_SHARE = 0.1


def with_rounding(
    value: float,
    rounding: float,
    sampled: float | None,
    sampling_status: SamplingStatus | None = None,
    *,
    wide: bool = False,
) -> Scalar:
    """A number with the error from the run's arithmetic (`rounding`) and from the data (`sampled`).

    Its error combines both, a standard error if a sample was measured; None if neither is known.
    Its status is "precision" if rounding is more than a tenth of it. `wide` means that the run is
    in float64 already.
    """
    known = rounding <= _LARGEST_SHARE * abs(value)
    status, advice = (
        (Status.CONVERGED, None)
        if known
        else (Status.PRECISION, _ADVICE_WIDE if wide else _advice())
    )
    if sampled is None:
        kind: ErrorKind | None = "rounding" if rounding else None
        return Scalar(
            value, rounding or None, kind, status, advice, sampling_status=sampling_status
        )
    error = math.hypot(rounding, sampled)
    return Scalar(
        value,
        error,
        "standard_error",
        status,
        advice,
        sampling_error=error,
        sampling_status=sampling_status,
    )


_ADVICE_WIDE = "the value is as small as what rounding leaves in float64: it may as well be 0"


def _advice() -> str:
    return f"the value is as small as what rounding leaves: use {setting('dtype', 'float64')}"
