"""Measures of how the loss rises around θ, on request."""

from __future__ import annotations

from sharpcli.measures.measure import Column, Measure, Option, loaded_later, marked

__all__ = ["PERTURBATIONS"]

_VANISHED = loaded_later("rises.vanished")

PERTURBATIONS: tuple[Measure, ...] = (
    Measure(
        name="adaptive-sharpness",
        gradients=lambda _, __: 155.0,
        scale_invariant=True,
        meaning="the worst and the average rise of the loss, relative to each weight",
        formula=(
            "worst: max over ‖δ ⊘ c‖ ≤ ρ of L(θ + δ) − L(θ); average: its mean over δ ∼ "
            "N(0, ρ² diag c²) (ℓ2) or uniform ±ρc (ℓ∞); c = |θ|, or 1"
        ),
        cost="about 70 gradients a worst case, 20 forward passes an average",
        invariances="with c = |θ| any rescaling of weights that leaves the function unchanged",
        source="Andriushchenko et al. 2023; Kwon et al. 2021; Auto-PGD: Croce & Hein 2020",
        warns="a worst case is a lower bound; a rise that the dtype does not resolve",
        compute=loaded_later("adaptive_sharpness.adaptive_sharpness"),
        one_split=True,
        reads=(),
        place=60,
        # The radii are the middle ones of those that Andriushchenko et al. 2023 use both for
        # ResNets and for vision transformers on CIFAR-10, with c = |θ|: ℓ∞ .001 .002 .004,
        # ℓ2 .5 1 2, average ℓ∞ .1 .2 .4 .8, average ℓ2 .1 .2 .4.
        options=(
            Option(
                "worst_linf_rho", 0.002, "ρ of the worst case in the ℓ∞ norm.", low=0, open_=True
            ),
            Option("worst_l2_rho", 1.0, "ρ of the worst case in the ℓ2 norm.", low=0, open_=True),
            Option(
                "average_linf_rho", 0.2, "ρ of the average over uniform noise.", low=0, open_=True
            ),
            Option("average_l2_rho", 0.2, "ρ of the average over normal noise.", low=0, open_=True),
            Option("average_draws", 20, "number of random displacements of each average.", low=2),
            Option(
                "adaptive_scale",
                "weights",
                "c: the size of each weight, or one for all. The default radii are for weights.",
                choices=("weights", "one"),
            ),
            Option(
                "m_sharpness",
                0,
                "m: the worst case is the mean over shards of about m examples of each shard's "
                "own. 0: all data at once.",
                low=0,
            ),
        ),
        columns=(
            Column(r"adaptive_sharpness\.worst_linf", "worst ℓ∞", larger_is_sharper=True),
            Column(r"adaptive_sharpness\.worst_l2", "worst ℓ2", larger_is_sharper=True),
            Column(r"adaptive_sharpness\.average_l2", "avg ℓ2", larger_is_sharper=True),
            Column(r"adaptive_sharpness\..+", None, larger_is_sharper=True),
        ),
        legend={
            "worst ℓ": "worst ℓ∞, ℓ2: adaptive sharpness, the largest rise of the loss within a "
            "distance ρ, measured in units of each weight",
            "avg ℓ2": "avg ℓ2: the loss's mean rise under normal noise of ρ times each weight",
        },
        vanished=_VANISHED,
    ),
    Measure(
        name="sam-sharpness",
        gradients=lambda _, __: 2.5,
        meaning="the rise of the loss after the step of sharpness-aware minimization",
        formula="sam: L(θ + ρg/‖g‖) − L(θ); asam: L(θ + ρT²g/‖Tg‖) − L(θ), T = diag |θ|",
        cost="a gradient, and two forward passes each",
        invariances="asam: any rescaling of weights that leaves the function unchanged; sam: none",
        source="Foret et al. 2021; Kwon et al. 2021",
        warns="a lower bound of the worst case in the same ball; a gradient that is zero or "
        "rounding, which has no direction",
        compute=loaded_later("sam_sharpness.sam_sharpness"),
        one_split=True,
        reads=(),
        place=61,
        options=(
            Option("sam_rho", 0.05, "ρ of SAM's step, as in its paper.", low=0, open_=True),
            Option("asam_rho", 0.5, "ρ of ASAM's step, as in its paper.", low=0, open_=True),
        ),
        columns=(
            Column(r"sam_sharpness\.sam", "SAM", larger_is_sharper=True),
            Column(r"sam_sharpness\.asam", "ASAM", larger_is_sharper=True),
            Column(r"sam_sharpness\..+", None, larger_is_sharper=True),
        ),
        legend={
            "SAM": "SAM, ASAM: the rise of the loss after one step along the gradient, of length ρ "
            "or of length ρ relative to the weights"
        },
        vanished=marked,
    ),
    Measure(
        name="low-pass",
        gradients=lambda _, __: 35.0,
        scale_invariant=False,
        meaning="the mean rise of the loss under normal noise of one size on all weights",
        formula="E L(θ + u) − L(θ), u ∼ N(0, σ²I)",
        cost="100 forward passes and a gradient",
        invariances="rotations of θ; not rescaling",
        source="Bisla et al. 2022",
        warns="a standard error as large as the value; a rise that the dtype does not resolve",
        compute=loaded_later("low_pass.low_pass"),
        one_split=True,
        reads=(),
        place=62,
        options=(
            Option("low_pass_sigma", 0.01, "σ, the standard deviation.", low=0, open_=True),
            Option("low_pass_draws", 100, "number of random displacements.", low=2),
        ),
        columns=(Column("low_pass", "low-pass", larger_is_sharper=True),),
        legend={"low-pass": "low-pass: the loss's mean rise under noise N(0, σ²) on every weight"},
        vanished=marked,
    ),
    Measure(
        name="pac-bayes",
        gradients=lambda _, __: 48.0,
        meaning="how little noise on the weights lowers the accuracy by a tenth",
        formula="1/σ² with E accuracy(θ + u) = accuracy(θ) − 0.1; isotropic u ∼ N(0, σ²I), "
        "magnitude u ∼ N(0, σ²θ² + 10⁻⁶)",
        cost="up to 145 forward passes",
        invariances="magnitude: rescaling of weights, but for the 10⁻⁶; isotropic: none",
        source="Jiang et al. 2020",
        warns="an accuracy that does not fall that far, or falls at every σ",
        compute=loaded_later("pac_bayes.pac_bayes"),
        one_split=True,
        applies=loaded_later("pac_bayes.has_accuracy"),
        reads=(),
        needs_gradients=False,
        place=63,
        options=(
            Option(
                "accuracy_drop",
                0.1,
                "by how much the mean accuracy falls.",
                low=0,
                high=1,
                open_=True,
            ),
        ),
        columns=(
            Column(r"pac_bayes\.isotropic", "1/σ²", larger_is_sharper=True),
            Column(r"pac_bayes\.magnitude", "1/σ² mag.", larger_is_sharper=True),
            Column(r"pac_bayes\..+", None, larger_is_sharper=True),
        ),
        legend={
            "1/σ²": "1/σ²: σ is the noise on the weights (mag.: relative to each) that lowers the "
            "accuracy by 0.1, or as much as was asked"
        },
    ),
    Measure(
        name="local-entropy",
        gradients=lambda _, __: 35.0,
        scale_invariant=False,
        meaning="the log of the volume of small losses around θ",
        formula="mean: log E exp(−L(θ + u)), u ∼ N(0, I/γ); integral: "
        "log ∫ exp(−L(θ′) − γ/2‖θ − θ′‖²) dθ′, which is mean + ½n·log(2π/γ)",
        cost="100 forward passes and a gradient",
        invariances="rotations of θ; not rescaling",
        source="Chaudhari et al. 2017",
        warns="a mean that few draws carry: γ is too small for a plain average",
        compute=loaded_later("local_entropy.local_entropy"),
        one_split=True,
        reads=(),
        place=64,
        # γ = 1/σ² of low-pass: both see the same neighbourhood.
        options=(
            Option("entropy_gamma", 1e4, "γ: 1/γ is the variance around θ.", low=0, open_=True),
            Option("entropy_draws", 100, "number of random displacements.", low=4),
        ),
        columns=(
            Column(r"local_entropy\.mean", "entropy", larger_is_sharper=False),
            Column(r"local_entropy\..+", None, larger_is_sharper=False),
        ),
        legend={
            "entropy": "entropy: local entropy, the log of the mean of exp(−loss) under noise of "
            "variance 1/γ; larger is wider"
        },
        vanished=marked,
    ),
)
