"""What looks at a training between two steps: to save it, to measure it, to draw its course."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from sharpcli.checkpoint.own_hooks import stored
from sharpcli.objective.network import Network
from sharpcli.objective.rows import Rows

__all__ = ["Moment", "Watcher"]


@dataclass(frozen=True)
class Moment:
    """A training between two steps, with the weights that are evaluated and saved in `model`.

    `model` may be read, and set to eval mode. `steps` are those that were taken, `epochs` those
    that were begun. `epoch_ended` says whether the last one is complete, `ended` whether no step
    follows. `rows` are the training data, and `loss` computes the mean loss over all of them.
    `passes` are the passes over them so far, a part of one included, and `seconds` the time of the
    steps so far.
    """

    steps: int
    epochs: int
    epoch_ended: bool
    ended: bool
    model: nn.Module
    network: Network
    rows: Rows
    optimizer: Any
    loss: Callable[[], float]
    passes: float = 0.0
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the model's tensors on the CPU."""
        return stored(self.model)


class Watcher(Protocol):
    """Looks at a training where it wants to: before the first step (0), after a step, at the end.

    Random numbers that it draws do not change the training. `state` is all that it has noted, in
    plain values and tensors, so that a training that goes on from its state file keeps it.
    """

    name: str

    def wants(self, steps: int, *, epoch_ended: bool, ended: bool) -> bool:
        """Whether it looks after so many steps. It is asked after every one: it must be cheap."""

    def look(self, moment: Moment) -> None:
        """Look."""

    def state(self) -> Any:
        """What `restore` goes on from."""

    def restore(self, state: Any) -> None:
        """Go on where `state` was taken."""
