"""Norms and margins that studies compare sharpness with, on request."""

from __future__ import annotations

from sharpcli.measures.measure import Column, Measure, Option, loaded_later

__all__ = ["PARAMETER_NORMS"]

PERCENTILE = Option(
    "margin_percentile",
    10.0,
    "the percentile of the margins over the examples.",
    low=0.0,
    high=100.0,
)

PARAMETER_NORMS: tuple[Measure, ...] = (
    Measure(
        name="parameter-norms",
        gradients=lambda _, __: 0.0,
        scale_invariant=False,
        meaning="norms of the measured parameters",
        formula="‖θ‖₂, ‖θ‖₂², max |θᵢ|",
        cost="nothing: no pass over the data",
        invariances="none: rescaling changes them, permuting units does not",
        source="Jiang et al. 2020; Dziugaite et al. 2020",
        warns="nothing",
        compute=loaded_later("parameter_norms.parameter_norms"),
        one_split=True,
        reads=(),
        needs_gradients=False,
        place=200,
        exact=True,
        of_data=False,
        columns=(
            Column(r"parameter_norms\.norm", "‖θ‖"),
            Column(r"parameter_norms\..*", None),
        ),
        legend={"‖θ‖": "‖θ‖: the 2-norm of the parameters"},
    ),
    Measure(
        name="distance-from-initialisation",
        gradients=lambda _, __: 0.0,
        scale_invariant=False,
        meaning="how far the parameters are from those before the training",
        formula="‖θ − θ₀‖₂, and its ratio to ‖θ₀‖₂; Σ over matrices of ‖W − W₀‖_F",
        cost="reading the initial checkpoint",
        invariances="none: rescaling and permuting units change it",
        source="Nagarajan & Kolter 2019; Jiang et al. 2020",
        warns="a checkpoint that is the initial one",
        compute=loaded_later("parameter_norms.distance_from_initialisation"),
        one_split=True,
        reads=("initial",),
        needs_gradients=False,
        place=201,
        exact=True,
        of_data=False,
        columns=(
            Column(r"distance_from_initialisation\.norm", "‖θ−θ₀‖"),
            Column(r"distance_from_initialisation\..*", None),
        ),
        legend={"‖θ−θ₀‖": "‖θ−θ₀‖: the 2-norm of the way from the initial checkpoint"},
        applies=loaded_later("parameter_norms.check_initial"),
    ),
    Measure(
        name="spectral-norms",
        gradients=lambda _, __: 0.0,
        scale_invariant=False,
        meaning="product of the layers' spectral norms, and the sum of their stable ranks",
        formula="Π ‖Wₗ‖₂ and its logarithm, Σ ‖Wₗ‖_F²/‖Wₗ‖₂²; a kernel as a matrix (out, rest)",
        cost="the singular values of each layer's matrix, and a forward pass of two examples",
        invariances="rescaling of whole layers by one factor each; not of single units",
        source="Bartlett et al. 2017; Neyshabur et al. 2018; Jiang et al. 2020",
        warns="norms between layers that no matrix takes in, such as a layer norm",
        compute=loaded_later("spectral_norms.spectral_norms"),
        one_split=True,
        reads=(),
        needs_gradients=False,
        of_parameters=False,
        place=210,
        exact=True,
        of_data=False,
        columns=(
            Column(r"spectral_norms\.product", "Π‖W‖₂"),
            Column(r"spectral_norms\.stable_rank", "stable rank"),
            Column(r"spectral_norms\..*", None),
        ),
        legend={
            "Π‖W‖₂": "Π‖W‖₂: the product of the layers' spectral norms, batch norms folded in",
            "stable rank": "stable rank: Σ ‖W‖_F²/‖W‖₂² over the layers",
        },
        applies=loaded_later("layer_matrices.check_layers"),
    ),
    Measure(
        name="path-norm",
        gradients=lambda _, __: 0.0,
        scale_invariant=True,
        meaning="the 2-norm over all paths of the product of their weights",
        formula="√Σ_outputs f(1; θ²): the network of squared weights on an input of ones",
        cost="one forward pass of one example",
        invariances="rescaling of units (ReLU, batch norm), permuting units",
        source="Neyshabur, Tomioka & Srebro 2015; Jiang et al. 2020",
        warns="nothing; it is refused unless every operation passes positive factors on",
        compute=loaded_later("path_norm.path_norm"),
        one_split=True,
        reads=(),
        needs_gradients=False,
        of_parameters=False,
        place=211,
        exact=True,
        of_data=False,
        columns=(
            Column(r"path_norm\.norm", "path norm"),
            Column(r"path_norm\..*", None),
        ),
        legend={
            "path norm": "path norm: the 2-norm over all paths from an input to an output of the "
            "product of their weights"
        },
        applies=loaded_later("path_norm.check_path_norm"),
    ),
    Measure(
        name="margin",
        gradients=lambda _, __: 0.4,
        meaning="a low percentile of the output margin, and its share of the network's norms",
        formula="q-th percentile of f_y − max_{j≠y} f_j; divided by Π ‖Wₗ‖₂, and by the path norm",
        cost="one forward pass, and those of spectral-norms and path-norm",
        invariances="rescaling of units; the share of Π ‖Wₗ‖₂: of whole layers only",
        source="Bartlett et al. 2017; Jiang et al. 2020",
        warns="a sample too small for the percentile",
        compute=loaded_later("margin.margin"),
        one_split=True,
        reads=(),
        options=(PERCENTILE,),
        needs_gradients=False,
        of_parameters=False,
        place=212,
        exact=True,
        columns=(
            Column(r"margin\.output", "margin"),
            Column(r"margin\.over_path_norm", "margin/path norm"),
            Column(r"margin\.over_spectral_norms", "margin/Π‖W‖₂"),
        ),
        legend={
            "margin": "margin: a percentile over the examples (the 10th if not asked otherwise) of "
            "the right class's output minus the largest other one"
        },
        applies=loaded_later("margin.check_margin"),
    ),
)
