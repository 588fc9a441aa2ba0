"""How the memory that a measurement may take is shared out: graphs, basis, blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import SharpError
from .linalg.eigsh import expected_products, least_rows
from .memory import available_memory, readable_size
from .objective import Objective
from .operators import graph_bytes
from .processes import neighbours, share
from .settings import CurvatureSettings

__all__ = ["Budget", "share_memory"]

# Share of what is free that is taken where no bound is given: other programs live too.
_SHARE = 0.8
# Copies of θ beside the basis: two blocks of two (a product's vectors and what becomes of them),
# and two for gradients on their way.
_WORKING_COPIES = 6
# Bases of more rows than this a wanted pair, and as many more, gain nothing (see `eigsh`).
_ROWS, _ROWS_A_PAIR = 80, 4
_BLOCK = 2


@dataclass(frozen=True)
class Budget:
    """What fits in `total` bytes, all else in bytes too.

    `rows` of a Krylov basis beside the block to come, each a `copy` of θ, on `device`; `graphs`
    for kept graphs of the `all_graphs` that there are; `working` for vectors on their way and for
    one microbatch of `batch_size` examples.
    """

    total: int
    copy: int
    rows: int
    device: torch.device
    graphs: float
    all_graphs: float
    working: float
    batch_size: int

    @property
    def bytes(self) -> float:
        """What a solve takes at most."""
        kept = min(self.graphs, self.all_graphs)
        return self.working + kept + (self.rows + _BLOCK) * self.copy

    def __str__(self) -> str:
        """In one line, for a person."""
        kept = 1.0 if not self.all_graphs else min(1.0, self.graphs / self.all_graphs)
        return (
            f"{readable_size(self.total)} of memory: a basis of {self.rows} vectors "
            f"({readable_size(self.rows * self.copy)}, {self.device.type}), "
            f"{kept:.0%} of the graphs kept ({readable_size(kept * self.all_graphs)}), batches of "
            f"{self.batch_size}, blocks of {_BLOCK}, {readable_size(self.working)} to work in"
        )


def share_memory(
    objective: Objective, theta: Tensor, settings: CurvatureSettings, k: int, smallest: int
) -> Budget:
    """What `settings.memory` (None: what is free) gives a solve for k + smallest eigenvalues.

    The basis has first call on half of what blocks and a microbatch leave, and on as many rows as
    it cannot do without; then graphs, then the basis again. It moves to the CPU where a GPU is
    short of memory. Cost: `graph_cost`. Raises `SharpError` where even the least does not fit.
    """
    free = _free(theta.device)
    total = int(_SHARE * free) if settings.memory is None else min(settings.memory, free)
    total = share(total)
    copy = theta.numel() * theta.element_size()
    one, every = graph_bytes(objective, theta, settings)
    working = _WORKING_COPIES * copy + one
    most = min(theta.numel(), _ROWS + _ROWS_A_PAIR * (k + smallest))
    least = min(most, least_rows(k, smallest))
    left = total - working
    fits, device = int(left // copy) - _BLOCK, theta.device
    if fits < least and theta.device.type == "cuda" and left > 0:
        device = torch.device("cpu")
        rows = min(most, int(_SHARE * _free(device) / copy) - _BLOCK)
        graphs = left
    else:
        wanted = min(most, max(least, min(expected_products(k, smallest), fits // 2)))
        graphs = max(left - (wanted + _BLOCK) * copy, 0.0)
        rows = min(most, int((left - min(graphs, every)) // copy) - _BLOCK)
    rows = share(rows)
    if rows < least:
        needed = working + (least + _BLOCK) * copy
        raise SharpError(
            f"{readable_size(total)} of memory are too little for {k + smallest} eigenvalues of "
            f"{theta.numel()} parameters, which take {readable_size(needed)} at the least",
            "ask for fewer with --top, raise --memory, measure some --parameters only, or use a "
            "machine with more memory",
        )
    return Budget(total, copy, rows, device, graphs, every, working, objective.batch_size)


def _free(device: torch.device) -> int:
    """The part of this process in what is free: a GPU is its own, a CPU's memory is shared."""
    free = available_memory(device)
    return free if device.type == "cuda" else free // neighbours()
