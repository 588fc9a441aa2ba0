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
)
