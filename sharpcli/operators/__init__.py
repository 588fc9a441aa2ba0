"""Symmetric linear operators: `op @ V` for V (n,) or (n, k), and `op.size`."""

from .hessian import Hessian
from .protocol import Dense, SymmetricOperator
from .self_check import SelfCheck, self_check

__all__ = ["Dense", "Hessian", "SelfCheck", "SymmetricOperator", "self_check"]
