"""The result of `sharp spectrum`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from sharpcli.documents.fields import Sentences, absent
from sharpcli.documents.results import MeasuredCheckpoint
from sharpcli.documents.scalars import Scalar
from sharpcli.documents.statuses import Outcome
from sharpcli.settings.fields import Keywords

__all__ = ["Outliers", "SpectralNumbers", "Spectrum"]

_COUNT = Keywords(minimum=0)


@dataclass(frozen=True, kw_only=True)
class Outliers(Scalar):
    """How many eigenvalues lie above the bulk's edge."""

    eigenvalues: Annotated[Sequence[Scalar], "Those, descending."]


@dataclass(frozen=True, kw_only=True)
class SpectralNumbers:
    """Both ends, the bulk's edge, outliers and moments, the quadrature and the curve."""

    largest: Annotated[Scalar, "The largest eigenvalue."]
    smallest: Annotated[Scalar, "The smallest eigenvalue."]
    bulk_edge: Annotated[
        Scalar,
        "The largest eigenvalue below the deepest wide gap; without a gap, the largest of all.",
    ]
    outliers: Outliers
    moments: Annotated[
        Sequence[Scalar],
        "Mean of the k-th powers of all eigenvalues, k from 1 to 4.",
        Keywords(minItems=4, maxItems=4),
    ]
    nodes: Annotated[Sequence[float], "The quadrature's nodes, ascending."]
    weights: Annotated[
        Sequence[Annotated[float, _COUNT]], "The weight of each node; they sum to 1."
    ]
    grid: Annotated[
        Sequence[float],
        "Eigenvalues at which the density is given, ascending, unevenly spaced.",
    ]
    density: Annotated[
        Sequence[Annotated[float, _COUNT]],
        "The spectral density on the grid; its integral by the trapezoidal rule is 1.",
    ]


@dataclass(frozen=True, kw_only=True)
class _About:
    checkpoint: MeasuredCheckpoint
    status: Literal[Outcome.OK] = Outcome.OK


@dataclass(frozen=True, kw_only=True)
class Spectrum(SpectralNumbers, _About):
    """One result of `spectrum`."""

    operator: Annotated[str, "The matrix whose spectrum this is."]
    size: Annotated[int, "Rows of the matrix.", Keywords(minimum=1)]
    probes: Annotated[int, "Random starts; 0 where all eigenvalues were computed.", _COUNT]
    steps: Annotated[int, "Lanczos steps from each; 0 where all eigenvalues were computed.", _COUNT]
    products: Annotated[int, "Matrix-vector products used.", _COUNT]
    seconds: Annotated[float, "Wall time, after model and data were loaded.", _COUNT]
    warnings: Sentences = absent(())
