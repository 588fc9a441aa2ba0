"""Parts of documents that the package writes as mappings, as dataclasses for `schema_of`.

Measures return mappings, since a plug-in's may hold anything; comparisons are made from documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sharpcli.documents.fields import Number, absent
from sharpcli.documents.scalars import Scalar
from sharpcli.settings.fields import Keywords

from sharpcli.documents.scores import Scores, ScoreSettings

_COUNT = Keywords(minimum=0)
_SOME = Keywords(minimum=1)
_STATUS = Keywords({"$ref": "#/$defs/scalar_fields/properties/status"})
_LATER = Keywords(later=True)
Seconds = Annotated[float, "Wall time from model and data in memory to the answer.", _COUNT]
Bound = Annotated[
    Literal["lower_bound", "upper_bound", "two_bounds"] | None,
    "lower_bound, upper_bound: the true value is this or more, or less; two_bounds: it may be off "
    "either way.",
]
Interval = tuple[Number, Number] | None


@dataclass(frozen=True)
class Environment:
    """Where it ran."""

    sharpcli: Annotated[str, "Version of sharpcli."]
    python: Annotated[str, "Version of Python."]
    torch: Annotated[str, "Version of torch."] = absent()
    device: Annotated[str, "The device that computed."] = absent()
    platform: Annotated[str, "Operating system and processor."] = absent()
    device_name: Annotated[str, "What the device is."] = absent()
    threads: Annotated[int, "CPU threads that torch used.", _SOME] = absent()
    date: Annotated[str, "When, in UTC."] = absent()


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep file asks for beside its runs."""

    task: Annotated[str, "The task that is trained."]
    measure: Annotated[
        Mapping[str, Any] | None, "What is measured of each run at the end; null: nothing."
    ]


@dataclass(frozen=True)
class Task:
    """The task that was measured on."""

    name: Annotated[
        str | None, "Built-in name, file or object; null where no checkpoint could be read."
    ]
    options: Annotated[Mapping[str, Any], "Its options as used."]
    fingerprint: Annotated[
        str | None, "Hash of the task's code, options and data; null where it could not be loaded."
    ]
    examples: Annotated[Mapping[str, Annotated[int, _COUNT]], "Examples used of each split."] = (
        absent()
    )
    fixed_batch: Annotated[
        Mapping[str, Annotated[int, _SOME]],
        "Examples in the consecutive batches of each split that the loss is defined on; only with "
        "fixed_batch and mode train.",
    ] = absent()


@dataclass(frozen=True)
class LossNumbers:
    """Mean loss over the data, without weight decay."""

    train: Scalar
    test: Scalar = absent()
    gap: Annotated[Scalar, "Test minus training value."] = absent()
    seconds: Seconds = absent()
    evaluations: Annotated[int, "Passes over data.", _COUNT] = absent()


@dataclass(frozen=True, kw_only=True)
class EpsilonSharpness(Scalar):
    """One ε and subspace."""

    epsilon: Annotated[
        float, "Half-width of the box relative to |θᵢ| + 1.", Keywords(exclusiveMinimum=0)
    ]
    subspace: Annotated[
        int | None, "Dimensions of the random subspace; null for the full space.", _SOME
    ]
    draws: Annotated[
        Sequence[Number],
        "φ in each random subspace, of which value is the mean; absent in the full space.",
        Keywords(minItems=1),
    ] = absent()
    corners: Annotated[
        int,
        "How many corners the box has, where all of them were evaluated; null where ascents chose "
        "some.",
        Keywords(type=["integer", "null"], minimum=2),
    ] = absent()
    by_maximizer: Annotated[
        Mapping[str, Number], "φ that each maximiser reached, the mean over the draws."
    ]
    evaluations: Annotated[int, "Gradients of the loss computed.", _COUNT] = absent()
    loss_at_maximum: Annotated[Number, "The largest loss found, the mean over the draws."] = (
        absent()
    )
    loss: Annotated[Number, "The loss at the checkpoint."] = absent()
    seconds: Seconds = absent()


@dataclass(frozen=True)
class Coarse:
    """The subset of the data whose eigenvectors the search started from (coarse)."""

    examples: Annotated[int, "Examples in the subset.", _SOME]
    products: Annotated[int, "Hessian-vector products on the subset.", _COUNT]


@dataclass(frozen=True)
class HessianNumbers:
    """The ends of the Hessian's spectrum."""

    eigenvalues: Annotated[Sequence[Scalar], "The k algebraically largest, descending."]
    smallest: Annotated[Scalar, "The algebraically smallest."] = absent()
    ratio_1_5: Annotated[Scalar, "First over fifth eigenvalue."] = absent()
    products: Annotated[int, "Hessian-vector products used.", _COUNT] = absent()
    passes: Annotated[
        int, "Passes over the data: calls of the operator, each with several vectors.", _COUNT
    ] = absent()
    coarse: Coarse = absent()
    size: Annotated[int, "Rows of the Hessian.", _COUNT] = absent()
    operator: Annotated[str, "The operator whose eigenvalues these are."] = absent()
    seconds: Seconds = absent()


