"""Load the checkpoint from before a training as the measured ones are loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from sharpcli.checkpoint import Checkpoint, read_checkpoint
from sharpcli.errors import SharpError, setting
from sharpcli.runs.study import Study, matched
from sharpcli.settings.measuring import MeasureSettings

__all__ = ["initial_of"]


def initial_of(
    study: Study, settings: MeasureSettings, warnings: list[str]
) -> Callable[[], Mapping[str, Tensor]] | None:
    """Gives the tensors of the initial checkpoint, by the names of a study's model.

    It is loaded by the same code of the model's own as the checkpoint that is measured, from the
    same weights in the file if it has these, and may hold a part of the model where that one may.

    Args:
        study: the model, and how checkpoints are loaded.
        settings: name the file.
        warnings: receives what was converted.

    Returns:
        None if the settings name no file. The function raises `SharpError` if the file cannot be
        read or does not fit.
    """
    path = settings.initial
    if path is None:
        return None

    @functools.cache
    def tensors() -> Mapping[str, Tensor]:
        checkpoint, notes = _read(str(path), study.run.weights)
        found = matched(checkpoint, study)
        for each in (*notes, *checkpoint.notes, *found.match.notes):
            warnings.append(f"{setting('initial', path)}: {each}")
        return found.match.tensors

    return tensors


@functools.lru_cache(maxsize=1)
def _read(path: str, weights: str | None) -> tuple[Checkpoint, list[str]]:
    """The checkpoint, with the weights that are asked for if the file has them."""
    if weights is None:
        return read_checkpoint(path), []
    try:
        return read_checkpoint(path, weights), []
    except SharpError as error:
        checkpoint = read_checkpoint(Path(path))
        return checkpoint, [f"{error.message}: its usual weights are taken"]
