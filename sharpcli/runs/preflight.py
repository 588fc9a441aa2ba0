"""Checks before anything is measured: the network is the model, and can be differentiated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sharpcli.curvature import SelfCheck, in_float64, self_check, unvouched_operations
from sharpcli.errors import SharpError, setting
from sharpcli.objective.checks import check_deterministic
from sharpcli.objective.coupling import check_coupling, coupling_named
from sharpcli.objective.fidelity import check_likeness
from sharpcli.objective.objective import Objective
from sharpcli.objective.passes import check_pass, some_rows
from sharpcli.objective.rows import Rows
from sharpcli.objective.slope import check_slope
from sharpcli.runs.study import Loaded, Study
from sharpcli.runtime.memory import readable_size
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.tasks.notes import collected

__all__ = [
    "check_block",
    "check_curvature",
    "check_fidelity",
    "check_model",
    "check_reach",
    "ready",
]

# Number of examples, spread over the data, on which second derivatives are checked in float64: few
# if PyTorch vouches for all operations, since every layer sees them. Otherwise a fault may show on
# any example, and the check takes a tenth of the cost of finding eigenvalues.
_EXAMPLES, _MOST_EXAMPLES = 32, 4096
# Up to this many examples a second direction is affordable.
_TWICE = 512
# Examples of the forward pass that records the calls of the model and the loss.
_WATCHED_EXAMPLES = 16
_WITH_CLASS_WEIGHTS = {"cross_entropy", "nll_loss"}
_ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
_NO_FLOAT64 = (
    "second derivatives were checked in float32 only, in which the model runs: gross faults show"
)
_NEARBY = (
    "second derivatives were checked beside this point, not at it: there differences of gradients "
    "change with their step or side, since the gradient jumps (a ReLU at exactly 0, where "
    "PyTorch's convention holds) or is rounding"
)
_ATTENTION_NOTE = (
    "attention is computed by PyTorch's math kernel: its fused ones have no second derivative"
)
_WEIGHTS_NOTE = (
    "loss() weighs classes, and the objective is the mean of its values over the examples; "
    "nn.CrossEntropyLoss(weight=w) divides by the sum of the weights instead: for that let loss() "
    "return the pair (losses, w[targets])"
)


def ready(
    loaded: Loaded,
    curvature: CurvatureSettings,
    warnings: list[str],
    *,
    check: bool = True,
    gradients: bool = True,
) -> dict[str, Objective]:
    """Check a checkpoint's model before it is measured, and free the checkpoint's tensors.

    Args:
        loaded: The checkpoint in its task's terms.
        curvature: The matrix and the products that are checked.
        warnings: Receives warnings for the user.
        check: Check second derivatives, at each checkpoint.
        gradients: Check first derivatives, once for a study.

    Returns:
        The objective of each split.

    A `SharpError` says that two evaluations differ, or that the network is not the task's model.
    """
    study = loaded.study
    objectives = study.objectives(loaded.match.tensors)
    for objective in objectives.values():
        objective.memory = memory_beside(study, curvature.memory, warnings)
    check_model(loaded, objectives, warnings, gradients=gradients, second_derivatives=check)
    if check:
        study.checked = check_curvature(study, loaded.match.tensors, warnings, curvature)
    loaded.forget()
    return objectives


def memory_beside(study: Study, memory: int | None, warnings: list[str]) -> int | None:
    """The bytes of a limit that the data leave, at least half of them; None without a limit."""
    if memory is None:
        return None
    held, least = study.data_bytes, memory // 2
    if held > least:
        said = (
            f"data() itself holds {readable_size(held)} in memory, so that "
            f"{setting('memory', memory)} cannot be kept: read rows from files in a data set, or "
            "map the arrays, as np.load(…, mmap_mode='r') does"
        )
        if said not in warnings:
            warnings.append(said)
    return max(memory - held, least)


def check_model(
    loaded: Loaded,
    objectives: Mapping[str, Objective],
    warnings: list[str],
    *,
    gradients: bool = False,
    second_derivatives: bool = False,
) -> None:
    """Check that the loss is a function of θ, and that of the task's model; else `SharpError`.

    Args:
        loaded: The checkpoint in its task's terms.
        objectives: The objective of each split.
        warnings: Receives warnings for the user.
        gradients: Check first derivatives too.
        second_derivatives: Whether the run takes second derivatives. Attention then runs on another
            kernel, which is noted.
    """
    study, tensors, theta = loaded.study, loaded.match.tensors, loaded.theta
    looked_at = objectives[study.split]
    with coupling_named(looked_at, theta):
        check_reach(study, tensors)
        check_deterministic(looked_at, theta)
    check_coupling(objectives, theta, seed=study.run.seed, again=study.uncoupled)
    study.uncoupled = True
    _note_calls(study, tensors, second_derivatives=second_derivatives)
    check_fidelity(study, tensors, warnings, gradients=gradients)


def check_reach(study: Study, tensors: Mapping[str, Tensor]) -> None:
    """Raise `SharpError` if a forward pass uses state outside checkpoints, or changes parameters.

    Runs once for a study, before `check_fidelity`.

    Cost: a forward pass on eight rows.
    """
    if study.original is not None:
        check_pass(study.network, study.original, tensors, _some(study))


def check_fidelity(
    study: Study, tensors: Mapping[str, Tensor], warnings: list[str], *, gradients: bool = True
) -> None:
    """Raise `SharpError`, naming parameters, if the functional network is not the task's model.

    The model is loaded at a point near the checkpoint's `tensors`. Its outputs, losses and (with
    `gradients`) gradients on a few random rows must equal those of the functional network, whose
    gradient must be the slope of its loss. Runs until a checkpoint of the study passes, which then
    drops the original.

    Cost: a few gradients on eight rows, and temporary memory for four copies of θ.
    """
    original = study.original
    if original is None:
        return
    rows = _some(study)
    check_likeness(study.network, original, tensors, rows, study.run.seed, warnings, gradients)
    if gradients:
        check_slope(study.network, tensors, rows, study.run.seed)
    study.original = None


def _some(study: Study) -> Rows:
    """A few random rows of the measured data."""
    return some_rows(study.rows[study.split], study.run.seed)


def check_curvature(
    study: Study,
    tensors: Mapping[str, Tensor],
    warnings: list[str],
    curvature: CurvatureSettings | None = None,
) -> SelfCheck | None:
    """Check in float64, on a few examples, the derivatives that products are made of.

    If the model has operations that PyTorch does not vouch for, thousands of examples are checked.

    Cost: one gradient on 4,000 examples for an MLP of PyTorch's own operations, otherwise about 10.
    """
    network, curvature = study.network, curvature or CurvatureSettings()
    if network.device.type == "mps":
        warnings.append("second derivatives were not checked: this device has no float64")
        return None
    theta, fixed = network.flatten(tensors), network.fixed(tensors)
    # Alone, since every process has to see the operations of all rows.
    whole = Objective(
        network, study.rows[study.split], fixed, batch_size=study.run.batch_size, alone=True
    )
    whole.memory = curvature.memory
    try:
        unvouched = unvouched_operations(whole, theta)
        return _checked(whole, theta, unvouched, curvature, study.run.seed, warnings)
    except SharpError as error:
        warnings.append(f"second derivatives were not checked in float64: {error.message}")
        return None


def check_block(
    whole: SelfCheck,
    objective: Objective,
    theta: Tensor,
    curvature: CurvatureSettings,
    seed: int,
    warnings: list[str],
) -> SelfCheck:
    """Check the derivatives along one block of the parameters, after those of the whole model.

    In a block of small curvature, errors are lost among those of all parameters.
    """
    checked = _checked(objective, theta, whole.unvouched, curvature, seed, warnings)
    return replace(checked, convex=whole.convex)


def _checked(
    objective: Objective,
    theta: Tensor,
    unvouched: Sequence[str],
    curvature: CurvatureSettings,
    seed: int,
    warnings: list[str],
) -> SelfCheck:
    """Check an objective on a few of its rows; on thousands if operations are not vouched for."""
    rows = _spread_rows(objective.rows, _MOST_EXAMPLES if unvouched else _EXAMPLES, seed)
    double, theta = in_float64(objective, theta, rows)
    if theta.dtype != torch.float64:
        warnings.append(_NO_FLOAT64)
    checked = self_check(
        double,
        theta,
        operator=curvature.operator,
        mode=curvature.hvp,
        seed=seed,
        directions=2 if rows.count <= _TWICE else 1,
        beside=not unvouched,  # a branch may use such an operation at θ only
    )
    if checked.nearby:
        warnings.append(_NEARBY)
    return replace(checked, unvouched=tuple(unvouched))


def _spread_rows(rows: Rows, count: int, seed: int) -> Rows:
    """A random row from each of `count` equal stretches of the data, which may be sorted."""
    if count >= rows.count:
        return rows
    generator = torch.Generator().manual_seed(seed)
    edges = torch.linspace(0, rows.count, count + 1, dtype=torch.float64)
    places = edges[:-1] + torch.rand(count, generator=generator, dtype=torch.float64) * edges.diff()
    return rows.take(places.long())


def _note_calls(
    study: Study, tensors: Mapping[str, Tensor], *, second_derivatives: bool = False
) -> None:
    """Add notes to the study on calls of the model and the loss that change a number's meaning.

    These are class weights, and fused attention if `second_derivatives` are taken.

    Cost: a forward pass on 16 rows.
    """
    network = study.network
    rows = study.rows[study.split].head(_WATCHED_EXAMPLES)
    objective = Objective(network, rows, network.fixed(tensors), batch_size=rows.count)
    parameters = network.unflatten(network.flatten(tensors))
    said: list[str] = []
    with torch.no_grad(), collected(said), _CallWatch() as watch:
        _, weight = objective.sum_and_weight(parameters, rows.batch, rows.count)
    notes = [*said, _ATTENTION_NOTE] if watch.attention and second_derivatives else said
    if watch.class_weights and float(weight) == rows.count:
        notes.append(_WEIGHTS_NOTE)
    study.notes += [note for note in notes if note not in study.notes]


class _CallWatch(TorchFunctionMode):
    """Records calls inside the block.

    `attention` is true after PyTorch's fused attention, `class_weights` after a cross-entropy of
    each example with class weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention = self.class_weights = False

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Look at the function's name and arguments, and run it."""
        name, given = getattr(function, "__name__", ""), kwargs or {}
        self.attention |= name in _ATTENTION
        if name in _WITH_CLASS_WEIGHTS and given.get("reduction") == "none":
            weight = given.get("weight", args[2] if len(args) > 2 else None)
            self.class_weights |= weight is not None
        return function(*args, **given)
