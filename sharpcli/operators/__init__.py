"""Symmetric linear operators: `op @ V` for V (n,) or (n, k), and `op.size`."""

from .build import graph_bytes, make_operator, product_cost
from .finite_difference import in_float64
from .protocol import CurvatureOperator, Dense, SymmetricOperator
from .rounding import Rounding
from .self_check import SelfCheck, self_check
from .unvouched import unvouched_operations

__all__ = [
    "CurvatureOperator",
    "Dense",
    "Rounding",
    "SelfCheck",
    "SymmetricOperator",
    "graph_bytes",
    "in_float64",
    "make_operator",
    "product_cost",
    "self_check",
    "unvouched_operations",
]
