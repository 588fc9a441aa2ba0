"""Operations in a forward pass whose second derivatives PyTorch does not guarantee.

PyTorch's own operations have right second derivatives, or raise, with rare exceptions that show on
every example (`weight_norm` of PyTorch 2.13). A custom `torch.autograd.Function`, or a tensor cut
out of the graph, may be wrong on any example.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sharpcli.objective.objective import Objective

__all__ = ["unvouched_operations"]

_CUTS = {
    *("data", "detach", "detach_", "item", "tolist", "numpy", "tensor", "new_tensor"),
    *("__float__", "__int__", "__array__"),
}


def unvouched_operations(objective: Objective, theta: Tensor) -> list[str]:
    """Names of custom autograd functions, and of calls that cut tensors out of the graph.

    All batches are checked, since a branch may apply to few examples only. Cost: one forward pass
    that saves what a backward pass needs.
    """
    leaves = objective.leaves(theta)

    def work() -> list[str]:
        custom, cuts = set[str](), set[str]()
        for batch, count in objective.batches():
            with _CutWatch() as watch:
                total, _ = objective.sum_and_weight(leaves, batch, count)
            custom |= _custom_functions(total)
            cuts |= watch.names
        # The inside of a custom function looks like a cut.
        return sorted(custom or cuts)

    return objective.within_memory(work)


class _CutWatch(TorchFunctionMode):
    """Records in `names` the calls that cut tensors with a gradient out of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the function and check whether its first tensors stay in the graph."""
        name = getattr(function, "__name__", "")
        if name == "__get__" and getattr(function, "__self__", None) is Tensor.data:
            name = "data"
        cuts = name in _CUTS
        ungraphed = not cuts and not torch.is_grad_enabled()
        if (cuts or ungraphed) and any(
            isinstance(arg, Tensor) and arg.requires_grad for arg in args
        ):
            self.names.add("torch.no_grad()" if ungraphed else name)
        return function(*args, **(kwargs or {}))


def _custom_functions(total: Tensor) -> set[str]:
    """Names of the custom functions in the graph of a tensor."""
    names: set[str] = set()
    waiting, seen = [total.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        if isinstance(node, torch.autograd.function.BackwardCFunction) or "Cpp" in name:
            names.add(name.removesuffix("Backward"))
        waiting += [parent for parent, _ in node.next_functions]
    return names
