"""Check that a forward pass uses and changes nothing beyond what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.objective.network import Network
from sharpcli.objective.reach import Substitution, inside
from sharpcli.objective.rows import Rows

__all__ = ["check_pass", "some_rows"]

# Random rows for the check: every layer sees some, and they cost little compared with the data.
_ROWS = 8


def some_rows(rows: Rows, seed: int) -> Rows:
    """A few random rows for the check."""
    if rows.fixed_batch:  # an example's loss is defined in its batch only
        return rows.head(rows.fixed_batch)
    if rows.count <= _ROWS:
        return rows
    order = torch.randperm(rows.count, generator=torch.Generator().manual_seed(seed))
    chosen = rows.take(order[:_ROWS].sort().values)
    return Rows(chosen.batch, chosen.count, chosen.count)


def check_pass(
    network: Network, original: nn.Module, tensors: Mapping[str, Tensor], rows: Rows
) -> None:
    """Check that a pass over rows uses only trainable tensors that checkpoints hold.

    It must not change parameters either. `original` is the model behind the network.

    Raises:
        SharpError: if the pass does one of these.
        RuntimeError: if the pass itself fails.
    """
    theta, fixed = network.flatten(tensors), network.fixed(tensors)

    def passed() -> Substitution:
        # As leaves, for a model that computes derivatives in its parameters.
        parameters = [part.clone().requires_grad_() for part in network.unflatten(theta)]
        watch = Substitution(network.reach, network.values(parameters, fixed))
        versions.update({name: tensor._version for name, tensor in watch.values.items()})
        try:
            outputs = network.outputs(parameters, {}, rows.batch, watch=watch)
        finally:  # may explain the error, such as another dtype than the parameters'
            _refuse_unregistered(network, watch, rows, original)
        network.losses(outputs, rows.batch, rows.count)
        return watch

    versions: dict[str, int] = {}
    with torch.no_grad(), network.arithmetic():
        try:
            watch = passed()
        except (SharpError, RuntimeError) as error:
            if not network.differentiates_itself(error):
                raise
            watch = passed()
    for name in network.names:
        if watch.values[name]._version != versions[name]:
            raise SharpError(
                f"task '{network.task.name}': a forward pass changes the parameter '{name}'",
                "the loss must be one fixed function of the parameters: leave them as they are in "
                "forward() (an Embedding's max_norm, a weight that is clamped in place)",
            )


def _refuse_unregistered(
    network: Network, watch: Substitution, rows: Rows, original: nn.Module
) -> None:
    storages = rows.storages()
    outside = [
        tensor
        for tensor in watch.outside
        if tensor.requires_grad and tensor.untyped_storage().data_ptr() not in storages
    ]
    if not outside:
        return
    names: dict[int, str] = {}
    for model in (network.model, original):
        for prefix, module in model.named_modules():
            for place, tensor in inside(module):
                names.setdefault(id(tensor), f"{prefix}.{place}" if prefix else place)
    said = [
        f"'{names[id(tensor)]}'"
        if id(tensor) in names
        else f"a tensor of shape {tuple(tensor.shape)}"
        for tensor in outside
    ]
    more = f" and {len(said) - 3} more" if len(said) > 3 else ""
    raise SharpError(
        f"task '{network.task.name}': the forward pass uses trainable tensors that are not "
        f"parameters of the model, so no checkpoint holds them: {', '.join(said[:3])}{more}",
        "register them (nn.ModuleList, nn.ParameterList, or attributes of the module) and save the "
        "checkpoint again; if they should stay as model() makes them, call requires_grad_("
        "False) on them",
    )
