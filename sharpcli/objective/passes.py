"""What one forward pass uses and changes: no more than a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sharpcli.errors import SharpError
from sharpcli.objective.network import Network
from sharpcli.objective.reach import Substitution, inside
from sharpcli.objective.rows import Rows

__all__ = ["check_pass", "some_rows"]

# Random rows that are looked at: every layer sees some, and they cost nothing beside the data.
_ROWS = 8


def some_rows(rows: Rows, seed: int) -> Rows:
    """A few random rows, as they are looked at here."""
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
    """Raise `SharpError` where a pass over rows uses what can be trained and no checkpoint holds.

    So it does where the pass changes parameters. `original` is the model that the network is of.
    """
    theta, fixed = network.flatten(tensors), network.fixed(tensors)

    def passed() -> Substitution:
        # As leaves, for a model that takes derivatives in its parameters.
        parameters = [part.clone().requires_grad_() for part in network.unflatten(theta)]
        watch = Substitution(network.reach, network.values(parameters, fixed))
        versions.update({name: tensor._version for name, tensor in watch.values.items()})
        try:
            outputs = network.outputs(parameters, {}, rows.batch, watch=watch)
        finally:  # before what it may have failed of: another dtype than the parameters' own
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
        f"task '{network.task.name}': the forward pass uses what can be trained but is no "
        f"parameter of the model, so that no checkpoint holds it: {', '.join(said[:3])}{more}",
        "register it (nn.ModuleList, nn.ParameterList, or an attribute of the module) and save the "
        "checkpoint again; where it is meant to stay as model() makes it, call requires_grad_("
        "False) on it",
    )
