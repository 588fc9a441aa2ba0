"""The Hessian's leading eigenvectors as a safetensors file, for `sharp measure --save-vectors`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpcli.checkpoint import load_checkpoint, save_checkpoint
from sharpcli.documents.labels import short_labels
from sharpcli.errors import SharpError, UsageError, setting
from sharpcli.measures.context import Context
from sharpcli.runs.study import Loaded

__all__ = ["SavedVectors"]

_FORMAT = "sharpcli-vectors/1"


class SavedVectors:
    """Collects the eigenvectors of each measured checkpoint, and writes one file of all.

    A tensor's name is `RANK/PARAMETER`, with rank 0 for the largest eigenvalue; with several
    checkpoints `LABEL/RANK/PARAMETER`. Each vector has norm 1 over all of its parameters. The
    metadata have, as JSON under "checkpoints", each checkpoint's path and SHA-256, and the
    eigenvalues with errors and statuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {}

    def check(self) -> None:
        """Raise `UsageError` where the file exists and holds something else."""
        if not self.path.exists():
            return
        try:
            known = load_checkpoint(self.path).metadata.get("vectors") == _FORMAT
        except SharpError:
            known = False
        if not known:
            raise UsageError(
                f"{setting('save_vectors', str(self.path))}: is there already and holds no "
                "eigenvectors of sharp",
                "name another file",
            )

    def __call__(self, loaded: Loaded, context: Context, measures: Mapping[str, Any]) -> None:
        """Keep a checkpoint's eigenvectors, in place of those of a smaller sample."""
        found = context.known("eigenvalues")
        if found is None or "hessian" not in measures:
            raise UsageError(
                f"{setting('save_vectors', str(self.path))}: no measure computes eigenvectors",
                f"add {setting('measures', 'hessian')}",
            )
        network, checkpoint = context.objective.network, loaded.checkpoint
        eigenvalues = measures["hessian"]["eigenvalues"]
        tensors = {
            f"{rank}/{name}": part.cpu().contiguous()
            for rank, vector in enumerate(found.vectors)
            for name, part in zip(network.names, network.unflatten(vector), strict=True)
        }
        about = {
            "path": str(checkpoint.path),
            "sha256": checkpoint.sha256,
            "operator": context.settings.curvature.operator,
            "split": context.split,
            "examples": context.objective.rows.count,
            "eigenvalues": [
                {"value": e.value, "error": e.error, "status": e.status} for e in eigenvalues
            ],
        }
        self._found[str(checkpoint.path)] = about, tensors

    def save(self) -> Path | None:
        """Write the file; None if no checkpoint was measured."""
        if not self._found:
            return None
        labels = self._labels([*self._found])
        tensors = {
            f"{label}/{name}" if label else name: tensor
            for label, (_, own) in zip(labels, self._found.values(), strict=True)
            for name, tensor in own.items()
        }
        about = {label: of for label, (of, _) in zip(labels, self._found.values(), strict=True)}
        metadata = {"vectors": _FORMAT, "checkpoints": json.dumps(about, ensure_ascii=False)}
        save_checkpoint(self.path, tensors, metadata)
        return self.path

    @staticmethod
    def _labels(paths: Sequence[str]) -> list[str]:
        return [""] if len(paths) == 1 else short_labels(paths)
