"""`sharp spectrum`: the spectral density of each checkpoint's curvature."""

from __future__ import annotations

import click

from sharpcli.cli import completion
from sharpcli.cli.exit_codes import exit_code
from sharpcli.cli.options.checkpoints import refuse_empty_paths
from sharpcli.cli.options.output import output_options, plot_option, resume_option
from sharpcli.cli.options.run import curvature_options, parameters_option, run_options
from sharpcli.cli.options.task import task_options
from sharpcli.cli.parameter_types import WholeType
from sharpcli.errors import UsageError
from sharpcli.settings.curvature import CurvatureSettings, SpectrumSettings
from sharpcli.settings.measuring import RunSettings
from sharpcli.settings.output import OutputSettings

__all__ = ["spectrum"]

DEFAULT = SpectrumSettings()


@click.command(
    epilog="""\b
Examples:
  sharp spectrum model.safetensors --task task.py
  sharp spectrum sgd.pt adam.pt -t digits --plot spectrum.png
  sharp spectrum model.safetensors --operator ggn --probes 4 --steps 120
  sharp spectrum run-*/model.safetensors --json > spectra.json"""
)
@click.argument("checkpoints", nargs=-1, metavar="CKPT...", shell_complete=completion.files)
@click.option(
    "--probes",
    type=WholeType(2),
    metavar="N",
    help="Random directions for estimating the density. Default: 2 for a large model, more for a "
    "small one.",
)
@click.option(
    "--steps",
    type=WholeType(5),
    metavar="N",
    default=DEFAULT.steps,
    show_default=True,
    help="Lanczos steps from each; more steps resolve the spectrum more finely.",
)
@parameters_option
@curvature_options
@task_options
@run_options
@output_options
@plot_option("spectrum")
@resume_option
def spectrum(
    checkpoints: tuple[str, ...],
    probes: int | None,
    steps: int,
    curvature: CurvatureSettings,
    task: str | None,
    task_options: dict[str, str],
    run: RunSettings,
    output: OutputSettings,
    resume: bool,
) -> int:
    """Draw the spectral density of each checkpoint's Hessian.

    Stochastic Lanczos quadrature estimates the distribution of the eigenvalues from a few hundred
    Hessian-vector products. Prints a chart, and for each checkpoint both ends of the spectrum, the
    bulk's edge, the number of outliers beyond it, and the moments, each with its error. A model
    with fewer parameters than that gets all its eigenvalues.
    """
    from sharpcli.cli.progress_bars import notes_of, progress_bars
    from sharpcli.documents.results import is_interrupted, to_document
    from sharpcli.render import emit
    from sharpcli.runs.finished import Finished
    from sharpcli.runs.spectrum import spectra_of_checkpoints

    if not checkpoints:
        raise UsageError("no checkpoint: nothing to draw", "sharp spectrum model.safetensors")
    refuse_empty_paths(checkpoints)
    settings = SpectrumSettings(probes, steps, curvature)
    notes = notes_of(output)
    finished = Finished(output.output, resume=resume, notes=notes)
    with progress_bars(quiet=output.quiet) as begin:
        report = spectra_of_checkpoints(
            checkpoints,
            task,
            task_options,
            run,
            settings,
            begin=begin,
            notes=notes,
            finished=finished,
        )
    document = to_document(report)
    emit(document, output)
    if not is_interrupted(document):
        finished.discard()
    return exit_code(document, strict=output.strict)
