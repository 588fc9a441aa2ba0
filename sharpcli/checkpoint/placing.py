"""Put tensors into a model: those of a matched checkpoint, or a state dict of the model's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sharpcli.checkpoint.matching import Match
from sharpcli.checkpoint.own_hooks import by_place, held, loads_itself
from sharpcli.checkpoint.own_loading import loaded_by_itself
from sharpcli.checkpoint.state_dict import KEY

__all__ = ["give", "put"]


def give(model: nn.Module, match: Match) -> None:
    """Put the tensors of a match into a model, in place; code of its own for loading sees them.

    Buffers outside the state dict that this code made of the file are put there too.
    """
    state = {name: each for name, each in match.tensors.items() if name in model.state_dict()}
    if match.loaded is not None:
        state |= held(match.loaded)
    if not loads_itself(model):
        model.load_state_dict(state, strict=False)
        return
    loaded_by_itself(model, state, match.tensors)
    own = by_place(model)
    with torch.no_grad():
        for name, tensor in match.tensors.items():
            own[name].copy_(tensor)


def put(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let a model load a state dict of its own."""
    given = OrderedDict(state)
    given._metadata = getattr(model.state_dict(), KEY, None)  # type: ignore[attr-defined]
    model.load_state_dict(given)
