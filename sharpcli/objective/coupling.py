"""Whether an example's loss is its own: the losses of a batch against those of its parts.

How the data are split into batches must not change the answer. It does where the loss of an example
looks at the other examples of its batch. A few examples show it: all as one batch, then the same
ones shuffled and in parts. Where a threshold that the batch sets touches few of them, more are
looked at.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sharpcli.errors import SharpError, counted, setting
from sharpcli.objective.network import Network, sums_and_weights
from sharpcli.objective.objective import Objective, accumulator
from sharpcli.objective.rows import Rows
from sharpcli.runtime.memory import available_memory, is_out_of_memory

__all__ = ["batch_note", "batches_of", "check_coupling", "coupling_named"]

# Examples that are compared, at most.
_EXAMPLES = 64
# Parts that they are compared in, beside two parts.
_PARTS = 8
# Few of them may lie beyond a threshold that a batch sets: the losses of so many more, a quarter of
# the data but the first number, are compared in batches as large as they are measured in and small.
_LEAST, _MANY, _SHARE, _SMALL = 256, 4096, 4, 16
# All examples are tried as one batch, where some fail, if they are at most so many.
_MOST_WHOLE = 10_000
# So many of the rows that a task's own collate pads are also taken one by one.
_ALONE = 4
# The part of the free memory that θ in float64 and two copies of it may take.
_MEMORY_SHARE = 4
# What the order of sums may change, by the coarsest arithmetic that the forward pass was seen to
# use: a share of the largest loss, and so many times what a change of θ in its last place makes of
# the losses. Couplings change them by 1e-3 and more.
_ROUNDING = {
    torch.float64: (1e-11, 256),
    torch.float32: (3e-5, 64),
    torch.float16: (0.02, 2),
    torch.bfloat16: (0.05, 2),
}
# Losses near zero show no coupling: they are also compared where the entries of θ are moved by this
# share of their tensor's root mean square, or of a hundredth where that is less.
_MOVED, _AT_LEAST = 0.1, 0.01
# Normal numbers by which θ is moved, over and over: one for each entry takes longer than the
# passes. A prime, so that rows of a matrix are moved differently.
_DRAWN = 4099
# Functions of PyTorch that round nothing, unless they give a coarser type than they are given.
_COPYING = {
    *("as_tensor", "tensor", "detach", "clone", "contiguous", "to", "type", "float", "__get__"),
    *("view", "reshape", "expand", "squeeze", "unsqueeze", "flatten", "cat", "stack"),
}
_LOSS = "loss"
_CAUSES = (
    "usual causes: negatives taken from the batch (contrastive losses); a broadcast such as "
    "(N, 1) − (N,), which makes (N, N); statistics of the batch (normalisation over examples, "
    "batch norm without running statistics)"
)
_PADDING = "padding, to the longest of a batch, that the model or the loss sees (mask it)"

_Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""The loss and the metrics of a batch: float64 sums and weights, (N,) or one number each."""


@dataclass(frozen=True)
class _Apart:
    """How far a number is from what it is among all examples, where only `count` are in its batch.

    `single`: of one example, and not the sum over all of them.
    """

    whole: float
    part: float
    count: int
    single: bool

    @property
    def size(self) -> float:
        return math.inf if math.isnan(self.part) else abs(self.whole - self.part)


