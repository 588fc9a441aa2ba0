"""The objective: mean loss over a data set as a function of a flat parameter vector.

This is the only loop over data, the only normaliser, and the only place that handles microbatches
and devices. The mean is Σ sum / Σ weight over all examples, accumulated in float64, so it does not
depend on how the data are split into batches.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from sharpcli.errors import SharpError, counted, setting
from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.batch_size import bytes_an_example, most_in_memory
from sharpcli.objective.loss_and_metrics import batch_moments
from sharpcli.objective.means import Evaluation, mean_of
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Batch, Rows
from sharpcli.runtime.memory import available_memory, is_out_of_memory, readable_size
from sharpcli.runtime.processes import add_up, share_of, size

__all__ = ["Around", "Objective", "accumulate_into", "check_gradient"]

T = TypeVar("T")

Around = Callable[[int, int], contextlib.AbstractContextManager[None]]

# With fewer examples than this for each process, every process handles all of them.
_EXAMPLES_A_PROCESS = 32


class Objective:
    """L(θ) = Σ sum / Σ weight over `rows`, with its gradient; θ is (n,) in the network's dtype.

    Out of memory, batches are halved and the pass is repeated. Several processes each do a share of
    a pass. A `fixed_batch` is never divided.

    Args:
        network: the model as a function of θ.
        rows: the data.
        fixed: buffers and fixed parameters, as `Network.fixed` returns them.
        batch_size: the most examples in a microbatch, which bounds only memory (default: from the
            activations that one example saves, and `memory`).
        memory: in bytes (default: what is free).
        alone: this process does all of every pass.

    >>> from sharpcli.objective.network import Network
    >>> from sharpcli.objective.reading import read_rows
    >>> from sharpcli.tasks import Task, defaults
    >>> model = torch.nn.Linear(1, 1, bias=False)  # L(w) = ((w − 1)² + (2w − 4)²) / 2
    >>> data = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]])
    >>> def loss(outputs, batch):
    ...     return (outputs - batch[1]).square().sum(1)
    >>> task = Task("line", {}, "", lambda: model, lambda _: data, defaults.predict, loss)
    >>> network = Network(model, task, device=torch.device("cpu"))
    >>> objective = Objective(network, read_rows(data, name="train data"), network.fixed({}))
    >>> value, gradient = objective.gradient(torch.tensor([1.0]))
    >>> round(value, 6), round(float(gradient), 6)
    (2.0, -4.0)
    """

    def __init__(
        self,
        network: Network,
        rows: Rows,
        fixed: Mapping[str, Tensor],
        *,
        batch_size: int | None = None,
        memory: int | None = None,
        alone: bool = False,
    ) -> None:
        self.network, self.fixed, self._alone = network, fixed, alone
        self.rows = rows.to(network.device, network.compute)
        self.size = network.size
        self.evaluations = 0
        self.memory = memory
        self._asked, self._batch_size = batch_size, batch_size

    @property
    def fixed_batch(self) -> int | None:
        """Examples that form one batch because the loss is defined on it; None if it is not.

        It is a declared batch, or all examples if some layer is in training mode and may use the
        statistics of its batch. All code that divides batches checks this.
        """
        if self.rows.fixed_batch is not None:
            return min(self.rows.fixed_batch, self.rows.count)
        return self.rows.count if self.network.some_training else None

    def in_precision(
        self, kind: torch.dtype, *, rows: Rows | None = None, batch_size: int | None = None
    ) -> Objective:
        """The objective in another floating-point precision, on `rows` (None: its own).

        Rows are converted batch by batch, so that they are not held twice.
        """
        network = self.network.in_precision(kind)
        return Objective(
            network,
            (rows or self.rows).as_taken(network.device, kind),
            network.converted(self.fixed),
            batch_size=batch_size,
            memory=self.memory,
            alone=self._alone,
        )

    def try_in(
        self,
        kind: torch.dtype,
        theta: Tensor,
        work: Callable[[Objective, Tensor], T],
        *,
        batch_size: int | None = None,
    ) -> T | None:
        """Run `work` on the objective in another precision.

        Args:
            kind: the precision.
            theta: θ (n,) in any precision.
            work: called with the objective and θ in the new precision.
            batch_size: examples in a microbatch (default: the objective's own choice).

        Returns:
            The result of `work`. None if the device has no float64, the model has a fixed dtype, or
            memory is too short.
        """
        if kind == torch.float64 and self.network.device.type == "mps":
            return None
        there = self.in_precision(kind, batch_size=batch_size)
        try:
            return work(there, theta.to(kind))
        except (RuntimeError, TypeError, ValueError, SharpError):
            # For example a kernel written for float32; any other cause shows again in its own
            # precision.
            return None

    @property
    def batch_size(self) -> int:
        """The number of examples in a microbatch."""
        fixed = self.fixed_batch
        if fixed is not None:
            return fixed
        if self._batch_size is None:
            parts = -(-self.rows.count // self.most_at_once)
            self._batch_size = -(-self.rows.count // parts)
        return min(self._batch_size, self.rows.count)

    @property
    def most_at_once(self) -> int:
        """The most examples that a microbatch may have, however many rows there are."""
        return self.most_in_memory if self._asked is None else self._asked

    @property
    def most_in_memory(self) -> int:
        """The largest microbatch that would be chosen without a requested batch size."""
        return most_in_memory(self)

    def halve_batches(self) -> bool:
        """Halve the microbatches; return False if they have one example, or are fixed."""
        size = self.batch_size
        if size == 1 or self.fixed_batch is not None:
            return False
        self._batch_size = size // 2
        return True

    @functools.cached_property
    def saved_bytes(self) -> float:
        """Bytes that one example's forward pass keeps for the backward pass (measured)."""
        return bytes_an_example(self)

    def leaves(self, theta: Tensor) -> list[Tensor]:
        """θ as a list of leaf tensors to differentiate with respect to (views of θ)."""
        views = self.network.unflatten(theta.detach().to(self.network.device))
        return [view.requires_grad_() for view in views]

    def sum_and_weight(
        self, parameters: list[Tensor], batch: Batch, count: int, power: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Differentiable float64 sum of a batch's losses (to a power), and its weight."""
        with self.network.arithmetic():
            outputs = self.network.outputs(parameters, self.fixed, batch)
            total, weight = self.network.losses(outputs, batch, count)
        kind = accumulator(self.network.device)
        if power != 1.0:
            # The root of a zero loss has no derivative: clamp it to the smallest normal number.
            total = total.to(kind).clamp_min(torch.finfo(kind).tiny) ** power
        return total.sum(dtype=kind), weight.sum(dtype=kind)

    def differentiable_sum(
        self, leaves: list[Tensor], batch: Batch, count: int, power: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """As `sum_and_weight`, but refuses a sum without any gradient."""
        total, weight = self.sum_and_weight(leaves, batch, count, power)
        if not total.requires_grad and self.network.idle:
            total = total + sum(0 * leaf.sum() for leaf in leaves)
        check_gradient(
            total,
            "run neither under torch.no_grad(), or measure the loss alone: "
            f"{setting('measures', ['loss'])}",
        )
        return total, weight

    def batches(self) -> Iterator[tuple[Batch, int]]:
        """Microbatches of this process's share, and the number of examples in each."""
        take = self.rows.slice if self.fixed_batch else self.rows.visit
        for start, stop in self._ranges():
            yield take(start, stop), stop - start

    @property
    def counts(self) -> list[int]:
        """The number of examples in each microbatch of this process's share."""
        return [stop - start for start, stop in self._ranges()]

    def _ranges(self) -> list[tuple[int, int]]:
        (first, last), most = self.share, self.batch_size
        if self.fixed_batch:
            return [(start, min(start + most, last)) for start in range(first, last, most)]
        return self.rows.visits(first, last, most)

    @property
    def visited(self) -> Tensor | None:
        """The rows in the order in which `batches` has them; None for their own order."""
        return None if self.fixed_batch else self.rows.visited

    def in_order(self, values: Tensor) -> Tensor:
        """Numbers of all examples in the order of `batches`, in the order of the rows instead."""
        visited = self.visited
        if visited is None:
            return values
        ordered = torch.empty_like(values)
        ordered[visited.to(values.device)] = values
        return ordered

    @property
    def divided(self) -> bool:
        """Whether a pass is divided between processes.

        Few examples are not worth dividing, and a fixed batch stays in one process.
        """
        if self._alone or size() == 1:
            return False
        batches = -(-self.rows.count // (self.fixed_batch or 1))
        return batches >= size() and self.rows.count >= _EXAMPLES_A_PROCESS * size()

    @property
    def share(self) -> tuple[int, int]:
        """The first row of this process's share, and the row after its last."""
        if not self.divided:
            return 0, self.rows.count
        unit = self.fixed_batch or 1
        first, last = share_of(-(-self.rows.count // unit))
        return first * unit, min(last * unit, self.rows.count)

    def add_up(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place, if a pass is divided between them."""
        return add_up(tensor) if self.divided else tensor

    def loss(self, theta: Tensor) -> float:
        """L(θ). Cost: one forward pass."""
        return self.within_memory(lambda: self._loss(theta))

    def losses(self, thetas: Tensor) -> Tensor:
        """L at each row of `thetas` (k, n), in one pass by `vmap`: (k,).

        A model that `vmap` cannot batch raises its error. Cost: k forward passes, without the
        overhead of k calls; memory for k microbatches.
        """
        return self.within_memory(lambda: self._losses(thetas))

    def gradient(self, theta: Tensor, *, power: float = 1.0) -> tuple[float, Tensor]:
        """L(θ) and ∇L(θ) (n,). Cost: one gradient (a forward and a backward pass).

        With a `power` q below 1 it is the mean of ℓᵢ^q over the examples, which gives examples with
        a small loss more weight. Losses must then not be negative.
        """
        return self.within_memory(lambda: self._gradient(theta, power))

    def evaluate(self, theta: Tensor) -> Evaluation:
        """Loss and the task's metrics with sampling errors. Cost: one forward pass."""
        names, values = self.moments(theta)
        rows = self.rows
        means = {
            name: mean_of(each, rows.total, sampled=rows.sampled)
            for name, each in zip(names, values.tolist(), strict=True)
        }
        return Evaluation(means.pop("loss"), means)

    def moments(
        self,
        theta: Tensor,
        fixed: Mapping[str, Tensor] | None = None,
        around: Around = lambda _, __: contextlib.nullcontext(),
        parts: Sequence[int] | None = None,
    ) -> tuple[list[str], Tensor]:
        """Names of the loss and the metrics, and their `moments`, one row each, on the device.

        Args:
            theta: θ (n,).
            fixed: buffers to use instead of the objective's own.
            around: called with the start and count of each batch; its context is entered for it.
            parts: numbers of consecutive rows that get moments of their own.

        Cost: one forward pass, and no wait for the device.
        """
        return self.within_memory(lambda: self._moments(theta, fixed or self.fixed, around, parts))

    def per_example_losses(
        self,
        theta: Tensor,
        fixed: Mapping[str, Tensor] | None = None,
        around: Around = lambda _, __: contextlib.nullcontext(),
    ) -> tuple[Tensor, Tensor]:
        """Sums and weights of every example's loss, float64 (N,) each.

        `fixed` and `around` are as for `moments`.

        Raises:
            SharpError: if the task's loss returns one sum for a batch.

        Cost: one forward pass.
        """
        sums, weights = self.within_memory(lambda: self._pairs(theta, fixed or self.fixed, around))
        if len(sums) != self.rows.count:
            raise SharpError(
                f"task '{self.network.task.name}': the loss gives one sum for a batch, so "
                "there is no error from sampling",
                "return the sum and the weight of each example, shape (N,)",
            )
        return sums, weights

    def _loss(self, theta: Tensor) -> float:
        self.evaluations += 1
        parameters = self.network.unflatten(theta)
        total, weight = _zero(theta), _zero(theta)
        with torch.no_grad():
            for batch, count in self.batches():
                part, part_weight = self.sum_and_weight(parameters, batch, count)
                total, weight = total + part, weight + part_weight
        total, weight = self.add_up(torch.stack([total, weight]))
        return _mean(total, weight)

    def _losses(self, thetas: Tensor) -> Tensor:
        total = torch.zeros(2, len(thetas), dtype=accumulator(thetas.device), device=thetas.device)
        with torch.no_grad(), warnings.catch_warnings():
            # Whether vmap batches an operation by a loop is its own affair.
            warnings.filterwarnings("ignore", message=".*performance drop")
            for batch, count in self.batches():

                def sums(theta: Tensor, batch: Batch = batch, count: int = count) -> Tensor:
                    parameters = self.network.unflatten(theta)
                    return torch.stack(self.sum_and_weight(parameters, batch, count))

                total += torch.vmap(sums, out_dims=1)(thetas)
        self.add_up(total)
        return total[0] / total[1]

    def _gradient(self, theta: Tensor, power: float) -> tuple[float, Tensor]:
        self.evaluations += 1
        leaves = self.leaves(theta)
        flat = torch.zeros_like(theta)
        accumulate_into(leaves, self.network.unflatten(flat))
        total, weight = _zero(theta), _zero(theta)
        for batch, count in self.batches():
            part, part_weight = self.differentiable_sum(leaves, batch, count, power)
            torch.autograd.backward(part, inputs=leaves)
            total, weight = total + part.detach(), weight + part_weight
        self.add_up(flat)
        total, weight = self.add_up(torch.stack([total, weight]))
        return _mean(total, weight), flat.div_(weight.to(flat.dtype))

    def _moments(
        self,
        theta: Tensor,
        fixed: Mapping[str, Tensor],
        around: Around,
        parts: Sequence[int] | None,
    ) -> tuple[list[str], Tensor]:
        self.evaluations += 1
        start, _ = self.share
        parameters = self.network.unflatten(theta)
        names: list[str] = []
        total = torch.zeros((), dtype=accumulator(theta.device), device=theta.device)
        with torch.no_grad(), self.network.arithmetic():
            for batch, count in self.batches():
                with around(start, count):
                    own = None if parts is None else _overlaps(parts, start, count)
                    names, part = batch_moments(
                        *(self.network, parameters, fixed, batch, count),
                        squares=self.rows.sampled,
                        parts=own,
                    )
                total, start = total + part, start + count
        return names, self.add_up(total)

    def _pairs(
        self, theta: Tensor, fixed: Mapping[str, Tensor], around: Around
    ) -> tuple[Tensor, Tensor]:
        parameters, kind = self.network.unflatten(theta), accumulator(theta.device)
        found, start = [], self.share[0]
        with torch.no_grad(), self.network.arithmetic():
            for batch, count in self.batches():
                with around(start, count):
                    outputs = self.network.outputs(parameters, fixed, batch)
                    total, weight = self.network.losses(outputs, batch, count)
                start += count
                found.append((total.to(kind).reshape(-1), weight.to(kind).reshape(-1)))
        sums, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
        first, last = self.share
        if len(sums) != last - first:
            return sums, weights
        if not self.divided:
            return self.in_order(sums), self.in_order(weights)
        whole = torch.zeros(2, self.rows.count, dtype=kind, device=theta.device)
        whole[:, first:last] = torch.stack([sums, weights])
        sums, weights = self.add_up(whole)
        return self.in_order(sums), self.in_order(weights)

    def within_memory(self, work: Callable[[], T]) -> T:
        """Run `work` in exact arithmetic, backward passes included.

        Out of memory, the batch is halved until the work fits.

        Raises:
            SharpError: if it does not fit in the smallest batches.
            RuntimeError: if `work` fails for another reason.
        """
        while True:
            batch_size = self.batch_size
            try:
                with self.network.arithmetic():
                    return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if not self.halve_batches():
                    free = readable_size(available_memory(self.network.device))
                    raise SharpError(
                        f"out of memory on {self.network.device} with batches of {batch_size} "
                        f"({counted(self.size, 'parameter')}, {free} free): "
                        f"{str(error).splitlines()[0]}",
                        f"use {setting('device', 'cpu')}, {setting('samples')}, or a machine with "
                        "more memory",
                    ) from error


def accumulate_into(leaves: list[Tensor], views: list[Tensor]) -> None:
    """Make the next backward passes add each leaf's gradient to its view of a flat vector."""
    for leaf, view in zip(leaves, views, strict=True):
        leaf.grad = view


def check_gradient(loss: Tensor, hint: str) -> None:
    """Raise `SharpError` if a loss has no gradient; `hint` ends the sentence on what to do."""
    if not loss.requires_grad:
        raise SharpError(
            "the loss has no gradient: nothing differentiable leads from the parameters to it",
            f"take detach(), item(), argmax and comparisons out of predict() and loss(), {hint}",
        )


def _overlaps(parts: Sequence[int], start: int, count: int) -> list[int]:
    """How many of the `count` rows from `start` on belong to each of the parts."""
    ends = list(itertools.accumulate(parts))
    return [
        max(0, min(end, start + count) - max(end - part, start))
        for part, end in zip(parts, ends, strict=True)
    ]


def _zero(theta: Tensor) -> Tensor:
    return torch.zeros((), dtype=accumulator(theta.device), device=theta.device)


def _mean(total: Tensor, weight: Tensor) -> float:
    if float(weight) == 0.0:
        raise SharpError(
            "the loss has no weight: every target of the data is ignored",
            "check the targets that data() gives, and what loss() leaves out",
        )
    return float(total / weight)
