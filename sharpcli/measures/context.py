"""The input of a measure: a checkpoint's objective, and results that measures share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sharpcli.checkpoint import Checkpoint
from sharpcli.checkpoint.optimizer_files import NoOptimizerState
from sharpcli.checkpoint.optimizer_state import OptimizerState, find_optimizer_state
from sharpcli.curvature import CurvatureOperator, Rounding, SelfCheck, make_operator
from sharpcli.curvature.memory_plan import Budget, share_memory
from sharpcli.curvature.rounding import bytes_to_compare
from sharpcli.linalg.eigsh import SMALL, EigshResult, Krylov, eigsh, krylov_space
from sharpcli.objective.checks import check_finite
from sharpcli.objective.means import Evaluation
from sharpcli.objective.objective import Objective
from sharpcli.runtime.progress import Begin, Notes, Progress, foretelling, silent
from sharpcli.settings.measuring import MeasureSettings

__all__ = ["Context"]

# Products for a sketch, if the trace is measured without eigenvalues.
_SKETCH_PRODUCTS = 20


@dataclass
class Context:
    """One checkpoint on one data set, with the quantities that several measures need.

    `theta` (n,) are the checkpoint's parameters; `objective` is the measured split's and one of
    `splits`. Measures append to `warnings`. `self_check` was made once for the model, None if no
    measure needs second derivatives. `checkpoint` is the file with its metadata, None for θ that is
    in no file. `part` means that θ is one block of parameters, measured after all of them. `lowest`
    is false if nobody asks for the smallest eigenvalue. `begin` opens a measure's `progress`;
    `notes` are its other messages. `quotients` (shards, k) are vᵢᵀH_s vᵢ over shards of a subset,
    once the sampling error of the eigenvalues is known. `off_quotients` is the sum of vᵀ(Ĥ − H)v
    over the Ritz vectors whose rounding has been measured. `initial` gives the tensors of the
    checkpoint in `settings.initial` by the model's names, as checkpoints are loaded; None: its
    names and shapes are matched to the model's.
    """

    objective: Objective
    splits: Mapping[str, Objective]
    theta: Tensor
    settings: MeasureSettings
    seed: int = 0
    self_check: SelfCheck | None = None
    checkpoint: Checkpoint | None = None
    part: bool = False
    initial: Callable[[], Mapping[str, Tensor]] | None = None
    lowest: bool = True
    warnings: list[str] = field(default_factory=list)
    begin: Begin = lambda _: silent
    notes: Notes = field(default_factory=Notes)
    progress: Progress = silent
    quotients: Tensor | None = None
    off_quotients: float | None = None

    @property
    def split(self) -> str | None:
        """The name of the measured split; None if it is not one of `splits`."""
        return next((name for name, it in self.splits.items() if it is self.objective), None)

    def known(self, name: str) -> Any:
        """One of the quantities below if it has been computed, else None. Costs nothing."""
        return self.__dict__.get(name)

    @cached_property
    def evaluations(self) -> Mapping[str, Evaluation]:
        """Loss and metrics of every split. Cost: one forward pass each."""
        return {name: objective.evaluate(self.theta) for name, objective in self.splits.items()}

    @cached_property
    def carriers(self) -> float:
        """How many examples of a sample carry the variance of its losses; infinite if undefined.

        Cost: a forward pass.
        """
        evaluations = self.known("evaluations")
        own = evaluations[self.split] if evaluations else self.objective.evaluate(self.theta)
        return own.loss.carriers or math.inf

    @cached_property
    def value_and_gradient(self) -> tuple[float, Tensor]:
        """L(θ) and ∇L(θ) (n,), finite. Cost: one gradient."""
        value, gradient = self.objective.gradient(self.theta)
        check_finite(self.objective, value, self.theta, gradient)
        return value, gradient

    @cached_property
    def optimizer(self) -> OptimizerState:
        """What the optimizer that trained the checkpoint remembers.

        Raises:
            NoOptimizerState: the weights are in no file, or there is no state with them.
        """
        if self.checkpoint is None:
            raise NoOptimizerState("the weights are in no file, so there is no optimizer state")
        parameters = dict(self.objective.network.model.named_parameters())
        given = self.settings.options.get("optimizer_state") or None
        return find_optimizer_state(self.checkpoint, parameters, given)

    @cached_property
    def budget(self) -> Budget:
        """The memory plan: kept graphs, rows of a basis. Too little memory is an error."""
        top, smallest = self._ends
        found = share_memory(self.objective, self.theta, self.settings.curvature, top, smallest)
        self.notes.detail(str(found))
        return found

    @cached_property
    def hessian(self) -> CurvatureOperator:
        """The Hessian at θ, or the matrix that the settings choose instead."""
        graphs = self.budget.graphs
        return make_operator(self.objective, self.theta, self.settings.curvature, graphs=graphs)

    @property
    def rounding(self) -> Rounding:
        """The rounding errors of the run's precision.

        Where a limit on memory does not hold their graphs beside the kept ones, these are freed.
        """
        limit = self.settings.curvature.memory
        if limit is not None and self.known("hessian"):
            left = limit if self.objective.memory is None else self.objective.memory
            if self.budget.bytes + bytes_to_compare(self.objective) > left:
                self.hessian.release()
        return self._rounding

    @cached_property
    def _rounding(self) -> Rounding:
        return Rounding(self.objective, self.theta, self.settings.curvature, seed=self.seed)

    @cached_property
    def eigenvalues(self) -> EigshResult:
        """Both ends of the Hessian's spectrum, as set in the settings. Cost: its `products`."""
        settings, budget, (top, smallest) = self.settings, self.budget, self._ends
        return eigsh(
            self.hessian,
            top,
            smallest=smallest,
            tolerance=settings.tol,
            max_products=settings.max_products,
            max_basis=None if self.objective.size <= SMALL else budget.rows,
            basis_device=budget.device,
            seed=self.seed,
            progress=foretelling(self.progress, self.notes, budget.at_most),
        )

    @property
    def krylov(self) -> Krylov:
        """A subspace with the Hessian's large eigenvalues: that of the eigenvalues, or a sketch."""
        if self.known("eigenvalues"):
            return self.eigenvalues.krylov
        products = min(_SKETCH_PRODUCTS, self.budget.rows)
        device = self.budget.device
        return krylov_space(self.hessian, products, seed=self.seed, basis_device=device)

    @property
    def _ends(self) -> tuple[int, int]:
        """How many eigenvalues at the top, and how many at the bottom."""
        size = self.objective.size
        top = min(self.settings.top, size)
        return top, min(1, size - top) if self.lowest else 0

    def release(self) -> None:
        """Free the graphs kept by products."""
        if self.known("hessian"):
            self.hessian.release()

    def synchronize(self) -> None:
        """Wait for the device to finish, so that timings are right."""
        if self.theta.device.type == "cuda":
            torch.cuda.synchronize(self.theta.device)
