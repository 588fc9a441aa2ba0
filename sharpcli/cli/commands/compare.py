"""`sharp compare`: compare saved results in one table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from sharpcli.cli import completion
from sharpcli.cli.exit_codes import ExitCode
from sharpcli.cli.options.given import refuse_unread
from sharpcli.cli.options.output import output_options, plot_option
from sharpcli.cli.parameter_types import NAMES, NumberType
from sharpcli.documents.reading import load_document, parse_document
from sharpcli.documents.results import Document
from sharpcli.documents.scores import Over
from sharpcli.documents.statuses import NOT_CONVERGED
from sharpcli.errors import SharpError, UsageError
from sharpcli.settings.output import OutputSettings

__all__ = ["compare", "read_result"]

_OF_SCORES = ("metric", "split", "lower_is_better", "target", "over")


@click.command(
    "compare",
    epilog="""\b
Examples:
  sharp compare sgd.json adam.json --by batch_size --baseline batch_size=8
  sharp measure *.safetensors --json | sharp compare -
  sharp sweep sweep.toml --output runs && sharp compare runs --by optimizer
  sharp compare runs --by batch_size --within seed --baseline batch_size=8
  sharp compare runs --by optimizer --scatter λ1 --plot gap.png
  sharp compare runs --score --target 0.9 --plot curves.svg""",
)
@click.argument(
    "results", nargs=-1, required=True, metavar="RESULT.json...", shell_complete=completion.files
)
@click.option(
    "--by",
    type=NAMES,
    default=(),
    metavar="KEY[,KEY]",
    help="Group by these metadata keys; a group shows mean ± standard deviation.",
)
@click.option(
    "--baseline",
    metavar="KEY=VALUE[,...]",
    help="Add each row's difference and ratio to this row (metadata, or a checkpoint's label).",
)
@click.option(
    "--within",
    type=NAMES,
    default=(),
    metavar="KEY[,KEY]",
    help="Match groups in these metadata keys (--within seed): differences to the baseline are "
    "means over what both groups have, and their errors those of matched pairs.",
)
@click.option(
    "--scatter",
    metavar="MEASURE",
    help="With --plot: draw this measure against the generalization gap, coloured by the first "
    "key of --by. A column's title or a JSON key. Default: λ1, else the first measure.",
)
@click.option(
    "--heat",
    metavar="MEASURE",
    help="Show the group means of this measure over the two keys of --by as a table, and with "
    "--plot as a heat map.",
)
@click.option(
    "--score",
    is_flag=True,
    help="Score the trainings of sweeps instead: utility, cost and robustness of each group of "
    "settings over its seeds.",
)
@click.option(
    "--metric",
    metavar="NAME",
    help="With --score: loss, or a metric of the task. Default: accuracy where it is known, else "
    "the loss.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    help="With --score: of which data. Default: test where the metric is known there.",
)
@click.option(
    "--lower-is-better/--higher-is-better",
    default=None,
    help="With --score: which values of the metric are better. Default: lower ones of the loss, "
    "higher ones of any other metric.",
)
@click.option(
    "--target",
    type=NumberType(),
    metavar="X",
    help="With --score: the value whose cost is asked for. Default: the best one that the median "
    "run of every group reaches.",
)
@click.option(
    "--over",
    type=click.Choice(get_args(Over)),
    default="steps",
    show_default=True,
    help="With --score: what curves are drawn over.",
)
@output_options
@plot_option("compare")
def compare(
    results: tuple[str, ...],
    by: tuple[str, ...],
    baseline: str | None,
    output: OutputSettings,
    *,
    score: bool,
    within: tuple[str, ...],
    scatter: str | None,
    heat: str | None,
    **asked: Any,
) -> int:
    """Compare saved results in one table.

    RESULT.json is a file written by `sharp measure --json`, or the folder of a sweep that measured
    its runs; `-` reads it from a pipe. Shows groups over seeds, differences to a baseline, the
    correlation of each measure with the generalization gap (Kendall's, Pearson's, and the
    granulated Kendall of Jiang et al. 2020, with bootstrap intervals), and how measures agree.

    With --score it is the folder of a sweep, or a MODEL.curves.json of `sharp train`. Shows for
    each group of settings how good its runs end, what they take to reach a target, and how much
    that depends on seed and learning rate. Needs no torch, no task and no checkpoint.
    """
    if score:
        refuse_unread(("within", "scatter", "heat"), "with --score", "leave it out")
        html = [path for path in output.plot if path.suffix.lower() == ".html"]
        if html:
            raise UsageError(
                f"--plot {html[0]}: scores are not drawn as .html", "use .png, .svg, .pdf or .npz"
            )
        return _score(results, by, baseline, output, asked)
    refuse_unread(_OF_SCORES, "without --score", "add --score, or leave it out")
    from sharpcli.documents.results import to_document
    from sharpcli.render import emit
    from sharpcli.runs.compare import compare_documents

    _check_figure(by, scatter, heat, output)
    documents = [read_result(name) for name in results]
    report = compare_documents(
        documents, by, baseline, within=within, drawn=_drawn(documents, scatter, heat)
    )
    document = to_document(report)
    emit(document, output)
    missed = output.strict and _took_in_unconverged(document)
    return ExitCode.UNCONVERGED if missed else ExitCode.DONE


def _check_figure(
    by: Sequence[str], scatter: str | None, heat: str | None, output: OutputSettings
) -> None:
    """Raise `UsageError` for figures that cannot be."""
    if scatter is not None and heat is not None:
        raise UsageError("--scatter and --heat exclude each other", "draw them one after the other")
    if scatter is not None and not output.plot:
        raise UsageError(f"--scatter {scatter}: has no effect without --plot", "add --plot FILE")
    if heat is not None and len(by) != 2:
        raise UsageError(
            f"--heat {heat}: needs the two keys that the map is over, not {len(by)}",
            "name them: --by batch_size,lr",
        )


def _drawn(
    documents: Sequence[tuple[str, Document]], scatter: str | None, heat: str | None
) -> dict[str, str]:
    """What the figure shows, with the measure's flat key."""
    from sharpcli.measures.columns import column_titles, key_named
    from sharpcli.runs.compare import keys_of

    drawn = {}
    for name, text in (("scatter", scatter), ("heat", heat)):
        if text is None:
            continue
        keys = keys_of(documents)
        key = key_named(text, keys)
        if key is None:
            shown = ", ".join(column_titles(keys).values())
            raise UsageError(f"--{name} {text}: no checkpoint has this", f"there are: {shown}")
        drawn[name] = key
    return drawn


