"""Where the files of a training go: its checkpoint, its curves and its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["TrainingFiles"]


@dataclass(frozen=True)
class TrainingFiles:
    """The files of one training.

    Attributes:
        checkpoint: The trained weights.
        curves: The loss and the rate by step, as JSON.
        path: A folder with the weights at some steps.
    """

    checkpoint: Path
    curves: Path
    path: Path

    @classmethod
    def beside(cls, output: Path) -> TrainingFiles:
        """The files of `sharp train`, named after the checkpoint."""
        name = output.name
        return cls(
            output, output.with_name(f"{name}.curves.json"), output.with_name(f"{name}.path")
        )

    @classmethod
    def in_folder(cls, output: Path) -> TrainingFiles:
        """The files of a training that has a folder of its own, such as a run of a sweep."""
        return cls(output, output.with_name("curves.json"), output.with_name("path"))
