"""The peers on a problem in memory: one product, and ten eigenpairs, each as its manual has it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from problem import Problem, flat
from torch import Tensor
from torch.nn import CrossEntropyLoss

if TYPE_CHECKING:
    from hessian_eigenthings import LanczosTridiag

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pairs:
    """Eigenvalues in descending order, vectors (k, n) by rows, and the products they took."""

    values: Tensor
    vectors: Tensor
    products: int


def _sorted(values: Tensor, vectors: Tensor, products: int) -> Pairs:
    order = torch.argsort(values, descending=True)
    return Pairs(values[order].double().cpu(), vectors[order], products)


def pyhessian_made(problem: Problem, batch: int) -> object:
    """Its object, with the gradient's graph where there is one batch."""
    from pyhessian import hessian

    problem.model.zero_grad(set_to_none=True)
    batches = problem.batches(batch)
    data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    return hessian(problem.model, CrossEntropyLoss(), **data, cuda=problem.device.type == "cuda")


def pyhessian_pairs(
    problem: Problem, batch: int, k: int, tolerance: float, iterations: int
) -> Pairs:
    """Power iteration with deflation; `tolerance` is the change of a value between iterations."""
    import pyhessian

    module = sys.modules[pyhessian.hessian.__module__]  # the name is the class's in the package
    products = 0
    plain = module.hessian_vector_product
    rebuilt = module.hessian.dataloader_hv_product

    def counted(*arguments: object) -> object:
        nonlocal products
        products += 1
        return plain(*arguments)

    def counted_rebuilt(self: object, v: object) -> object:
        nonlocal products
        products += 1
        return rebuilt(self, v)

    module.hessian_vector_product = counted
    module.hessian.dataloader_hv_product = counted_rebuilt
    try:
        made = pyhessian_made(problem, batch)
        values, vectors = made.eigenvalues(maxIter=iterations, tol=tolerance, top_n=k)
    finally:
        module.hessian_vector_product = plain
        module.hessian.dataloader_hv_product = rebuilt
        problem.model.zero_grad(set_to_none=True)
    return _sorted(torch.tensor(values), torch.stack([flat(v) for v in vectors]), products)


def pyhessian_product(problem: Problem, batch: int) -> Product:
    """Its product: on one batch it keeps the graph, on several it makes them anew."""
    from pyhessian.utils import hessian_vector_product

    made = pyhessian_made(problem, batch)
    sizes = [p.numel() for p in problem.parameters]

    def product(vector: Tensor) -> Tensor:
        parts = torch.split(vector, sizes)
        v = [part.view_as(p) for part, p in zip(parts, problem.parameters, strict=True)]
        if made.full_dataset:
            return flat(made.dataloader_hv_product(v)[1])
        return flat(hessian_vector_product(made.gradsH, made.params, v))

    return product


def eigenthings_operator(problem: Problem, batch: int) -> object:
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(
        problem.model, problem.batches(batch), supervised_loss(CrossEntropyLoss())
    )


def eigenthings_pairs(problem: Problem, batch: int, k: int, tolerance: float, steps: int) -> Pairs:
    """Lanczos of a fixed number of `steps`, fully reorthogonalised."""
    from hessian_eigenthings import lanczos

    found = lanczos(
        eigenthings_operator(problem, batch),
        k=k,
        max_iter=steps,
        tol=tolerance,
        reorthogonalize=True,
        which="LA",
        seed=0,
    )
    return _sorted(found.eigenvalues, found.eigenvectors, found.iterations)


def eigenthings_steps(problem: Problem, batch: int, steps: int) -> LanczosTridiag:
    """The same Lanczos run as it stands after `steps`, before its eigenvalues are taken."""
    from hessian_eigenthings import lanczos_tridiagonal

    operator = eigenthings_operator(problem, batch)
    start = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))
    start = start.to(problem.device)
    return lanczos_tridiagonal(operator, start, steps)


def eigenthings_product(problem: Problem, batch: int) -> Product:
    return eigenthings_operator(problem, batch).matvec


def curvlinops_operator(problem: Problem, batch: int) -> object:
    from curvlinops import HessianLinearOperator

    return HessianLinearOperator(
        problem.model,
        CrossEntropyLoss(),
        problem.parameters,
        problem.batches(batch),
        check_deterministic=False,
        num_data=len(problem.inputs),
    )


def curvlinops_pairs(
    problem: Problem, batch: int, k: int, tolerance: float, basis: int | None
) -> Pairs:
    """SciPy's eigsh (ARPACK) on curvlinops' operator; `basis` is ARPACK's ncv."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = curvlinops_operator(problem, batch).to_scipy(dtype=np.float32)
    products = 0

    def counted(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return operator.matvec(vector)

    wrapped = LinearOperator(operator.shape, matvec=counted, dtype=np.float32)
    start = np.random.RandomState(0).standard_normal(operator.shape[0]).astype(np.float32)
    values, vectors = eigsh(wrapped, k=k, which="LA", tol=tolerance, ncv=basis, v0=start)
    return _sorted(torch.tensor(values), torch.tensor(vectors.T.copy()), products)


def curvlinops_product(problem: Problem, batch: int) -> Product:
    operator = curvlinops_operator(problem, batch)
    return lambda vector: operator @ vector


def plain_product(problem: Problem, batch: int) -> Product:
    """Double backward in a dozen lines, graphs kept: the independent check of everyone."""
    criterion = CrossEntropyLoss()
    parameters = problem.parameters
    share = batch / len(problem.inputs)
    graphs = []
    for inputs, targets in problem.batches(batch):
        loss = criterion(problem.model(inputs), targets) * share
        graphs.append(flat(torch.autograd.grad(loss, parameters, create_graph=True)))

    def product(vector: Tensor) -> Tensor:
        parts = [
            flat(torch.autograd.grad(graph, parameters, vector, retain_graph=True))
            for graph in graphs
        ]
        return torch.stack(parts).sum(0)

    return product


PRODUCTS: dict[str, Callable[[Problem, int], Product]] = {
    "PyHessian": pyhessian_product,
    "hessian-eigenthings": eigenthings_product,
    "curvlinops": curvlinops_product,
}
