"""The statuses of numbers and of results. Their values are the contract's, as JSON has them."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["NOT_CONVERGED", "SOUND", "Outcome", "SamplingStatus", "Status"]


class Status(StrEnum):
    """What a number is: what was asked for, a bound that holds, or why it is neither."""

    CONVERGED = "converged"
    LOWER_BOUND = "lower_bound"
    UPPER_BOUND = "upper_bound"
    MAX_PRODUCTS = "max_products"  # the limit came before the tolerance
    PRECISION = "precision"  # rounding keeps the error above the tolerance
    SUSPECT = "suspect"  # the second derivatives failed their self-check
    UNRESOLVED = "unresolved"  # the method cannot tell
    NOT_FINITE = "not_finite"  # there is no value


SOUND = (Status.CONVERGED, Status.LOWER_BOUND, Status.UPPER_BOUND)
NOT_CONVERGED = tuple(status for status in Status if status not in SOUND)


class SamplingStatus(StrEnum):
    """What a sampling error is, where it is not simply one."""

    UNRELIABLE = "unreliable"  # few examples carry the number, or kinds of example may be missing


class Outcome(StrEnum):
    """How the work on a checkpoint, a line or a surface ended."""

    OK = "ok"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"  # the kind of a failure
    PRUNED = "pruned"  # a trial that was ended early
    WAITING = "waiting"
