"""Symmetric linear operators: `op @ V` for V (n,) or (n, k), and `op.size`."""

from sharpcli.curvature.finite_difference import in_float64
from sharpcli.curvature.make_operator import graph_bytes, make_operator, product_cost
from sharpcli.curvature.rounding import Rounding
from sharpcli.curvature.self_check import SelfCheck, self_check
from sharpcli.curvature.unvouched import unvouched_operations
from sharpcli.linalg.operator import CurvatureOperator, Dense, SymmetricOperator

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
