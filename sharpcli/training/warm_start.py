"""Start a training from a checkpoint's weights, and go on with its optimizer's state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sharpcli.checkpoint import Checkpoint, match_tensors, read_checkpoint
from sharpcli.checkpoint.optimizer_files import FORMAT, KEY, optimizer_file
from sharpcli.checkpoint.placing import give
from sharpcli.checkpoint.plain_values import decoded, encoded
from sharpcli.checkpoint.safetensors_file import read_safetensors
from sharpcli.errors import SharpError, setting
from sharpcli.runtime import files
from sharpcli.tasks.notes import note
from sharpcli.training.precision import device_of
from sharpcli.training.state import optimizer_state, restore_optimizer, understood
from sharpcli.training.train_settings import TrainSettings
from sharpcli.training.watchers import Moment

__all__ = ["Init", "OptimizerKeeper", "optimizer_file", "read_init"]


@dataclass(frozen=True)
class Init:
    """What a training starts from.

    Attributes:
        checkpoint: The weights.
        kept: The optimizer's state, as `OptimizerKeeper` keeps it, if the training takes it up.
        digest: The SHA-256 of the file of that state.
        partial: Whether the weights may be those of a part of the model.
    """

    checkpoint: Checkpoint
    kept: Mapping[str, Any] | None = None
    digest: str | None = None
    partial: bool = False

    def give_weights(self, model: nn.Module) -> None:
        """Put the weights into a model, as a checkpoint that is measured; note what was converted.

        A `SharpError` says that they do not fit it.
        """
        rest = model.state_dict() if self.partial else None
        found = match_tensors(self.checkpoint, model.state_dict(), model=model, rest=rest)
        give(model, found)
        for each in (*self.checkpoint.notes, *found.notes):
            note(f"{self.checkpoint.path}: {each}")

    def give_memory(
        self, optimizer: torch.optim.Optimizer, settings: TrainSettings, model: nn.Module
    ) -> None:
        """Let an optimizer go on from the saved state, with its own hyperparameters.

        Raises:
            SharpError: The state is of another optimizer, or of other parameters.
        """
        if self.kept is None:
            return
        where = optimizer_file(self.checkpoint.path)
        hint = f"leave out {setting('init_optimizer')} to start with an optimizer without memory"
        if self.kept["name"] != settings.optimizer:
            raise SharpError(
                f"{where}: is the state of {self.kept['name']}, not of {settings.optimizer}", hint
            )
        here = _parameters(model)
        if self.kept["parameters"] != here:
            pairs = zip(self.kept["parameters"], here, strict=False)
            was, is_ = next((p for p in pairs if p[0] != p[1]), (["others"], ["others"]))
            raise SharpError(
                f"{where}: is of other parameters: {_said(was)} there, {_said(is_)} here", hint
            )
        # A new training may have another rate or momentum: what the user can set is not memory.
        state, settable = self.kept["state"], settings.kind.arguments
        with understood(where, "a state of this optimizer", hint):
            memory = {
                "state": state["state"],
                "shared": state["shared"],
                "groups": [_without(group, settable) for group in state["groups"]],
                "own": [_without(own, settable) for own in state["own"]],
            }
            restore_optimizer(optimizer, memory)
        if hasattr(optimizer, "train"):  # schedule-free ones save in evaluation
            optimizer.train()

    @property
    def about(self) -> dict[str, Any]:
        """The digests of what the weights to come depend on, for a training's state file."""
        return {"init": self.checkpoint.sha256, "init_optimizer": self.digest}


def read_init(settings: TrainSettings, folder: Path | None = None) -> Init | None:
    """What a training with these settings starts from; None without `init`.

    Args:
        settings: of the training.
        folder: where a relative path begins. Default: the working folder.

    Raises:
        SharpError: A file cannot be read, or the optimizer's state belongs to other weights.
    """
    if settings.init is None:
        return None
    path = (folder or Path()) / settings.init
    checkpoint = read_checkpoint(path, settings.init_weights)
    if not settings.init_optimizer:
        return Init(checkpoint, partial=settings.init_partial)
    path = optimizer_file(checkpoint.path)
    if not path.exists():
        raise SharpError(
            f"{path}: there is no such file, so the optimizer's state was not saved",
            f"train {checkpoint.path} with {setting('save_optimizer', True)}, or leave out "
            f"{setting('init_optimizer')}",
        )
    file = read_safetensors(path)
    with understood(path, "an optimizer's state", "train the checkpoint again"):
        header = json.loads(str(file.metadata[KEY]))
        kept, of = decoded(header[FORMAT], file.tensors, device_of(settings)), header["checkpoint"]
        other = of[:12] if of != checkpoint.sha256 else ""
        kept = {name: kept[name] for name in ("name", "parameters", "state")}
    if other:
        raise SharpError(
            f"{path}: belongs to other weights (SHA-256 {other}…) than {checkpoint.path} holds",
            f"train that checkpoint again, or leave out {setting('init_optimizer')}",
        )
    return Init(checkpoint, kept, file.sha256, settings.init_partial)


class OptimizerKeeper:
    """Keeps the optimizer's state at the end, and refuses after the first step what cannot be."""

    name = "optimizer"

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings
        self._tensors: dict[str, Tensor] = {}
        self._kept: Any = None

    def wants(self, steps: int, *, epoch_ended: bool, ended: bool) -> bool:  # noqa: ARG002
        """After the first step and at the end."""
        return ended or steps == 1

    def look(self, moment: Moment) -> None:
        """Keep the state; raises `SharpError` where it has more than tensors and plain values."""
        kept = {
            "name": self._settings.optimizer,
            "parameters": _parameters(moment.model),
            "state": optimizer_state(moment.optimizer),
        }
        self._tensors = {}
        try:
            self._kept = encoded(kept, self._tensors)
        except TypeError as error:
            raise SharpError(
                f"the state of {self._settings.optimizer} cannot be saved: {error}",
                f"leave out {setting('save_optimizer')}, or take another optimizer",
            ) from error

    def state(self) -> Any:
        """Nothing: it looks again at the end."""
        return None

    def restore(self, state: Any) -> None:
        """Nothing."""

    def write(self, checkpoint: Checkpoint) -> None:
        """Write the state beside the checkpoint that it belongs to."""
        header = {"checkpoint": checkpoint.sha256, FORMAT: self._kept}
        content = save(self._tensors, metadata={KEY: json.dumps(header)})
        files.save(optimizer_file(checkpoint.path), content)


def _parameters(model: nn.Module) -> list[Any]:
    """Name, shape and dtype of each parameter that is trained."""
    trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    return [[name, list(p.shape), str(p.dtype).removeprefix("torch.")] for name, p in trained]


def _said(parameter: list[Any]) -> str:
    name, *rest = parameter
    return f"{name} {tuple(rest[0])} {rest[1]}" if rest else name


def _without(values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
