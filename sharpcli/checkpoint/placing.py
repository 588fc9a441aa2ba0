"""Put tensors into a model: those of a matched checkpoint, or a state dict of the model's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sharpcli.checkpoint.matching import Match
from sharpcli.checkpoint.own_hooks import by_place, handed, held, load, loads_itself
from sharpcli.checkpoint.own_loading import loaded_by_itself
from sharpcli.checkpoint.state_dict import KEY

__all__ = ["give", "put"]


def give(model: nn.Module, match: Match) -> None:
    """Put the tensors of a match into a model, in place.

    Code of its own for loading is handed those of the file, as in PyTorch. Buffers outside the
    state dict that it made of them are put there too.
    """
    if match.given is not None:
        load(model, handed(match.given), strict=False)
        _put_in_place(model, match.tensors)
        return
    state = {name: each for name, each in match.tensors.items() if name in model.state_dict()}
    if match.loaded is not None:
        state |= held(match.loaded)
    if not loads_itself(model):
        model.load_state_dict(state, strict=False)
        return
    loaded_by_itself(model, state, match.tensors)
    _put_in_place(model, match.tensors)


def _put_in_place(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = by_place(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name in own:  # a tensor of an extra state is in none
                own[name].copy_(tensor)


def put(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let a model load a state dict of its own."""
    given = OrderedDict(state)
    given._metadata = getattr(model.state_dict(), KEY, None)  # type: ignore[attr-defined]
    model.load_state_dict(given)
