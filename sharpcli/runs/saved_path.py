"""The path of a training: its weights at some steps, each a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from sharpcli.checkpoint import save_checkpoint
from sharpcli.errors import SharpError, counted, setting
from sharpcli.runtime.progress import Say
from sharpcli.training.outcome import Trained
from sharpcli.training.watchers import Moment

__all__ = ["SavedPath", "saved_steps"]

# Digits of a step in a file's name, so that a shell lists the files in order: a hundred million
# steps of a millisecond take more than a day.
_DIGITS = 8
_NAME = re.compile(r"step-(\d+)\.safetensors")


class SavedPath:
    """Saves the weights before the first step, at every `every`-th, and after the last.

    "log" saves after 1, 2, 4, 8, … steps. `FOLDER/step-N.safetensors` has the bytes of the
    checkpoint that a training of N steps would leave.

    Args:
        folder: where the files go. A training that begins removes those of an earlier one.
        every: a number of steps, or "log".
        metadata: gives the metadata of weights.
        say: is called with what was removed.

    Cost: a pass over the training data for each, for its loss.
    """

    name = "path"

    def __init__(
        self,
        folder: Path,
        every: int | Literal["log"],
        metadata: Callable[[Trained], Mapping[str, Any]],
        say: Say,
    ) -> None:
        self._folder, self._every = folder, every
        self._metadata, self._say = metadata, say
        self._saved: list[int] = []

    def wants(self, steps: int, *, epoch_ended: bool, ended: bool) -> bool:  # noqa: ARG002
        """Whether the weights are saved after so many steps."""
        if ended or self._every == "log":
            return ended or steps & (steps - 1) == 0
        return steps % self._every == 0

    def look(self, moment: Moment) -> None:
        """Save the weights."""
        if moment.steps == 0:
            self._clear()
        weights = Trained(
            moment.tensors(), moment.loss(), moment.epochs, moment.steps, reached=False
        )
        save_checkpoint(self._file(moment.steps), weights.tensors, self._metadata(weights))
        self._saved.append(moment.steps)

    def state(self) -> Any:
        """The steps whose weights are saved."""
        return self._saved

    def restore(self, state: Any) -> None:
        """Go on where `state` was taken; raises `SharpError` where a file has been removed."""
        self._saved = list(state)
        for step in self._saved:
            if not self._file(step).exists():
                raise SharpError(
                    f"{self._file(step)}: is missing, and the training that goes on had saved it",
                    f"put it back, or start over with {setting('resume', False)}",
                )

    def _file(self, step: int) -> Path:
        return self._folder / f"step-{step:0{_DIGITS}}.safetensors"

    def _clear(self) -> None:
        """Make the folder, and remove the path of an earlier training."""
        stale = saved_steps(self._folder)
        try:
            self._folder.mkdir(exist_ok=True)
            for file in stale:
                file.unlink()
        except OSError as error:
            raise SharpError(
                f"{self._folder}: cannot hold the path of this training: {error.strerror}",
                f"move it away, or write to another {setting('output')}",
            ) from error
        if stale:
            earlier = counted(len(stale), "checkpoint")
            self._say(f"{self._folder}: removed {earlier} of an earlier training")


def saved_steps(folder: Path) -> list[Path]:
    """The checkpoints of a path, in the order of their steps; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name))
