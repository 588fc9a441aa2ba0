"""`sharp measure`: the measures of each checkpoint, one row each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpcli.cli import completion
from sharpcli.cli.exit_codes import exit_code
from sharpcli.cli.options.checkpoints import refuse_empty_paths
from sharpcli.cli.options.given import given, refuse_unread
from sharpcli.cli.options.measures import MeasureCommand
from sharpcli.cli.options.output import (
    output_options,
    plot_option,
    refuse_overwriting,
    resume_option,
)
from sharpcli.cli.options.run import curvature_options, parameters_option, run_options
from sharpcli.cli.options.task import task_options
from sharpcli.cli.parameter_types import DURATION, NumberType, WholeType, WordedType
from sharpcli.errors import UsageError
from sharpcli.measures import BUILT_IN, choose, measure_of, readers
from sharpcli.runtime import interruption
from sharpcli.runtime.files import reserved
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from sharpcli.settings.output import OutputSettings

if TYPE_CHECKING:
    from sharpcli.runtime.progress import Notes

__all__ = ["measure"]


class SubspaceType(WordedType):
    """`full`, or the dimension of a random subspace."""

    name = "full|P"
    words = ("full",)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """A positive number, or "full"; fails on anything else."""
        if value == "full":
            return "full"
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(
                f"'{value}' is neither 'full' nor a positive number of dimensions", param, ctx
            )
        return int(value)


DEFAULT = MeasureSettings()


@click.command(
    cls=MeasureCommand,
    epilog="""\b
