"""How a measurement's memory is divided between graphs, basis and blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.curvature import graph_bytes, product_cost
from sharpcli.errors import SharpError, counted, setting
from sharpcli.linalg.eigsh import block_width, expected_products, least_rows
from sharpcli.objective.objective import Objective
from sharpcli.runtime.memory import available_memory, readable_size
from sharpcli.runtime.processes import neighbours, share
from sharpcli.settings.curvature import CurvatureSettings

__all__ = ["Budget", "share_memory", "share_memory_of_probes"]

# Share of the free memory to use if no limit is given: other programs need some.
_SHARE = 0.8
# Where not all graphs fit, a part of them saves little time, and a CPU's memory also serves the
# system's cache of files and other programs: they then take this share of the free memory at most.
_PART_OF_GRAPHS = 1 / 32
# Copies of θ beside the basis: two for each vector of a block (the vector and its product), and two
# for gradients in progress.
_COPIES_A_VECTOR, _COPIES = 2, 2
# A basis gains nothing from more rows than this, plus this many for each wanted pair (see `eigsh`).
_ROWS, _ROWS_A_PAIR = 80, 4
_BLOCK = 2
# Probes of a density that advance in step, which pays if an operator rebuilds something for each
# product, and the share of the memory that their bases may then take from graphs.
_PROBES, _BASES_SHARE = 4, 0.5
# Halve batches at most this often to make room for graphs: smaller batches are slow.
_HALVINGS = 3
# Eigenvectors for the eigenvalues on which probes agree, for each step, if memory is short: an
# eigenvalue needs two steps or more to be resolved.
_KNOWN_A_STEP = 0.5


@dataclass(frozen=True)
class Budget:
    """What fits in `total` bytes; all sizes are in bytes.

    Krylov bases have `rows` vectors on `device` in addition to the next `block`, each a `copy` of
    θ; `known` of the rows are eigenvectors on which a density's probes agree. `graphs` is for kept
    graphs out of `all_graphs`. `working` is for vectors in progress and for one microbatch of
    `batch_size` examples.
    """

    total: int
    copy: int
    rows: int
    device: torch.device
    graphs: float
    all_graphs: float
    working: float
    batch_size: int
    block: int = _BLOCK
    known: int = 0

    @property
    def bytes(self) -> float:
        """The most bytes that will be used."""
        kept = min(self.graphs, self.all_graphs)
        return self.working + kept + (self.rows + self.block) * self.copy

    @property
    def at_most(self) -> str:
        """The same in words."""
        return f"{readable_size(self.bytes)} of memory at most"

    def __str__(self) -> str:
        """A one-line summary for a person."""
        kept = 1.0 if not self.all_graphs else min(1.0, self.graphs / self.all_graphs)
        return (
            f"{readable_size(self.total)} of memory: a basis of {counted(self.rows, 'vector')} "
            f"({readable_size(self.rows * self.copy)}, {self.device.type}), "
            f"{kept:.0%} of the graphs kept ({readable_size(kept * self.all_graphs)}), batches of "
            f"{self.batch_size}, blocks of {self.block}, {readable_size(self.working)} to work in"
        )


def share_memory(
    objective: Objective, theta: Tensor, settings: CurvatureSettings, k: int, smallest: int
) -> Budget:
    """Divide `settings.memory` (None: what is free) for a solve of k + smallest eigenvalues.

    The basis comes first, with half of what blocks and a microbatch leave, and at least the rows it
    needs; then graphs, then the basis again. If a GPU is short of memory the basis moves to the
    CPU. Batches are halved if the minimum does not fit otherwise.

    Raises:
        SharpError: if the minimum does not fit at all.

    Cost: `graph_cost`.
    """
    total, copy = _total(objective, theta, settings), theta.numel() * theta.element_size()
    block = block_width(k)
    least = min(theta.numel(), least_rows(k, smallest))
    needed = (least + block) * copy
    room = _room(total - _vectors(block, copy), needed, theta.device)
    one, every = _graphs(objective, theta, settings, room)
    working = _vectors(block, copy) + one
    most = min(theta.numel(), _ROWS + _ROWS_A_PAIR * (k + smallest))
    left = total - working
    fits, device = int(left // copy) - block, theta.device
    if fits < least and _has_elsewhere(device) and left > 0:
        device = torch.device("cpu")
        rows = min(most, _rows_elsewhere(copy) - block)
        graphs = left
    else:
        wanted = min(most, max(least, min(expected_products(k, smallest), fits // 2)))
        graphs = max(left - (wanted + block) * copy, 0.0)
        graphs = _worth(graphs, every, theta, settings)
        one, every = _some_kept(objective, theta, settings, graphs)
        rows = min(most, int((left - min(graphs, every)) // copy) - block)
    (rows,), device = _agreed((rows,), device)
    if rows < least:
        raise SharpError(
            f"{readable_size(total)} of memory are too little for "
            f"{counted(k + smallest, 'eigenvalue')} of "
            f"{counted(theta.numel(), 'parameter')}, which take "
            f"{readable_size(working + needed)} at the "
            "least",
            f"ask for fewer with {setting('top')}, raise {setting('memory')}, measure some "
            f"{setting('parameters')} only, or use a machine with more memory",
        )
    return Budget(total, copy, rows, device, graphs, every, working, objective.batch_size, block)


def share_memory_of_probes(
    objective: Objective, theta: Tensor, settings: CurvatureSettings, probes: int, steps: int
) -> Budget:
    """Divide `settings.memory` (None: what is free) for a density from this many probes.

    One probe's basis comes first, then graphs. Further probes advance in step if all graphs still
    fit or, if they do not all fit anyway, if the bases leave half of the memory. A basis that does
    not fit on a GPU goes to the CPU. Batches are halved if one does not fit otherwise.

    Raises:
        SharpError: if the minimum does not fit at all.

    Cost: `graph_cost`.
    """
    total, copy = _total(objective, theta, settings), theta.numel() * theta.element_size()
    if theta.numel() <= probes * steps:  # the full matrix is computed, without a basis
        probes = steps = 0
    known = int(_KNOWN_A_STEP * steps) if probes > 1 else 0
    needed = (steps + known + 1) * copy
    room = _room(total - _vectors(1, copy), needed, theta.device)
    one, every = _graphs(objective, theta, settings, room)

    def left(block: int) -> float:
        return total - one - _vectors(block, copy) - (block * steps + known + block) * copy

    blocks = range(max(1, min(_PROBES, probes)), 0, -1)
    most = _BASES_SHARE * total
    block = next((b for b in blocks if left(b) >= every), 0) or next(
        (b for b in blocks if left(b) >= 0 and b * steps * copy <= most), 1
    )
    device, graphs, fits = theta.device, left(block), left(block) >= 0 or not steps
    if not fits and _has_elsewhere(device) and left(1) + needed > 0:
        device, graphs = torch.device("cpu"), left(1) + needed
        fits = _rows_elsewhere(copy) * copy >= needed
    elif known and left(block) - every >= (steps - known) * copy:
        graphs, known = graphs - (steps - known) * copy, steps
    (block, known), device = _agreed((block, known), device)
    if not fits:
        fewer = int(steps * (1 + left(1) / needed))
        raise SharpError(
            f"{counted(steps, 'Lanczos step')} of {counted(theta.numel(), 'parameter')} need "
            f"{readable_size(total - left(1))}, and {readable_size(total)} of memory are there",
            f"take fewer with {setting('steps', fewer)}"
            if fewer >= 5
            else f"raise {setting('memory')}, or use a machine with more memory",
        )
    graphs = _worth(graphs, every, theta, settings)
    one, every = _some_kept(objective, theta, settings, graphs)
    return Budget(
        total,
        copy,
        block * steps + known,
        device,
        max(graphs, 0.0),
        every,
        _vectors(block, copy) + one,
        objective.batch_size,
        block,
        known,
    )


def _graphs(
    objective: Objective, theta: Tensor, settings: CurvatureSettings, room: float
) -> tuple[float, float]:
    """Bytes of a microbatch's graphs, halving batches until they fit in `room`, and of all."""
    while True:
        one, every = graph_bytes(objective, theta, settings)
        if one <= room or not objective.halve_batches():
            return one, every


