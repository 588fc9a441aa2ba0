"""Measures of what an optimizer and its gradients see at θ, on request."""

from __future__ import annotations

from sharpcli.measures.measure import Measure

__all__ = ["OPTIMIZATION"]

OPTIMIZATION: tuple[Measure, ...] = ()
