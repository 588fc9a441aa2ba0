"""Measures of how the loss rises around θ, on request."""

from __future__ import annotations

from sharpcli.measures.measure import Measure

__all__ = ["PERTURBATIONS"]

PERTURBATIONS: tuple[Measure, ...] = ()