def _some_kept(
    objective: Objective, theta: Tensor, settings: CurvatureSettings, graphs: float
) -> tuple[float, float]:
    """As `_graphs`, with smaller batches if `graphs` bytes can then keep some of their graphs."""
    smallest = max(1, objective.batch_size // 2**_HALVINGS)
    fits = product_cost(objective, theta, settings).of(smallest) <= graphs
    return _graphs(objective, theta, settings, graphs if fits else math.inf)


def _room(left: float, basis: float, device: torch.device) -> float:
    """Bytes for a microbatch: `left` without the least basis, if that stays on the device."""
    return left if basis >= left and _has_elsewhere(device) else left - basis


def _total(objective: Objective, theta: Tensor, settings: CurvatureSettings) -> int:
    """The bytes to divide, the same in all processes; the data are counted in a limit."""
    free = _free(theta.device)
    if settings.memory is None:
        return share(int(_SHARE * free))
    left = settings.memory if objective.memory is None else objective.memory
    return share(min(settings.memory, left, free))


def _worth(graphs: float, every: float, theta: Tensor, settings: CurvatureSettings) -> float:
    """Bytes for kept graphs: those that fit, or few if others have to be built again anyway.

    A GPU's memory serves nothing else, and a limit set by the user may be used up.
    """
    if every <= graphs or settings.memory is not None or theta.device.type != "cpu":
        return graphs
    return min(graphs, _PART_OF_GRAPHS * _free(theta.device))


def _vectors(block: int, copy: int) -> float:
    """Bytes of the vectors in progress, whatever else is kept."""
    return (_COPIES_A_VECTOR * block + _COPIES) * copy


def _has_elsewhere(device: torch.device) -> bool:
    """Whether a basis can be stored on another device than it is used on."""
    return device.type == "cuda"


def _rows_elsewhere(copy: int) -> int:
    """How many vectors fit on the CPU."""
    return int(_SHARE * _free(torch.device("cpu")) / copy)


def _agreed(numbers: tuple[int, ...], device: torch.device) -> tuple[tuple[int, ...], torch.device]:
    """Make numbers and type of device agree between processes; each keeps its own device."""
    numbers, on_cpu = share((numbers, device.type == "cpu"))
    return numbers, torch.device("cpu") if on_cpu else device


def _free(device: torch.device) -> int:
    """The part of the free memory for this process: a GPU is its own, a CPU's memory is shared."""
    free = available_memory(device)
    return free if device.type == "cuda" else free // neighbours()
