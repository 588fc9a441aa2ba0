"""Eigenvalues, traces and box-constrained maxima of things that can only be applied.

Nothing in here knows networks: an operator has a size and `@`, a function gives a value and a
gradient.
"""

from sharpcli.linalg.box import BoxMaximum, corner_ascent, projected_lbfgs
from sharpcli.linalg.eigsh import EigshResult, eigsh
from sharpcli.linalg.trace import TraceResult, trace

__all__ = [
    "BoxMaximum",
    "EigshResult",
    "TraceResult",
    "corner_ascent",
    "eigsh",
    "projected_lbfgs",
    "trace",
]