def _score(
    results: tuple[str, ...],
    by: tuple[str, ...],
    baseline: str | None,
    output: OutputSettings,
    asked: Mapping[str, Any],
) -> int:
    """Score the runs of sweeps and trainings."""
    from sharpcli.cli.progress_bars import progress_bars
    from sharpcli.documents.results import to_document
    from sharpcli.documents.scoring import Asked
    from sharpcli.render import emit
    from sharpcli.runs.score import score_files

    if baseline is not None:
        raise UsageError(
            f"--baseline {baseline}: has no effect with --score", "leave one of them out"
        )
    with progress_bars(quiet=output.quiet) as begin:
        report = score_files(results, Asked(by=by, **asked), lambda: read_result("-"), begin)
    emit(to_document(report), output)
    return ExitCode.DONE


def read_result(name: str) -> tuple[str, Document]:
    """A saved result and its name in messages; `-` reads standard input."""
    if name != "-":
        return name, load_document(_file_of(name))
    piped = "standard input"
    return piped, parse_document(sys.stdin.buffer.read(), piped)


def _file_of(name: str) -> Path:
    """The file of saved results; of a sweep's folder what it measured at the end."""
    path = Path(name)
    if not path.is_dir():
        return path
    measures = path / "measures.json"
    if not measures.exists():
        raise SharpError(
            f"{name}: is a folder without measures.json",
            "a sweep measures its runs where its file has a [measure] table: add one, and run "
            "`sharp sweep` again; or compare its trainings with --score",
        )
    return measures


def _took_in_unconverged(document: Document) -> bool:
    return any(
        summary["status"] in NOT_CONVERGED
        for group in document["results"]
        for summary in group["measures"].values()
    )
