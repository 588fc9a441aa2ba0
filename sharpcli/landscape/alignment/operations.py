"""The rule of each torch operation; an operation without a rule pins all its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sharpcli.landscape.alignment import rules
from sharpcli.landscape.alignment.rules import Call, Rule
from sharpcli.landscape.alignment.symbolic_axes import Value, pin, pinned, size, unify

__all__ = ["normalized_inputs", "outputs_of"]


def outputs_of(
    operation: torch._ops.OpOverload, given: Mapping[str, Any], shapes: list[tuple[int, ...]]
) -> tuple[list[Value], bool]:
    """The axes of an operation's outputs, and whether a missing rule pinned any axes.

    `given` has the arguments by name, with traced tensors as their axes, which get unified and
    pinned. `shapes` are the outputs'.
    """
    call = Call(given, shapes)
    rule = _rule(operation)
    empty = any(size(dimension) == 0 for value in call.values() for dimension in value)
    if rule is None or empty:
        moved = [pin(dimension) for value in call.values() for dimension in value]
        return [pinned(shape) for shape in shapes], any(moved)
    found = rule(call)
    if operation._schema.is_mutable and isinstance(found, tuple) and "self" in given:
        _written(found, given["self"])
    return found if isinstance(found, list) else [found for _ in shapes], False


def _written(result: Value, target: Value) -> None:
    """Unify the result of an in-place operation with its target.

    Views share the axes of their base, so this holds for all of them.
    """
    if [size(dimension) for dimension in result] == [size(dimension) for dimension in target]:
        for one, other in zip(result, target, strict=True):
            unify(one, other)


def normalized_inputs(operation: torch._ops.OpOverload) -> tuple[str, ...]:
    """The arguments of a batch norm that are running statistics; none for other operations."""
    return rules.STATISTICS if _rule(operation) is rules.batch_norm else ()


def _rule(operation: torch._ops.OpOverload) -> Rule | None:
    """The rule of an operation; an in-place operation has that of its out-of-place form."""
    name, is_ours, short = operation._schema.name.partition("aten::")
    if torch.Tag.nondeterministic_seeded in operation.tags or name or not is_ours:
        return None
    if operation._schema.is_mutable and short.endswith("_"):
        short = short.removesuffix("_")
        packet = getattr(torch.ops.aten, short, None)
        overload = getattr(packet, operation._overloadname, None)
        tags = overload.tags if overload is not None else []
    else:
        tags = operation.tags
    return rules.pointwise if torch.Tag.pointwise in tags else _RULES.get(short)


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_RULES: dict[str, Rule] = {
    **_named(rules.pointwise, "_prelu_kernel hardswish copy log_sigmoid_forward special_erf"),
    **_named(
        rules.same,
        "_to_copy detach alias clone lift_fresh_copy lift_fresh contiguous _softmax softmax "
        "_log_softmax log_softmax _safe_softmax",
    ),
    **_named(
        rules.fill,
        "fill zero zeros_like ones_like full_like new_zeros new_ones new_full zeros ones full "
        "scalar_tensor empty empty_like new_empty",
    ),
    **_named(rules.transpose, "t transpose"),
    **_named(rules.permute, "permute"),
    **_named(rules.view, "view _unsafe_view reshape _reshape_alias"),
    **_named(rules.expanded, "expand"),
    **_named(rules.repeat, "repeat"),
    **_named(rules.squeeze, "squeeze unsqueeze"),
    **_named(rules.matrix_product, "mm bmm addmm baddbmm"),
    **_named(rules.vector_product, "mv dot"),
    **_named(rules.linear, "linear"),
    **_named(rules.convolution, "convolution"),
    **_named(
        rules.batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "_batch_norm_no_update cudnn_batch_norm miopen_batch_norm",
    ),
    **_named(rules.weight_norm, "_weight_norm_interface"),
    **_named(rules.layer_norm, "native_layer_norm _fused_rms_norm"),
    **_named(rules.group_norm, "native_group_norm"),
    **_named(rules.pad, "constant_pad_nd"),
    **_named(
        rules.reduced,
        "mean sum prod amax amin var std var_mean std_mean linalg_vector_norm logsumexp any all",
    ),
    **_named(rules.chosen, "max min argmax argmin"),
    **_named(rules.along, "cumsum cumprod flip roll"),
    **_named(rules.last_two, "tril triu"),
    **_named(rules.embedding, "embedding"),
    **_named(rules.cat, "cat"),
    **_named(rules.stack, "stack"),
    **_named(rules.split, "split split_with_sizes unsafe_split unsafe_split_with_sizes"),
    **_named(rules.sliced, "slice"),
    **_named(rules.select, "select unbind"),
    **_named(rules.glu, "glu"),
    **{
        f"{name}{count}d{suffix}": rules.spatial(count)
        for count in (1, 2, 3)
        for name, suffix in (
            ("avg_pool", ""),
            ("max_pool", ""),
            ("max_pool", "_with_indices"),
            ("adaptive_avg_pool", ""),
            ("_adaptive_avg_pool", ""),
            ("adaptive_max_pool", ""),
            ("upsample_nearest", ""),
            ("_upsample_nearest_exact", ""),
            ("reflection_pad", ""),
            ("replication_pad", ""),
        )
    },
    "upsample_linear1d": rules.spatial(1),
    "upsample_bilinear2d": rules.spatial(2),
    "upsample_bicubic2d": rules.spatial(2),
    "upsample_trilinear3d": rules.spatial(3),
}