@dataclass(frozen=True, kw_only=True)
class Trace(Scalar):
    """Of the Hessian."""

    products: Annotated[int, "Hessian-vector products used.", _COUNT] = absent()
    seconds: Seconds = absent()


@dataclass(frozen=True)
class GradientNumbers:
    """How far from a stationary point."""

    norm: Annotated[Scalar, "‖∇L‖₂."]
    l1: Annotated[Scalar, "Σ√(g² + ε²)."] = absent()
    max: Annotated[Scalar, "The largest |gᵢ|."] = absent()
    evaluations: Annotated[int, "Gradients computed.", _COUNT] = absent()
    seconds: Seconds = absent()


@dataclass(frozen=True)
class Measures:
    """Each measure under its key. Keys not listed are the task's metrics and plug-ins' measures."""

    loss: LossNumbers = absent()
    epsilon_sharpness: Annotated[
        Sequence[EpsilonSharpness],
        "Keskar et al. 2017: 100·(max L − L)/(1 + L) over a box, an entry an ε and subspace.",
    ] = absent()
    hessian: HessianNumbers = absent()
    trace: Trace = absent()
    gradient: GradientNumbers = absent()


@dataclass(frozen=True)
class CompareSettings:
    """Settings of `sharp compare`."""

    by: Annotated[Sequence[str], "Metadata keys that rows were grouped by."]
    within: Annotated[
        Sequence[str],
        "Metadata keys in which members of two groups match; absent without --within.",
        Keywords(optional=True),
    ]
    scatter: Annotated[
        str, "Flat key of what a figure shows against the gap.", Keywords(optional=True)
    ]
    heat: Annotated[
        str, "Flat key of what is shown over the two keys of `by`.", Keywords(optional=True)
    ]
    baseline: Annotated[str | None, "Label of the row that differences are to."]
    files: Annotated[Sequence[str], "The documents, in the order given."]
    score: Annotated[
        ScoreSettings, "What is scored; absent without --score.", Keywords(optional=True)
    ]


@dataclass(frozen=True)
class Difference:
    """Mean minus the baseline's mean, with all that is known of its error."""

    value: Annotated[Number, "The difference."]
    error: Annotated[
        Number, "Its uncertainty, sampling included; null where a part of it is not known.", _COUNT
    ]
    error_kind: Annotated[
        Literal["standard_error", "measurement"] | None,
        "standard_error: over the members, between two groups: that of matched differences, else "
        "Welch's; measurement: that of both measurements, between two single checkpoints.",
    ]
    degrees_of_freedom: Annotated[Number, "Of Welch's standard error (Satterthwaite)."]
    measurement_error: Annotated[
        Number,
        "Of both measurements alone: residuals added, standard errors of computation and sampling "
        "in quadrature; null where a part is not known or all is exact.",
        Keywords(**_COUNT, **_LATER),
    ]
    interval: Annotated[
        Interval,
        "Of nominally 95 %, between two single checkpoints: value − sampling_bias ± (1.96·standard "
        "errors + residuals); null for bounds and where an error is not known.",
        _LATER,
    ]
    bound: Annotated[Bound, _LATER]
    ratio: Annotated[Number, "Mean over the baseline's mean."]
    ratio_error: Annotated[
        Number,
        "Its uncertainty, made of the same parts to first order; null where one is not known, or "
        "where the baseline may be 0.",
        Keywords(**_COUNT, **_LATER),
    ]
    ratio_interval: Annotated[
        Interval, "Of nominally 95 % (Fieller 1954); null where it has no end.", _LATER
    ]
    ratio_bound: Annotated[Bound, _LATER]
    status: Annotated[str, "converged, or the worst of both sides.", Keywords(**_STATUS, **_LATER)]
    sampling_error: Annotated[
        float, "What of it comes from samples of the data; absent where none was taken.", _COUNT
    ] = absent()
    sampling_bias: Annotated[
        float, "How much higher samples make the difference; absent where that is nothing."
    ] = absent()
    paired: Annotated[
        bool, "True where both were measured on one sample and the errors are paired by shard."
    ] = absent()
    sampling_status: Annotated[
        Literal["unreliable"],
        "unreliable: the sampling error of a member of either side may be too small; absent if "
        "it can be trusted.",
    ] = absent()
    matched: Annotated[
        int,
        "How many blocks, such as seeds, both groups have; the difference is the mean over these. "
        "Absent where nothing was matched.",
        Keywords(minimum=2),
    ] = absent()
    group_interval: Annotated[
        Interval,
        "Student's 95 % interval from the spread over the members, without the measurement's own "
        "error; absent except between two groups.",
    ] = absent()