def check_coupling(objectives: Mapping[str, Objective], theta: Tensor, *, seed: int = 0) -> None:
    """Raise `SharpError` where the loss or a metric of an example depends on its batch.

    For each split, some examples as one batch are compared with the same ones shuffled, in two
    parts and in eight, in float64 where the model has it, at θ (n,) and near it. Where a loss gives
    one sum and one weight for a batch, those of the parts have to add up. Of more examples the
    losses in large batches are compared with those in small ones. Nothing is checked where the
    objective has a fixed batch. Cost: forward passes over up to 450 examples a split, and half a
    pass at most.
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
        _check_rows(objective, theta, some, split, generator)
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
    """Where the block fails since only all examples make a batch that works, say that.

    So it is with an adjacency matrix, whose rows are as long as the data. Raises `SharpError`.
    """
    try:
        yield
    except Exception as error:
        count = objective.rows.count
        whole = objective.fixed_batch is None and 1 < count <= _MOST_WHOLE
        if _out_of_memory(error) or not whole:
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
    except Exception:  # the caller's own failure says what is wrong
        return False
    return True


def batches_of(rows: Mapping[str, Rows], mode: str) -> dict[str, Any]:
    """What a document says of the batches that a loss is defined on: examples in one, by split.

    Empty where each example's loss is its own.
    """
    sizes = {name: _fixed_batch(each, mode) for name, each in rows.items()}
    return {"fixed_batch": sizes} if sizes and None not in sizes.values() else {}


def batch_note(rows: Mapping[str, Rows], mode: str) -> list[str]:
    """The same for a person, one line; none where each example's loss is its own."""
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
        "batches it is another loss"
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
) -> None:
    """Compare some rows as one batch with the same rows in two parts and eight, or of `size`.

    `padded` ones also one by one.
    """
    try:
        here = _in_float64(objective, theta, rows)
    except Exception as error:  # of the task's own functions
        if padded and not _out_of_memory(error):
            return  # a model of one width: it takes no batch but one padded like all of the data
        raise
    order = torch.randperm(rows.count, generator=generator)
    first = max(1, rows.count // 3)
    eighth = max(2, rows.count // _PARTS)
    partitions = [[order[:first], order[first:]], list(torch.split(order, eighth))]
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
    try:
        there = here.values(moved, rows)
    except Exception as error:  # such as a matrix that is singular only there
        if _out_of_memory(error):
            raise
    else:
        places.append((there, _differences(here, moved, there, batches, split)))
    share, times = _ROUNDING[here.coarsest]
    for name, pair in here.whole.items():
        for which in range(2):  # sums, weights
            scale = max(_largest(whole[name][which]) for whole, _ in places)
            rounding = share * scale + times * _largest(near[name][which] - pair[which])
            largest = [found[name][which] for _, found in places]
            above = [apart for apart in largest if apart.size > rounding]
            # A metric may jump where two outputs are equal but for rounding: not at both places.
            if above and (name == _LOSS or len(above) == len(largest)):
                what = f"{'weight of the ' if which else ''}{name}"
                task = objective.network.task.name
                raise _coupled(task, what, above[0], rows.count, split, padded=padded)


def _check_many(
    objective: Objective,
    theta: Tensor,
    indices: Tensor,
    most: int,
    split: str,
    generator: torch.Generator,
) -> None:
    """Compare losses in batches of up to `most` rows with those in small ones, in one pass each.

    The batch that differs most, beyond rounding, is then looked at as `_check_rows` does.
    """
    size = min(_SMALL, objective.most_at_once)
    size = size if size > 1 else _SMALL
    worst, apart = None, 0.0
    for whole in torch.split(indices, most - most % size):
        whole = whole[: len(whole) - len(whole) % size]  # a batch of one is no batch to many
        if len(whole) <= size:
            break
        own = _losses(objective, theta, whole)
        small = [_losses(objective, theta, part) for part in torch.split(whole, size)]
        for which, numbers in enumerate(own):  # sums, weights
            part = torch.cat([each[which].reshape(-1) for each in small])
            off = _most(_compared(numbers, [(torch.arange(len(whole)), part)], complete=True)).size
            share = _ROUNDING[objective.network.compute][0]
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


@dataclass(frozen=True)
class _Function:
    """Loss and metrics of a batch as a function of θ, and what they are at the checkpoint's.

    `coarsest` is the coarsest floating-point type that a forward pass was seen to use.
    """

    network: Network
    fixed: Mapping[str, Tensor]
    theta: Tensor
    whole: _Pairs
    coarsest: torch.dtype

    def values(self, theta: Tensor, rows: Rows) -> _Pairs:
        """Loss and metrics of the rows as one batch at θ. Cost: a forward pass over them."""
        return _values(self.network, self.fixed, theta, rows)

    def moved(self, moves: Tensor) -> Tensor:
        """θ moved by `moves` (n,), in units of a share of each tensor's root mean square."""
        moved = self.theta.clone()
        for own, move in zip(
            self.network.unflatten(moved), self.network.unflatten(moves), strict=True
        ):
            size = float(own.norm()) / math.sqrt(max(own.numel(), 1))
            own.add_(move, alpha=_MOVED * max(size, _AT_LEAST))
        return moved


def _in_float64(objective: Objective, theta: Tensor, rows: Rows) -> _Function:
    """The objective's function in float64, or in its own arithmetic where there is no float64."""
    network, fixed = objective.network, objective.fixed
    wide = torch.float64
    free = available_memory(network.device)
    free = free if objective.memory is None else min(free, objective.memory)
    fits = 3 * theta.numel() * wide.itemsize <= free / _MEMORY_SHARE
    if network.compute != wide and network.device.type != "mps" and fits:
        double = network.in_precision(wide)
        try:
            return _watched(double, double.converted(fixed), theta.to(wide), rows)
        except Exception as error:  # such as a kernel for float32; another cause shows again below
            if _out_of_memory(error):
                raise
    return _watched(network, fixed, theta, rows)


def _watched(network: Network, fixed: Mapping[str, Tensor], theta: Tensor, rows: Rows) -> _Function:
    with _PrecisionWatch(network.compute) as watch:
        whole = _values(network, fixed, theta, rows)
    return _Function(network, fixed, theta, whole, watch.coarsest)


class _PrecisionWatch(TorchFunctionMode):
    """Sees the coarsest floating-point type that is computed in from other floats in the block.

    Numbers made anew, flags and counts turned into floats, and copies of these are exact.
    """

    def __init__(self, coarsest: torch.dtype) -> None:
        super().__init__()
        self.coarsest = coarsest

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        given = [each for each in args if isinstance(each, Tensor) and each.is_floating_point()]
        if isinstance(found, Tensor) and found.dtype in _ROUNDING and given:
            step = torch.finfo(found.dtype).eps
            narrowed = any(torch.finfo(each.dtype).eps < step for each in given)
            copied = getattr(function, "__name__", "") in _COPYING and not narrowed
            if step > torch.finfo(self.coarsest).eps and not copied:
                self.coarsest = found.dtype
        return found


def _values(network: Network, fixed: Mapping[str, Tensor], theta: Tensor, rows: Rows) -> _Pairs:
    """Loss and metrics of the rows as one batch at θ. Cost: a forward pass over them."""
    task, kind = network.task, accumulator(network.device)
    batch = rows.to(network.device, network.compute).batch
    with torch.no_grad(), network.arithmetic():
        outputs = network.outputs(network.unflatten(theta), fixed, batch)
        pairs = {_LOSS: network.losses(outputs, batch, rows.count)}
        for name, value in (task.metrics(outputs, batch) if task.metrics else {}).items():
            source = f"{task.name}: metric '{name}'"
            pairs[f"metric '{name}'"] = sums_and_weights(value, rows.count, source)
    return {name: (s.to(kind), w.to(kind)) for name, (s, w) in pairs.items()}


def _differences(
    function: _Function,
    theta: Tensor,
    whole: _Pairs,
    partitions: Sequence[Sequence[tuple[Tensor, Rows]]],
    split: str,
) -> dict[str, tuple[_Apart, _Apart]]:
    """For the loss and each metric how far parts are from the whole, at most: sums and weights.

    Raises `SharpError` where the whole can be computed, and a part of two examples or more cannot.
    """
    count = sum(len(indices) for indices, _ in partitions[0])
    found: dict[str, tuple[list[_Apart], list[_Apart]]] = {name: ([], []) for name in whole}
    for partition in partitions:
        parts = []
        for indices, rows in partition:
            try:
                parts.append((indices, function.values(theta, rows)))
            except Exception as error:
                if _out_of_memory(error):
                    raise
                if len(indices) == 1:
                    continue  # many models take no batch of one, and say so where they get it
                raise SharpError(
                    f"{function.network.task.name}: the loss of "
                    f"{counted(count, f'{split} example')} can be "
                    f"computed as one batch, that of {len(indices)} of them cannot: {_said(error)}",
                    f"{_CAUSES}; {_declare()}",
                ) from error
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
            f"{split} data it is {apart.whole:.9g} among {count} and {apart.part:.9g} among "
            f"{apart.count} of these"
            if apart.count > 1
            else f"the {what} of an example depends on its batch: for one of the {split} data it "
            f"is {apart.whole:.9g} among {count} and {apart.part:.9g} alone"
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
    """The whole's number and that of each part: the one that is farthest off, or the sum's."""
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


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and is_out_of_memory(error)


def _said(error: Exception) -> str:
    return error.message if isinstance(error, SharpError) else f"{type(error).__name__}: {error}"


def _largest(values: Tensor) -> float:
    """The largest finite magnitude."""
    finite = values[values.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
