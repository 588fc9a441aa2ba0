"""Norms and margins that studies compare sharpness with, on request."""

from __future__ import annotations

from sharpcli.measures.measure import Measure

__all__ = ["PARAMETER_NORMS"]

PARAMETER_NORMS: tuple[Measure, ...] = ()
