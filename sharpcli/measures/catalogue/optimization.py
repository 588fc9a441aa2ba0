"""Measures of what an optimizer and its gradients see at θ, on request."""

from __future__ import annotations

from sharpcli.measures.catalogue.defaults import CURVATURE
from sharpcli.measures.measure import Column, Measure, Option, loaded_later, marked

__all__ = ["OPTIMIZATION", "OPTIMIZER_STATE"]

OPTIMIZER_STATE = Option(
    "optimizer_state",
    "",
    "file of the optimizer's state (a torch or safetensors file), if it is neither in the "
    "checkpoint nor beside it",
)

NOISE_EXAMPLES = Option(
    "noise_examples", 512, "examples whose own gradients are taken, drawn at random", low=2
)

OPTIMIZATION: tuple[Measure, ...] = (
    Measure(
        name="largest-eigenvalue",
        meaning="the largest eigenvalue of the Hessian alone, in a third of the products",
        formula="λ1 of ∇²L(θ), residual ‖Hv − λv‖",
        cost="8 to 20 products; a product is 1.5 to 2.8 gradients",
        invariances="rotations of θ; not rescaling",
        source="block Lanczos with thick restarts (Wu & Simon 2000)",
        warns="an eigenvalue that did not converge; a failed self-check of second derivatives",
        compute=loaded_later("largest_eigenvalue.largest_eigenvalue"),
        needs_curvature=True,
        reads=(*CURVATURE, "tol"),
        scale_invariant=False,
        gradients=lambda _, __: 20.0,
        place=31,
        columns=(Column(r"largest_eigenvalue", "λmax", leading="λmax", larger_is_sharper=True),),
        legend={"λmax": "λmax: largest eigenvalue of the Hessian, measured alone"},
        vanished=marked,
    ),
    Measure(
        name="preconditioned-sharpness",
        gradients=lambda _, __: 15.0,
        meaning="the largest eigenvalue of the Hessian in the optimizer's own coordinates",
        formula="λ1(P^(-1/2) H P^(-1/2)); Adam: P = (1 − β1ᵗ)(√(v/(1 − β2ᵗ)) + ε)",
        cost="10 to 20 gradients",
        invariances="rescaling of single parameters together with the optimizer's memory, up to ε",
        source="Cohen et al. 2022",
        warns="eigenvalues that did not converge; needs the optimizer's state",
        compute=loaded_later("preconditioned.preconditioned_sharpness"),
        one_split=True,
        applies=loaded_later("preconditioned.applies"),
        needs_curvature=True,
        reads=("tol",),
        options=(OPTIMIZER_STATE,),
        place=60,
        columns=(
            Column(
                r"preconditioned_sharpness", "λ1(P⁻¹H)", leading="λ1(P⁻¹H)", larger_is_sharper=True
            ),
            Column(r"preconditioned_sharpness\.ratio", "of limit"),
        ),
        legend={
            "λ1(P⁻¹H)": "λ1(P⁻¹H): largest eigenvalue of the Hessian that the optimizer "
            "preconditions",
            "of limit": "of limit: λ1(P⁻¹H) as a share of the largest at which steps are stable",
        },
        vanished=marked,
    ),
    Measure(
        name="critical-sharpness",
        gradients=lambda _, __: 5.0,
        meaning="2/η for the smallest step η along the optimizer's update that raises the loss",
        formula="2/η_c, η_c = min{η > 0: L(θ − ηΔ) > L(θ)}; directional: ΔᵀHΔ/Δᵀg",
        cost="8 to 12 forward passes; one gradient if the optimizer's state is not known, and one "
        "with a product if the loss has kinks, as of ReLU",
        invariances="those of the loss and Δ; directional also the scale of Δ",
        source="Kalra et al. 2026",
        warns="an update along which the loss does not fall",
        compute=loaded_later("critical.critical_sharpness"),
        one_split=True,
        needs_gradients=False,
        reads=("hvp",),
        options=(
            OPTIMIZER_STATE,
            Option(
                "exact_directional",
                False,
                "also ΔᵀHΔ/Δᵀg by one Hessian product, beside that by differences of losses",
            ),
        ),
        place=61,
        columns=(
            Column(r"critical_sharpness", "2/η_c", leading="2/η_c", larger_is_sharper=True),
            Column(r"critical_sharpness\.directional", "ΔᵀHΔ/Δᵀg", larger_is_sharper=True),
            Column(r"critical_sharpness\.directional_exact", None, larger_is_sharper=True),
        ),
        legend={
            "2/η_c": "2/η_c: critical sharpness, η_c the smallest step along the update Δ that "
            "raises the loss",
            "ΔᵀHΔ/Δᵀg": "ΔᵀHΔ/Δᵀg: directional sharpness, which is 2/η_c on a quadratic",
        },
        vanished=marked,
    ),
    Measure(
        name="noise-scale",
        gradients=lambda _, __: 56.0,
        scale_invariant=False,
        meaning="the batch size at which the gradient's noise weighs as much as the gradient",
        formula="B_simple = tr Σ/|G|², B_noise = tr(HΣ)/(GᵀHG), g = ηN/B of SGD",
        cost="512 gradients of one example and 33 products, by default",
        invariances="rotations of θ; B_noise also rescaling of the loss",
        source="McCandlish et al. 2018; Smith et al. 2018",
        warns="a gradient that cannot be distinguished from zero; negative curvature along it",
        compute=loaded_later("noise_scale.noise_scale"),
        applies=loaded_later("noise.applies"),
        needs_curvature=True,
        reads=("hvp", "operator"),
        options=(
            NOISE_EXAMPLES,
            Option("noise_products", 32, "products, each with one example's gradient", low=2),
        ),
        place=62,
        columns=(
            Column(r"noise_scale\.simple", "B simple", leading="B_simple"),
            Column(r"noise_scale\.noise", "B noise", leading="B_noise"),
            Column(r"noise_scale\.smith", None),
        ),
        legend={
            "B simple": "B simple: tr Σ/|G|², the batch size at which noise and gradient are alike",
            "B noise": "B noise: tr(HΣ)/(GᵀHG), the same with the curvature's weights",
        },
        vanished=marked,
    ),
    Measure(
        name="fisher-rao",
        gradients=lambda _, __: 2.5,
        scale_invariant=True,
        meaning="the size of θ in the metric of the model's Fisher matrix",
        formula="θᵀFθ and √(θᵀFθ), F = E JᵀBJ with targets drawn from the model",
        cost="one product",
        invariances="rescaling of layers that leaves the function unchanged",
        source="Liang et al. 2019",
        warns="needs a loss that is a log-likelihood, such as cross-entropy",
        compute=loaded_later("fisher_rao.fisher_rao"),
        one_split=True,
        applies=loaded_later("fisher_rao.applies"),
        needs_curvature=True,
        reads=(),
        place=63,
        columns=(
            Column(r"fisher_rao\.norm", "‖θ‖ F-R", leading="the Fisher-Rao norm"),
            Column(r"fisher_rao\.squared", None),
        ),
        legend={"‖θ‖ F-R": "‖θ‖ F-R: Fisher-Rao norm, √(θᵀFθ)"},
        vanished=marked,
    ),
    Measure(
        name="gradient-coherence",
        gradients=lambda _, __: 2.0,
        scale_invariant=False,
        meaning="how far gradients of examples agree, and those of train and test",
        formula="|G|²/E|gᵢ|²; cos(∇L_train, ∇L_test) and their inner product",
        cost="512 gradients of one example by default, and one of the other split",
        invariances="rotations of θ; rescaling of the loss, except the inner product",
        source="Chatterjee & Zielinski 2020",
        warns="—",
        compute=loaded_later("coherence.gradient_coherence"),
        applies=loaded_later("noise.applies"),
        reads=(),
        options=(NOISE_EXAMPLES,),
        place=64,
        columns=(
            Column(r"gradient_coherence\.examples", "coherence", leading="the coherence"),
            Column(r"gradient_coherence\.cosine", "cos test"),
            Column(r"gradient_coherence\.(inner|m)", None),
        ),
        legend={
            "coherence": "coherence: |G|²/E|g|² over examples, 1 if all gradients are the same",
            "cos test": "cos test: cosine of the gradients of training and test loss",
        },
        vanished=marked,
    ),
    Measure(
        name="effective-rank",
        gradients=lambda _, __: 270.0,
        scale_invariant=False,
        meaning="how many eigenvalues of the Hessian are large",
        formula="Σ max(λ, 0)/λ1; the number of eigenvalues above the bulk's edge",
        cost="as sharp spectrum: 160 to 3,200 products, at most one for each parameter",
        invariances="rotations of θ; the scale of the loss",
        source="Keskar et al. 2017; Tropp 2015",
        warns="a bulk whose edge is not resolved",
        compute=loaded_later("effective_rank.effective_rank"),
        one_split=True,
        needs_curvature=True,
        reads=("operator", "hvp"),
        place=65,
        columns=(
            Column(r"effective_rank", "eff. rank", leading="the effective rank"),
            Column(r"effective_rank\.outliers", "large λ"),
        ),
        legend={
            "eff. rank": "eff. rank: Σ max(λ, 0)/λ1",
            "large λ": "large λ: eigenvalues of the Hessian above the bulk of the others",
        },
        vanished=marked,
    ),
)
