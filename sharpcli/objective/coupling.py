"""Check that each example's loss is its own, by comparing a batch's losses with its parts'.

The split of the data into batches must not change the result. It does if an example's loss depends
on the other examples of its batch. A few examples show it: as one batch, then shuffled and in
parts. A threshold set by the batch may affect only a few of them, so more are checked.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from sharpcli.errors import SharpError, counted, setting
from sharpcli.objective.arithmetic import accumulator
from sharpcli.objective.batch_values import LOSS, ROUNDING, BatchValues, Pairs, values_in_float64
from sharpcli.objective.objective import Objective
from sharpcli.objective.rows import Rows
from sharpcli.runtime.memory import is_out_of_memory

__all__ = ["batch_note", "batches_of", "check_coupling", "coupling_named"]

T = TypeVar("T")

# The most examples to compare.
_EXAMPLES = 64
# Parts in the second comparison; the first has two.
_PARTS = 8
# Only a few examples may lie beyond a threshold set by the batch. So a quarter of the data, between
# the first two numbers, is compared in batches as large as in the measurement and in small ones.
_LEAST, _MANY, _SHARE, _SMALL = 256, 4096, 4, 16
# If some examples fail as a batch, all are tried as one batch up to this number.
_MOST_WHOLE = 10_000
# Rows padded by a task's own collate that are also compared one by one.
_ALONE = 4
# Normal numbers, repeated, by which θ is moved: one for each entry takes longer than the passes. A
# prime, so that rows of a matrix move differently.
_DRAWN = 4099
_CAUSES = (
    "usual causes: negatives taken from the batch (contrastive losses); a broadcast such as "
    "(N, 1) − (N,), which makes (N, N); statistics of the batch (normalisation over examples, "
    "batch norm without running statistics)"
)
_PADDING = "padding, to the longest of a batch, that the model or the loss sees (mask it)"


@dataclass(frozen=True)
class _Apart:
    """A number computed among all examples, and in a part with only `count` of them.

    `single` if it belongs to one example and is not the sum over all of them.
    """

    whole: float
    part: float
    count: int
    single: bool

    @property
    def size(self) -> float:
        return math.inf if math.isnan(self.part) else abs(self.whole - self.part)


def check_coupling(
    objectives: Mapping[str, Objective], theta: Tensor, *, seed: int = 0, again: bool = False
) -> None:
    """Raise `SharpError` if the loss or a metric of an example depends on its batch.

    For each split, some examples as one batch are compared with the same ones shuffled, in two
    parts and in eight, at θ (n,) and near it, in float64 if the model supports it. If a loss
    returns one sum and one weight for a batch, those of the parts have to add up. For more
    examples, losses in large batches are compared with those in small ones. Nothing is checked if
    the objective has a fixed batch.

    Whether losses are coupled depends on the model's and the task's code, hardly on the weights.
    So with `again`, where this objective has passed the check at another θ, some examples as one
    batch are compared with the same ones in two parts, at θ alone.

    Cost: forward passes over up to 450 examples a split, and at most half a pass; over up to 256
    examples with `again`.
    """
    for split, objective in objectives.items():
        rows, count = objective.rows, objective.rows.count
        if objective.fixed_batch is not None or count < 2:
            continue
        fitting = max(objective.most_at_once, objective.most_in_memory)
        most = max(2, min(_EXAMPLES, fitting, count))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(count, generator=generator)
        some = rows.take(order[:most])
        _check_rows(objective, theta, some, split, generator, again=again)
        if again:
            continue
        many = min(_MANY, max(_LEAST, count // _SHARE), count)
        if many > most and fitting > _SMALL:
            _check_many(objective, theta, order[:many], fitting, split, generator)
        if rows.padded is not None and rows.padded.count > 1:
            _check_rows(objective, theta, rows.padded, split, generator, padded=True)


def _declare() -> str:
    return (
        "make each example's loss its own, or declare the batch that the loss is defined on, such "
        f"as {setting('fixed_batch', 32)}"
    )


@contextlib.contextmanager
def coupling_named(objective: Objective, theta: Tensor) -> Iterator[None]:
    """Explain a failure in the block that occurs because only the full data works as a batch.

    An example is an adjacency matrix, whose rows are as long as the data.

    Raises:
        SharpError: in that case, in place of the original error.
    """
    try:
        yield
    except Exception as error:
        count = objective.rows.count
        whole = objective.fixed_batch is None and 1 < count <= _MOST_WHOLE
        if is_out_of_memory(error) or not whole:
            raise
        if _works(objective, theta, min(_EXAMPLES, count - 1)):
            raise
        if not _works(objective, theta, count):
            raise
        raise SharpError(
            f"{objective.network.task.name}: the loss of all {counted(count, 'example')} "
            f"can be computed as "
            f"one batch, that of some of them cannot: {_said(error)}",
            f"{_CAUSES}; make each example's loss its own, or declare the batch that the loss is "
            f"defined on: {setting('fixed_batch', count)}",
        ) from error


def _works(objective: Objective, theta: Tensor, count: int) -> bool:
    rows = objective.rows.head(count)
    try:
        with torch.no_grad():
            parameters = objective.network.unflatten(theta)
            objective.sum_and_weight(parameters, rows.batch, rows.count)
    except Exception:  # the caller's own failure explains itself
        return False
    return True


def batches_of(rows: Mapping[str, Rows], mode: str) -> dict[str, Any]:
    """The batches on which a loss is defined, for a document: examples in a batch, by split.

    Empty if each example's loss is its own.
    """
    sizes = {name: _fixed_batch(each, mode) for name, each in rows.items()}
    return {"fixed_batch": sizes} if sizes and None not in sizes.values() else {}


def batch_note(rows: Mapping[str, Rows], mode: str) -> list[str]:
    """The same in one line for a person; none if each example's loss is its own."""
    parts = []
    for name, each in rows.items():
        size = _fixed_batch(each, mode)
        if size is None:
            return []
        rest = each.count % size
        last = f", the last of {rest}" if rest else ""
        parts.append(f"all {size} {name}" if size == each.count else f"{size} {name}{last}")
    declared = any(each.fixed_batch for each in rows.values())
    why = setting("fixed_batch") if declared else setting("mode", "train")
    return [
        f"{why}: the loss is defined on batches of {' and '.join(parts)} examples; with other "
        "batches the loss is a different one"
    ]


