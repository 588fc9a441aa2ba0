"""The curvature matrix, its products, and its spectral density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sharpcli.errors import UsageError, setting
from sharpcli.settings.fields import Keywords

__all__ = ["CurvatureSettings", "Operator", "ProductMode", "SpectrumSettings"]

Operator = Literal["hessian", "ggn", "fisher", "empirical-fisher"]
ProductMode = Literal[
    "auto",
    "double-backward",
    "forward-over-reverse",
    "reverse-over-forward",
    "finite-difference",
]


@dataclass(frozen=True)
class CurvatureSettings:
    """The curvature matrix and how its products are computed.

    `hvp` is the differentiation mode of Hessian-vector products; "auto" picks the fastest for the
    model. `memory` bounds the bytes that a measurement uses in addition to model and
    checkpoint: data, kept graphs, the eigenvector basis, microbatches (None: what is free).
    """

    operator: Operator = "hessian"
    hvp: ProductMode = "auto"
    memory: int | None = None

    def __post_init__(self) -> None:
        """Raise `UsageError` for an HVP mode with an operator that has no Hessian product."""
        if self.operator != "hessian" and self.hvp != "auto":
            raise UsageError(
                f"{setting('hvp', self.hvp)}: is a way to a Hessian product, and "
                f"{setting('operator', self.operator)} has none",
                f"leave {setting('hvp')} out: Gauss-Newton and Fisher matrices take first "
                "derivatives only",
            )


@dataclass(frozen=True)
class SpectrumSettings:
    """Probes and Lanczos steps of a spectral density.

    `probes` random directions (None: depends on the model's size), `steps` Lanczos steps from each.
    Repeated eigenvalues can only be detected with at least two probes.
    """

    probes: Annotated[
        int | None, "Random starts; null: depends on the model's size.", Keywords(minimum=2)
    ] = None
    steps: Annotated[int, "Lanczos steps from each.", Keywords(minimum=5)] = 80
    curvature: Annotated[
        CurvatureSettings, "The matrix and how its products are made.", Keywords(type="object")
    ] = CurvatureSettings()

    def __post_init__(self) -> None:
        """Refuse what tells nothing; raises `UsageError` naming the setting."""
        limits = {
            "probes": (self.probes is None or self.probes >= 2, "give 2 or more"),
            "steps": (self.steps >= 5, "give 5 or more: four moments take as many"),
        }
        for name, (holds, hint) in limits.items():
            if not holds:
                raise UsageError(f"{setting(name, getattr(self, name))}: is too few", hint)
