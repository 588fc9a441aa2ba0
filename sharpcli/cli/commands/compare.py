"""`sharp compare`: compare saved results in one table."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sharpcli.cli.exit_codes import ExitCode
from sharpcli.cli.options import output_options
from sharpcli.cli.parameter_types import NAMES
from sharpcli.documents.reading import load_document, parse_document
from sharpcli.documents.results import Document
from sharpcli.documents.statuses import NOT_CONVERGED
from sharpcli.errors import SharpError
from sharpcli.settings import OutputSettings

__all__ = ["compare", "read_result"]


@click.command(
    "compare",
    epilog="""\b
Examples:
  sharp compare sgd.json adam.json --by batch_size --baseline batch_size=8
  sharp measure *.safetensors --json | sharp compare -
  sharp sweep sweep.toml --output runs && sharp compare runs --by optimizer""",
)
@click.argument("results", nargs=-1, required=True, metavar="RESULT.json...")
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
@output_options
def compare(
    results: tuple[str, ...], by: tuple[str, ...], baseline: str | None, output: OutputSettings
) -> int:
    """Compare saved results in one table.

    RESULT.json is a file written by `sharp measure --json`, or the folder of a sweep that measured
    its runs; `-` reads it from a pipe. Shows groups over seeds, differences to a baseline, and the
    rank correlation of each measure with the
    generalization gap. Needs no torch, no task and no checkpoint.
    """
    from sharpcli.documents import comparison
    from sharpcli.documents.results import to_document
    from sharpcli.measures.columns import in_tables
    from sharpcli.render import emit

    documents = [read_result(name) for name in results]
    keys = [key for _, each in documents for r in each["results"] for key in r.get("measures", ())]
    exact = {measure.key for measure in in_tables(keys) if measure.exact}
    document = to_document(comparison.compare(documents, by, baseline, exact))
    emit(document, output)
    missed = output.strict and _took_in_unconverged(document)
    return ExitCode.UNCONVERGED if missed else ExitCode.DONE


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
            "`sharp sweep` again",
        )
    return measures


def _took_in_unconverged(document: Document) -> bool:
    return any(
        summary["status"] in NOT_CONVERGED
        for group in document["results"]
        for summary in group["measures"].values()
    )