def _fixed_batch(rows: Rows, mode: str) -> int | None:
    if rows.fixed_batch is not None:
        return min(rows.fixed_batch, rows.count)
    return rows.count if mode == "train" else None


def _check_rows(
    objective: Objective,
    theta: Tensor,
    rows: Rows,
    split: str,
    generator: torch.Generator,
    *,
    padded: bool = False,
    size: int | None = None,
    again: bool = False,
) -> None:
    """Compare rows as one batch with parts: two and eight, or `size` rows; `padded` also alone."""
    here = _tried(values_in_float64, objective, theta, rows)
    if isinstance(here, Exception):
        if padded:
            return  # the model takes one width only, so it needs batches padded like the full data
        raise here
    order = torch.randperm(rows.count, generator=generator)
    first = max(1, rows.count // 3)
    eighth = max(2, rows.count // _PARTS)
    partitions = [[order[:first], order[first:]], list(torch.split(order, eighth))]
    if again:  # these parts, at θ, show every usual cause
        partitions = partitions[:1]
    if size is not None:
        partitions = [list(torch.split(torch.arange(rows.count), size))]
    if padded:
        alone = min(_ALONE, rows.count - 1)
        partitions.append([*torch.split(order[:alone], 1), order[alone:]])
    batches = [[(each, rows.take(each)) for each in partition] for partition in partitions]
    drawn = torch.randn(_DRAWN, generator=generator, dtype=here.theta.dtype)
    size = len(here.theta)
    moves = drawn.to(here.theta.device).repeat(-(-size // _DRAWN))[:size]
    near = here.values(here.theta * (1 + torch.finfo(here.coarsest).eps * moves), rows)
    places = [(here.whole, _differences(here, here.theta, here.whole, batches, split))]
    moved = here.moved(moves)
    values = None if again else _tried(here.values, moved, rows)
    if values is not None and not isinstance(values, Exception):  # a matrix may be singular there
        places.append((values, _differences(here, moved, values, batches, split)))
    share, times = ROUNDING[here.coarsest]
    for name, pair in here.whole.items():
        for which in range(2):  # sums, weights
            scale = max(_largest(whole[name][which]) for whole, _ in places)
            rounding = share * scale + times * _largest(near[name][which] - pair[which])
            largest = [found[name][which] for _, found in places]
            above = [apart for apart in largest if apart.size > rounding]
            # A metric may jump where two outputs are equal up to rounding, but not at both places.
            if above and (name == LOSS or len(above) == len(largest)):
                what = f"{'weight of the ' if which else ''}{name}"
                task = objective.network.task.name
                seen = padded or not objective.rows.sliceable  # batches differ in their padding
                raise _coupled(task, what, above[0], rows.count, split, padded=seen)


def _check_many(
    objective: Objective,
    theta: Tensor,
    indices: Tensor,
    most: int,
    split: str,
    generator: torch.Generator,
) -> None:
    """Compare losses in batches of up to `most` rows with those in small ones, in one pass each.

    The batch with the largest difference beyond rounding then goes through `_check_rows`.
    """
    size = min(_SMALL, objective.most_at_once)
    size = size if size > 1 else _SMALL
    worst, apart = None, 0.0
    for whole in torch.split(indices, most - most % size):
        whole = whole[: len(whole) - len(whole) % size]  # many models need a batch of two or more
        if len(whole) <= size:
            break
        own = _losses(objective, theta, whole)
        small = [_losses(objective, theta, part) for part in torch.split(whole, size)]
        for which, numbers in enumerate(own):  # sums, weights
            part = torch.cat([each[which].reshape(-1) for each in small])
            off = _most(_compared(numbers, [(torch.arange(len(whole)), part)], complete=True)).size
            share = ROUNDING[objective.network.compute][0]
            off -= share * max(_largest(numbers), _largest(part))
            if off > apart:
                worst, apart = whole, off
    if worst is not None:
        rows = objective.rows.take(worst)
        _check_rows(objective, theta, rows, split, generator, size=size)


def _losses(objective: Objective, theta: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and weights of the losses of some rows as one batch."""
    network, rows = objective.network, objective.rows.take(indices)
    kind = accumulator(network.device)
    with torch.no_grad(), network.arithmetic():
        outputs = network.outputs(network.unflatten(theta), objective.fixed, rows.batch)
        total, weight = network.losses(outputs, rows.batch, rows.count)
    return total.to(kind), weight.to(kind)


def _differences(
    function: BatchValues,
    theta: Tensor,
    whole: Pairs,
    partitions: Sequence[Sequence[tuple[Tensor, Rows]]],
    split: str,
) -> dict[str, tuple[_Apart, _Apart]]:
    """The largest differences of parts from the whole: sums and weights, for loss and metrics."""
    count = sum(len(indices) for indices, _ in partitions[0])
    found: dict[str, tuple[list[_Apart], list[_Apart]]] = {name: ([], []) for name in whole}
    for partition in partitions:
        parts = []
        for indices, rows in partition:
            values = _tried(function.values, theta, rows)
            if not isinstance(values, Exception):
                parts.append((indices, values))
            elif len(indices) > 1:  # many models fail on a batch of one, and say so
                raise SharpError(
                    f"{function.objective.network.task.name}: the loss of "
                    f"{counted(count, f'{split} example')} can be "
                    f"computed as one batch, that of {len(indices)} of them cannot: "
                    f"{_said(values)}",
                    f"{_CAUSES}; {_declare()}",
                ) from values
        for name, pair in whole.items():
            for which, own in enumerate(pair):
                several = [(indices, part[name][which]) for indices, part in parts]
                found[name][which].extend(
                    _compared(own, several, complete=len(parts) == len(partition))
                )
    return {name: (_most(sums), _most(weights)) for name, (sums, weights) in found.items()}


def _coupled(
    name: str, what: str, apart: _Apart, count: int, split: str, *, padded: bool
) -> SharpError:
    if apart.single:
        message = (
            f"the {what} of an example depends on the other examples of its batch: for one of the "
            f"{split} data it is {apart.whole:.9g} in a batch of {count} and {apart.part:.9g} in a "
            f"batch of {apart.count} of these"
            if apart.count > 1
            else f"the {what} of an example depends on its batch: for one of the {split} data it "
            f"is {apart.whole:.9g} in a batch of {count} and {apart.part:.9g} alone"
        )
    else:
        message = (
            f"the {what} of a batch is not the sum of those of its parts: "
            f"{counted(count, f'{split} example')} "
            f"give {apart.whole:.9g} as one batch and {apart.part:.9g} in parts"
        )
    causes = f"{_CAUSES}; {_PADDING}" if padded else _CAUSES
    last = _declare()
    if what.endswith("'"):
        last = "give a value of each example that depends on it alone, or leave the metric out"
    return SharpError(f"{name}: {message}", f"{causes}; {last}")


def _compared(
    whole: Tensor, parts: Sequence[tuple[Tensor, Tensor]], *, complete: bool
) -> list[_Apart]:
    """The whole's number and each part's: the pair that differs most, or the pair of sums."""
    if whole.ndim == 0 or any(part.ndim == 0 for _, part in parts):
        total, count = sum(float(part.sum()) for _, part in parts), len(parts[0][0]) if parts else 0
        own = float(whole.sum())
        return [_Apart(own, total, count, single=False)] if complete and math.isfinite(own) else []
    found = []
    for indices, part in parts:
        wanted = whole[indices.to(whole.device)]
        apart = torch.where(wanted.isfinite(), (wanted - part).abs().nan_to_num(math.inf), 0.0)
        most = int(apart.argmax())
        if float(apart[most]) > 0:
            found.append(_Apart(float(wanted[most]), float(part[most]), len(indices), single=True))
    return found


def _most(found: Sequence[_Apart]) -> _Apart:
    return max(found, key=lambda apart: apart.size, default=_Apart(0.0, 0.0, 0, single=True))


def _tried(work: Callable[..., T], *given: Any) -> T | Exception:
    """What `work` returns or the exception it raises, except out of memory."""
    try:
        return work(*given)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return error


def _said(error: Exception) -> str:
    return error.message if isinstance(error, SharpError) else f"{type(error).__name__}: {error}"


def _largest(values: Tensor) -> float:
    """The largest finite magnitude."""
    finite = values[values.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
