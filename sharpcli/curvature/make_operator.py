"""The only place that maps names to operators."""

from __future__ import annotations

from torch import Tensor

from sharpcli.curvature.finite_difference import FiniteDifference
from sharpcli.curvature.gauss_newton import empirical_fisher, gauss_newton
from sharpcli.curvature.graphs import GraphCost, graph_budget, graph_cost
from sharpcli.curvature.modes import MODES, choose_modes
from sharpcli.curvature.operator import Curvature
from sharpcli.errors import UsageError, setting
from sharpcli.linalg.operator import CurvatureOperator
from sharpcli.objective.objective import Objective
from sharpcli.settings.curvature import CurvatureSettings

__all__ = ["graph_bytes", "make_operator", "product_cost"]


def make_operator(
    objective: Objective,
    theta: Tensor,
    settings: CurvatureSettings | None = None,
    *,
    graphs: float | None = None,
) -> CurvatureOperator:
    """Build the operator that the settings name, for an objective at θ (n,).

    The Fisher matrix is refused for a loss whose distribution is unknown.

    Args:
        objective: the mean loss.
        theta: θ (n,), where the operator is taken.
        settings: the operator and how it is computed (default: the Hessian's defaults).
        graphs: bytes for kept graphs (default: half of the free memory).
    """
    settings = settings or CurvatureSettings()
    if graphs is None:
        graphs = graph_budget(theta.device, settings.memory)
    if settings.operator == "hessian":
        return _hessian(objective, theta, settings, graphs)
    if settings.operator == "empirical-fisher":
        return Curvature(objective, theta, empirical_fisher, graphs=graphs)
    if settings.operator == "fisher":
        _check_likelihood(objective)
    return Curvature(objective, theta, gauss_newton, graphs=graphs)


def product_cost(objective: Objective, theta: Tensor, settings: CurvatureSettings) -> GraphCost:
    """Bytes of a microbatch's graphs as a function of its examples. Cost: `graph_cost`."""
    if settings.operator == "hessian" and settings.hvp == "finite-difference":
        return GraphCost(0.0, 0.0)
    make = MODES["double-backward" if settings.hvp == "auto" else settings.hvp]
    if settings.operator != "hessian":
        make = empirical_fisher if settings.operator == "empirical-fisher" else gauss_newton
    return objective.within_memory(lambda: graph_cost(objective, objective.leaves(theta), make))


def graph_bytes(
    objective: Objective, theta: Tensor, settings: CurvatureSettings
) -> tuple[float, float]:
    """Bytes of one microbatch's graphs, and of all microbatches' graphs. Cost: `graph_cost`."""
    cost = product_cost(objective, theta, settings)
    sizes = objective.counts
    return cost.of(max(sizes)), sum(map(cost.of, sizes))


def _hessian(
    objective: Objective, theta: Tensor, settings: CurvatureSettings, graphs: float
) -> CurvatureOperator:
    if settings.hvp == "finite-difference":
        return FiniteDifference(objective, theta)
    if settings.hvp == "auto":
        chosen = choose_modes(objective, theta, graphs)
        kept, passing = MODES[chosen.kept], MODES[chosen.passing]
    else:
        kept = passing = MODES[settings.hvp]
    return Curvature(objective, theta, kept, passing, graphs=graphs)


def _check_likelihood(objective: Objective) -> None:
    """Refuse a loss that is not known to be a log-likelihood whose Fisher matrix is the GGN."""
    task = objective.network.task
    if not getattr(task.loss, "exponential_family", False):
        raise UsageError(
            f"{setting('operator', 'fisher')}: the distribution behind the loss of task "
            f"'{task.name}' is not known",
            f"take {setting('operator', 'ggn')}, which is the Fisher matrix where the loss is a "
            "negative log-likelihood whose natural parameters are the outputs (say so in the "
            "task by `loss.exponential_family = True`), or "
            f"{setting('operator', 'empirical-fisher')}",
        )