Examples:
  sharp measure sgd.safetensors adam.safetensors --task task.py
  sharp measure run-*/model.safetensors -t digits -m loss -m hessian --top 10
  sharp measure a.pt -m epsilon-sharpness --subspace full --subspace 100
  sharp measure a.safetensors -t digits -m hessian -m trace --by layer
  sharp measure a.pt -t task.py -m loss -m hessian --sampling-error 0.1
  sharp measure a.pt b.pt c.pt -t task.py --decide hessian
  sharp measure run-*/model.safetensors --json > result.json
  sharp measure --watch run/path -m loss -m hessian --output course.json""",
)
@click.argument("checkpoints", nargs=-1, metavar="CKPT...", shell_complete=completion.files)
@click.option(
    "--measure",
    "-m",
    "measures",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.measures,
    help="A measure, or all. Repeatable. Default: "
    f"{', '.join(name for name, known in BUILT_IN.items() if known.default)}. --list says "
    "what there is.",
)
@click.option(
    "--list",
    "list_measures",
    is_flag=True,
    help="Print a table of the measures with their cost and what each is invariant to, and exit. "
    "With -m print all about the named ones.",
)
@click.option(
    "--epsilon",
    "epsilons",
    multiple=True,
    type=NumberType(0, open_=True),
    metavar="E",
    default=DEFAULT.epsilons,
    show_default=True,
    help="ε-sharpness: the size of the box. Repeatable.",
)
@click.option(
    "--subspace",
    "subspaces",
    multiple=True,
    type=SubspaceType(),
    metavar="P",
    default=("full",),
    show_default=True,
    help="ε-sharpness: dimension of a random subspace, or full. Repeatable.",
)
@click.option(
    "--draws",
    type=WholeType(1),
    metavar="N",
    default=DEFAULT.draws,
    show_default=True,
    help="ε-sharpness: number of random subspaces of each size. φ is their mean, with its standard "
    "error.",
)
@click.option(
    "--maximizer",
    type=click.Choice(["lbfgsb", "corner", "both", "raw"]),
    default=DEFAULT.maximizer,
    show_default=True,
    help="ε-sharpness: how to search for the maximum. raw is SciPy's L-BFGS-B on the unscaled "
    "problem, for comparison with published numbers.",
)
@click.option(
    "--top",
    "-k",
    type=WholeType(1),
    metavar="K",
    default=DEFAULT.top,
    show_default=True,
    help="hessian: number of largest eigenvalues.",
)
@click.option(
    "--tol",
    type=NumberType(0, 1, open_=True),
    metavar="T",
    default=DEFAULT.tol,
    show_default=True,
    help="hessian: largest residual as a fraction of λ1.",
)
@click.option(
    "--relative-error",
    type=NumberType(0, open_=True),
    metavar="R",
    help="trace: largest standard error as a share of the trace. With --samples also what the "
    f"sample may leave unknown, as --sampling-error R.  [default: {DEFAULT.relative_error:g}]",
)
@click.option(
    "--sampling-error",
    type=NumberType(0, open_=True),
    metavar="R",
    help="Measure as few examples as bring the sampling errors of loss, φ, λ1 and trace below this "
    "share of each: 512 (or --samples), then as many as it takes, up to all.",
)
@click.option(
    "--time",
    type=DURATION,
    metavar="T",
    help="Take about this long for all checkpoints together, divided evenly over them: 60 "
    "(seconds), 2m or 1h. Measures 128 examples (or --samples), then as many as fit, and states "
    "their sampling errors. With --sampling-error whichever comes first.",
)
@click.option(
    "--decide",
    metavar="MEASURE",
    shell_complete=completion.measures,
    help="Measure as few examples as decide at 95 % which checkpoint is sharper by this measure "
    "(or number, as hessian.eigenvalues[1]): 256 (or --samples), then twice as many, up to all. "
    "Other measures (-m) are measured on the last sample.",
)
@click.option(
    "--baseline",
    metavar="CKPT",
    shell_complete=completion.files,
    help="Compare the other checkpoints with this one only, not all with one another.",
)
@click.option(
    "--max-products",
    type=WholeType(1),
    metavar="N",
    help="hessian, trace: stop after this many products. Default: depends on the measures.",
)
@click.option(
    "--by",
    type=click.Choice(["layer"]),
    help="Also measure each layer's block of the parameters, one run per layer.",
)
@click.option(
    "--initial",
    type=click.Path(path_type=Path),
    metavar="CKPT",
    help="distance-from-initialisation: the checkpoint from before the training.",
)
@click.option(
    "--rescale-check",
    is_flag=True,
    help="Rescale hidden units so that the function stays the same, measure again, and say which "
    "numbers moved.",
)
@click.option(
    "--rescale-by",
    type=click.Choice(["unit", "layer"]),
    default=DEFAULT.rescale_by,
    show_default=True,
    help="--rescale-check: a factor for each hidden unit, or one for a layer's units.",
)
@click.option(
    "--rescale-factor",
    type=NumberType(1, 1000, open_=True),
    metavar="F",
    default=DEFAULT.rescale_factor,
    show_default=True,
    help="--rescale-check: factors are log-uniform between 1/F and F.",
)
@click.option(
    "--watch",
    "watched",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="In place of CKPT: measure the checkpoints in DIR, and those that a training writes "
    "there, as they come. A row of each goes to stderr, the result follows after Ctrl-C.",
)
@click.option(
    "--watch-idle",
    type=DURATION,
    metavar="T",
    help="--watch: also end when no new checkpoint has come for so long: 90 (seconds), 10m, 2h.",
)
@click.option(
    "--save-vectors",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="hessian: write the eigenvectors of the largest eigenvalues to FILE.safetensors, by "
    "eigenvalue and parameter, with the eigenvalues in the metadata.",
)
@parameters_option
@curvature_options
@task_options
@run_options
@output_options
@plot_option("measure")
@resume_option
def measure(
    checkpoints: tuple[str, ...],
    measures: tuple[str, ...],
    list_measures: bool,
    epsilons: tuple[float, ...],
    subspaces: tuple[int | str, ...],
    draws: int,
    maximizer: Any,
    top: int,
    tol: float,
    relative_error: float | None,
    sampling_error: float | None,
    time: float | None,
    decide: str | None,
    baseline: str | None,
    max_products: int | None,
    by: Any,
    initial: Path | None,
    rescale_check: bool,
    rescale_by: Any,
    rescale_factor: float,
    watched: Path | None,
    watch_idle: float | None,
    save_vectors: Path | None,
    options: dict[str, Any],
    curvature: CurvatureSettings,
    task: str | None,
    task_options: dict[str, str],
    run: RunSettings,
    output: OutputSettings,
    resume: bool,
) -> int:
    """Measure how sharp the minimum of each checkpoint is.

    Prints a row for each checkpoint: loss and generalization gap, Keskar's ε-sharpness, the
    gradient's norm, both ends of the Hessian's spectrum and its trace, each with its error. A
    failure is shown in its row, and the other checkpoints are still measured. --plot draws the
    measures over the steps of one training, whose checkpoints say theirs in their metadata.
    """
    from sharpcli.cli.progress_bars import notes_of, progress_bars
    from sharpcli.cli.watched_rows import rows_on_stderr
    from sharpcli.documents.results import is_interrupted, to_document
    from sharpcli.render import emit, say_written

    if list_measures:
        from sharpcli.cli.measure_list import print_measures

        print_measures(measures, as_json=output.format == "json")
        return 0
    if watched is None:
        refuse_unread(["watch_idle"], "without --watch", "name the folder: --watch DIR")
    if not checkpoints and watched is None:
        raise UsageError("no checkpoint: nothing to measure", "sharp measure model.safetensors")
    refuse_empty_paths(checkpoints)
    if sampling_error is None and run.samples is not None and decide is None:
        sampling_error = relative_error
    settings = MeasureSettings(
        measures=measures,
        epsilons=tuple(dict.fromkeys(epsilons)),
        subspaces=tuple(None if p == "full" else int(p) for p in dict.fromkeys(subspaces)),
        draws=draws,
        maximizer=maximizer,
        top=top,
        tol=tol,
        max_products=max_products,
        relative_error=DEFAULT.relative_error if relative_error is None else relative_error,
        sampling_error=sampling_error,
        time=time,
        decide=decide,
        baseline=baseline,
        curvature=curvature,
        by=by,
        initial=initial,
        rescale_check=rescale_check,
        rescale_by=rescale_by,
        rescale_factor=rescale_factor,
        options=options,
    )
    notes = notes_of(output)
    _note_unread(settings, notes)
    keep = None if save_vectors is None else _vectors_to(save_vectors, settings)
    with reserved(save_vectors), progress_bars(quiet=output.quiet) as begin:
        from sharpcli.runs.finished import Finished  # loads torch
        from sharpcli.runs.measure import measure_checkpoints
        from sharpcli.runs.watching import Watch

        told = rows_on_stderr(quiet=output.quiet)
        watch = None if watched is None else Watch(watched, watch_idle, told)
        # A result of an earlier run has no vectors.
        again = resume and keep is None
        finished = Finished(output.output, resume=again, notes=notes)
        report = measure_checkpoints(
            checkpoints,
            task,
            task_options,
            run,
            settings,
            begin=begin,
            notes=notes,
            finished=finished,
            watch=watch,
            keep=keep,
        )
        written = keep.save() if keep is not None else None
    document = to_document(report)
    emit(document, output)
    if written is not None:
        say_written(written, quiet=output.quiet)
    if watched is not None and interruption.received():
        return interruption.exit_code()
    if not is_interrupted(document):
        finished.discard()
    return exit_code(document, strict=output.strict)


def _vectors_to(path: Path, settings: MeasureSettings) -> Any:
    """Where the eigenvectors go, checked before anything is measured."""
    from sharpcli.runs.saved_vectors import SavedVectors

    if path.suffix.lower() != ".safetensors":
        raise UsageError(
            f"--save-vectors {path}: eigenvectors are saved as safetensors",
            f"name it {path.with_suffix('.safetensors')}",
        )
    refuse_overwriting(("--save-vectors", path))
    if settings.measures and not {"hessian", "all"} & {*settings.measures}:
        raise UsageError(
            f"--save-vectors {path}: no measure computes eigenvectors", "add -m hessian"
        )
    kept = SavedVectors(path)
    kept.check()
    return kept


def _note_unread(settings: MeasureSettings, notes: Notes) -> None:
    """Note which given options none of the requested measures uses."""
    decided = None if settings.decide is None else measure_of(settings.decide)
    chosen = choose(settings.measures) if settings.measures or decided is None else []
    for name, measures in readers([*chosen, *([decided] if decided else [])]).items():
        if name == "relative_error" and settings.sampling_error is not None:
            continue  # with --samples it is the sample's
        for option in given([name]):
            notes.note(f"{option} has no effect: it is for -m {' and -m '.join(measures)}")
