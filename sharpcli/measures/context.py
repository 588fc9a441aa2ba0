"""What a measure is handed: a checkpoint's objective, and what measures of one run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..linalg.eigsh import EigshResult, Krylov, eigsh, krylov_space
from ..moments import Evaluation
from ..objective import Objective
from ..operators import CurvatureOperator, SelfCheck, make_operator
from ..progress import Begin, Progress, silent
from ..settings import MeasureSettings

__all__ = ["Context"]

# Products spent on a sketch where the trace is asked for without eigenvalues.
_SKETCH_PRODUCTS = 20


@dataclass
class Context:
    """One checkpoint on one data set, with the quantities that several measures need.

    `theta` (n,) are the checkpoint's parameters; `objective` is the measured split's and one of
    `splits`. `warnings` collects what a measure warns of. `self_check` belongs to the model and
    was made once for the run, None where no measure needs second derivatives. `part` says that θ
    is a block of parameters of which all were measured before. `begin` opens a measure's
    `progress`.
    """

    objective: Objective
    splits: Mapping[str, Objective]
    theta: Tensor
    settings: MeasureSettings
    seed: int = 0
    self_check: SelfCheck | None = None
    part: bool = False
    warnings: list[str] = field(default_factory=list)
    begin: Begin = lambda _: silent
    progress: Progress = silent

    @cached_property
    def evaluations(self) -> Mapping[str, Evaluation]:
        """Loss and metrics of every split. Cost: one forward pass each."""
        return {name: objective.evaluate(self.theta) for name, objective in self.splits.items()}

    @cached_property
    def value_and_gradient(self) -> tuple[float, Tensor]:
        """L(θ) and ∇L(θ) (n,), finite. Cost: one gradient."""
        value, gradient = self.objective.gradient(self.theta)
        self.objective.check_finite(value, self.theta, gradient)
        return value, gradient

    @cached_property
    def hessian(self) -> CurvatureOperator:
        """The Hessian at θ, or the matrix that the settings put in its place."""
        return make_operator(self.objective, self.theta, self.settings.curvature)

    @cached_property
    def eigenvalues(self) -> EigshResult:
        """Both ends of the Hessian's spectrum, as the settings ask. Cost: its `products`."""
        settings = self.settings
        return eigsh(
            self.hessian,
            settings.top,
            smallest=min(1, self.objective.size - settings.top),
            tolerance=settings.tol,
            max_products=settings.max_products,
            seed=self.seed,
            progress=self.progress,
        )

    @property
    def krylov(self) -> Krylov:
        """A subspace that holds the Hessian's large eigenvalues: the one that exists, if any."""
        if "eigenvalues" in self.__dict__:
            return self.eigenvalues.krylov
        return krylov_space(self.hessian, _SKETCH_PRODUCTS, seed=self.seed)

    def release(self) -> None:
        """Free the graphs that products kept."""
        if "hessian" in self.__dict__:
            self.hessian.release()

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked, so that clocks tell the truth."""
        if self.theta.device.type == "cuda":
            torch.cuda.synchronize(self.theta.device)
