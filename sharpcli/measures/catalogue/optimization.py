"""Measures of what an optimizer and its gradients see at θ, on request."""

from __future__ import annotations

from sharpcli.measures.measure import Column, Measure, Option, loaded_later, marked

__all__ = ["OPTIMIZATION", "OPTIMIZER_STATE"]

OPTIMIZER_STATE = Option(
    "optimizer_state",
    "",
    "file of the optimizer's state (a torch or safetensors file), if it is neither in the "
    "checkpoint nor beside it",
)

OPTIMIZATION: tuple[Measure, ...] = (
    Measure(
        name="preconditioned-sharpness",
        meaning="the largest eigenvalue of the Hessian in the optimizer's own coordinates",
        formula="λ1(P^(-1/2) H P^(-1/2)); Adam: P = (1 − β1ᵗ)(√(v/(1 − β2ᵗ)) + ε)",
        cost="10 to 20 gradients",
        invariances="rescaling of single parameters together with the optimizer's memory, up to ε",
        source="Cohen et al. 2022",
        warns="eigenvalues that did not converge; needs the optimizer's state",
        compute=loaded_later("preconditioned.preconditioned_sharpness"),
        applies=loaded_later("preconditioned.applies"),
        needs_curvature=True,
        reads=("tol",),
        options=(OPTIMIZER_STATE,),
        place=60,
        columns=(
            Column(r"preconditioned_sharpness", "λ1(P⁻¹H)", leading="λ1(P⁻¹H)"),
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
        meaning="2/η for the smallest step η along the optimizer's update that raises the loss",
        formula="2/η_c, η_c = min{η > 0: L(θ − ηΔ) > L(θ)}; directional: ΔᵀHΔ/Δᵀg",
        cost="8 to 12 forward passes; one gradient if the optimizer's state is not known",
        invariances="those of the loss and Δ; directional also the scale of Δ",
        source="Kalra et al. 2026",
        warns="an update along which the loss does not fall",
        compute=loaded_later("critical.critical_sharpness"),
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
            Column(r"critical_sharpness", "2/η_c", leading="2/η_c"),
            Column(r"critical_sharpness\.directional", "ΔᵀHΔ/Δᵀg"),
            Column(r"critical_sharpness\.directional_exact", None),
        ),
        legend={
            "2/η_c": "2/η_c: critical sharpness, η_c the smallest step along the update Δ that "
            "raises the loss",
            "ΔᵀHΔ/Δᵀg": "ΔᵀHΔ/Δᵀg: directional sharpness, which is 2/η_c on a quadratic",
        },
        vanished=marked,
    ),
)
