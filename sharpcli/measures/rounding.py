"""Numbers that are sums over the data, with what rounding and sampling leave in them."""

from __future__ import annotations

import math

from sharpcli.documents.results import ErrorKind, Scalar
from sharpcli.documents.statuses import SamplingStatus, Status
from sharpcli.errors import setting

__all__ = ["with_rounding"]

# A number whose rounding is a larger share of it is no number.
_LARGEST_SHARE = 0.1


def with_rounding(
    value: float,
    rounding: float,
    sampled: float | None,
    sampling_status: SamplingStatus | None = None,
    *,
    wide: bool = False,
) -> Scalar:
    """A number of which `rounding` is the run's arithmetic's error, and `sampled` the data's.

    Its error is that of both together, a standard error where a sample was measured; none where
    neither is known. It has the status "precision" where rounding is more than a tenth of it;
    `wide` says that the run is in float64 already.
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
