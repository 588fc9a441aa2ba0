"""Spectra that are known, as operators, and how far a density is from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sharpcli.settings.measuring import RunSettings
from torch import Tensor


@dataclass
class Diagonal:
    """A diagonal matrix: starts are Gaussian, so nothing depends on the eigenvectors."""

    values: Tensor
    products: int = 0

    def __post_init__(self) -> None:
        self.size = len(self.values)
        self.dtype, self.device = self.values.dtype, self.values.device

    def __matmul__(self, vectors: Tensor) -> Tensor:
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        return self.values.reshape(-1, *[1] * (vectors.ndim - 1)) * vectors


def _random(count: int, power: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, generator=generator, dtype=torch.float64) ** power


def _spike() -> Tensor:
    """As a trained network's: most within 1e-6 of zero, a bulk, ten outliers."""
    outliers = torch.linspace(2, 12, 10, dtype=torch.float64)
    return torch.cat([(_random(1800) - 0.5) * 1e-6, _random(190, 4) * 0.5, outliers])


DIAGONAL: dict[str, Callable[[], Tensor]] = {
    "uniform": lambda: 2 * _random(2000) - 1,
    "power law": lambda: 12 / torch.arange(1, 2001, dtype=torch.float64),
    "spike": _spike,
    "positive spike": lambda: _spike().abs(),
    "indefinite": lambda: torch.cat([_spike()[:-30], -0.1 * _random(30)]),
    "doubles": lambda: _random(1000, 3).repeat(2),
    "two": lambda: torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(1000),
}


def true_moments(values: Tensor) -> list[float]:
    """The first four moments."""
    return [float((values.double() ** power).mean()) for power in range(1, 5)]


def total_variation(grid: Tensor, curve: Tensor, values: Tensor, bins: int = 20) -> float:
    """Half the sum over even bins of how far the density's mass is from the eigenvalues'."""
    x, y, true = grid.double().numpy(), curve.double().numpy(), values.double().numpy()
    edges = np.linspace(true.min(), true.max(), bins + 1)
    below = np.concatenate([[0.0], np.cumsum(np.diff(x) * (y[1:] + y[:-1]) / 2)])
    passed = np.interp(edges, x, below)
    passed[0], passed[-1] = 0.0, below[-1]  # the kernels reach a little beyond both ends
    return float(np.abs(np.diff(passed) - np.histogram(true, edges)[0] / len(true)).sum() / 2)


def made_up(path: str, scale: float = 1.0, **more: Any) -> dict[str, Any]:
    """A checkpoint's result as `sharp spectrum` writes it: a bulk at zero and two outliers."""

    def scalar(value: float | None, error: float | None = None, **others: Any) -> dict[str, Any]:
        kind = "residual" if error is not None else None
        return {"value": value, "error": error, "error_kind": kind, "status": "converged"} | others

    grid = [-0.1, 0.0, 0.1, *(s * x for s in (4 * scale, 8 * scale) for x in (0.995, 1.0, 1.005))]
    peaks = [0.0, 9.8, 0.0, 0.0, 0.5 / scale, 0.0, 0.0, 0.25 / scale, 0.0]
    return {
        "checkpoint": {
            "path": path,
            "sha256": "0" * 64,
            "parameters": 100,
            "metadata": {},
            "notes": [],
        },
        "status": "ok",
        "largest": scalar(8 * scale, 1e-4),
        "smallest": scalar(-0.1, 1e-3),
        "bulk_edge": scalar(0.1, 1e-3),
        "outliers": scalar(2, eigenvalues=[scalar(8 * scale, 1e-4), scalar(4 * scale, 1e-4)]),
        "moments": [scalar(0.12, 0.01, error_kind="standard_error") for _ in range(4)],
        "nodes": [0.0, 4 * scale, 8 * scale],
        "weights": [0.98, 0.01, 0.01],
        "grid": grid,
        "density": peaks,
        "operator": "hessian",
        "size": 100,
        "probes": 2,
        "steps": 20,
        "products": 40,
        "seconds": 0.1,
        **more,
    }


def document(*results: dict[str, Any]) -> dict[str, Any]:
    """A whole document of such results."""
    return {
        "schema": "sharpcli/1",
        "kind": "spectrum",
        "settings": {
            "run": asdict(RunSettings(device="cpu")) | {"parameters": []},
            "spectrum": {"probes": None, "steps": 80, "curvature": {"operator": "hessian"}},
        },
        "environment": {"sharpcli": "0.1.0", "python": "3.12", "device": "cpu"},
        "task": {"name": "t.py", "options": {}, "fingerprint": "", "examples": {"train": 48}},
        "results": list(results),
    }


def failed(path: str) -> dict[str, Any]:
    """A checkpoint that could not be read."""
    error = {"message": f"{path}: is empty", "hint": "save it again"}
    return {"checkpoint": {"path": path}, "status": "failed", "error": error}
