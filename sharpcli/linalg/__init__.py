"""Eigenvalues, traces, spectral densities and maxima over a box, for operators and functions.

Nothing in here knows networks: an operator has a size and `@`; a function returns a value and a
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