@dataclass(frozen=True)
class Summary:
    """One measure over a group."""

    mean: Annotated[Number, "Over the members that have a value."]
    standard_deviation: Annotated[Number, "With n − 1; null for fewer than two.", _COUNT]
    n: Annotated[int, "How many members have a value.", _COUNT]
    error: Annotated[
        Number,
        "Mean of the members' errors, which bounds the error of the mean; null where one is not "
        "known.",
        _COUNT,
    ]
    error_kind: Annotated[
        str | None, Keywords({"$ref": "#/$defs/scalar_fields/properties/error_kind"})
    ]
    status: Annotated[str, "The worst of the members'.", _STATUS]
    values: Annotated[
        Sequence[Number], "Of each member, in the order of `members`; null for none.", _LATER
    ]
    difference: Annotated[
        Difference | None, "To the baseline; null without one and for the baseline itself."
    ]
    sampling_error: Annotated[
        Number,
        "Mean of the members' sampling errors; null where one is not known, absent where none was "
        "sampled.",
        _COUNT,
    ] = absent()
    sampling_bias: Annotated[float, "Mean of the members'; absent where there is none."] = absent()
    sampling_status: Annotated[
        Literal["unreliable"],
        "unreliable: the sampling error of a member may be too small; absent if it can be trusted.",
    ] = absent()


@dataclass(frozen=True)
class Group:
    """A group of checkpoints, or one of them."""

    label: Annotated[str, "What the row is called."]
    group: Annotated[
        Mapping[str, Any], "The metadata that its members share; null where they lack it."
    ]
    members: Annotated[Sequence[str], "Paths of its checkpoints.", Keywords(minItems=1)]
    n: Annotated[int, "How many members.", _SOME]
    measures: Annotated[
        Mapping[str, Summary],
        "By flat key, such as hessian.eigenvalues[0] or epsilon_sharpness[1e-3,p=100].",
    ]
    scores: Annotated[Scores, "Of the trainings; only with --score."] = absent()


@dataclass(frozen=True)
class GranulatedFactor:
    """How a measure goes with the gap along one factor."""

    value: Annotated[float, "ψ of this factor.", Keywords(minimum=-1, maximum=1)]
    interval: Annotated[Interval, "Bootstrap, 95 %; null where it is not known."]
    settings: Annotated[int, "Settings of the other factors that it is a mean over.", _SOME]


@dataclass(frozen=True)
class GranulatedKendall:
    """The granulated Kendall coefficient (Jiang et al. 2020)."""

    value: Annotated[float, "Ψ, the mean over the factors.", Keywords(minimum=-1, maximum=1)]
    interval: Annotated[Interval, "Bootstrap over runs, 95 %; null where it is not known."]
    factors: Annotated[Mapping[str, GranulatedFactor], "By metadata key."]


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b between measures, over the checkpoints."""

    measures: Annotated[Sequence[str], "Flat keys of rows and columns."]
    tau: Annotated[
        Sequence[Sequence[Number]],
        "The symmetric matrix; null where a side is constant, or fewer than four checkpoints have "
        "both numbers.",
    ]


@dataclass(frozen=True)
class Correlation:
    """Correlations over the checkpoints; `tau` is Kendall's tau-b."""

    measure: Annotated[str, "Flat key."]
    with_: Annotated[str, "Flat key of the gap."]
    tau: Annotated[Number, "Null where one side is constant.", Keywords(minimum=-1, maximum=1)]
    p_value: Annotated[Number, "Two-sided, under independence.", Keywords(minimum=0, maximum=1)]
    n: Annotated[int, "Checkpoints.", _COUNT]
    method: Annotated[
        Literal["exact", "normal"], "exact: all orders counted; normal: approximation, with ties."
    ]
    status: Annotated[
        str,
        "converged, or the worst status of the numbers that it takes in.",
        Keywords(**_STATUS, **_LATER),
    ]
    tau_interval: Annotated[Interval, "Of tau: bootstrap percentiles, 95 %.", _LATER]
    pearson: Annotated[
        Number,
        "Pearson's correlation; null where one side is constant.",
        Keywords(minimum=-1, maximum=1, **_LATER),
    ]
    pearson_interval: Annotated[Interval, "Bootstrap percentiles, 95 %.", _LATER]
    resampled: Annotated[
        Literal["runs", "settings"],
        "What the bootstrap draws: single checkpoints, or settings with all their checkpoints.",
        _LATER,
    ]
    resamples: Annotated[int, "How many.", Keywords(**_SOME, **_LATER)]
    granulated: Annotated[
        GranulatedKendall, "Absent where no two checkpoints differ in one factor only."
    ] = absent()
