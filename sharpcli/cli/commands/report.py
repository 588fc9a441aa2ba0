"""`sharp report`: one self-contained page of saved results."""

from __future__ import annotations

from pathlib import Path

import click

from sharpcli.cli import completion
from sharpcli.cli.commands.compare import read_result
from sharpcli.cli.exit_codes import ExitCode, of_error
from sharpcli.cli.options.output import refuse_overwriting
from sharpcli.documents.results import Document
from sharpcli.errors import SharpError, UsageError, counted

__all__ = ["report"]

# Of a folder's results, those of a sweep or training come first, and details of one file last.
_ORDER = ("sweep", "search", "train", "measure", "compare", "spectrum", "interpolate", "landscape")


@click.command(
    "report",
    epilog="""\b
Examples:
  sharp report measure.json line.json spectrum.json -o report.html
  sharp sweep sweep.toml --output runs && sharp report runs -o runs.html
  sharp measure *.safetensors --json | sharp report - --title 'Batch sizes'""",
)
@click.argument(
    "places",
    nargs=-1,
    required=True,
    metavar="DIR|RESULT.json...",
    shell_complete=completion.files,
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    default="report.html",
    show_default=True,
    help="The page.",
)
@click.option("--title", metavar="TEXT", help="The page's title. Default: depends on the results.")
@click.option("--quiet", is_flag=True, help="No notes on stderr.")
def report(places: tuple[str, ...], output: Path, title: str | None, quiet: bool) -> int:
    """Make one HTML page of saved results.

    RESULT.json is a file that any command wrote with --json, DIR a folder of them, such as a
    sweep's; `-` reads a pipe. The page has their tables and figures, what did not converge,
    warnings, settings, and the commands that made them. It holds no script and loads nothing, so it
    can be sent by mail or kept for years. A file that cannot be read is named on the page, and the
    others are shown. Needs no torch, no task and no checkpoint.
    """
    from sharpcli.cli.saved_command import commands_of
    from sharpcli.render.console import say, say_written
    from sharpcli.render.report import Section, report_page
    from sharpcli.runtime.files import reserved, save

    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {output}: a report is an HTML page", "name a file.html")
    refuse_overwriting(("--output", output))
    with reserved(output):
        found, skipped, failed = _gathered(places)
        if not found:
            for error in failed[1:]:
                say(str(error), "Error", "bold red")
            raise (
                failed[0]
                if failed
                else SharpError(
                    f"{', '.join(places)}: holds no result of sharp",
                    "save one with --json: sharp measure model.safetensors --json > result.json",
                )
            )
        sections = [Section(name, each, tuple(commands_of(each))) for name, each in found]
        problems = [f"not shown: {error.message}" for error in failed]
        save(output, report_page(sections, title or _title(places, found), problems))
    for error in failed:
        say(str(error), "Error", "bold red")
    if skipped and not quiet:
        say(f"not a result of sharp, and left out: {', '.join(skipped)}", "note", "dim")
    if not quiet:
        say(f"{counted(len(sections), 'result')} on one page")
    say_written(output, quiet=quiet)
    return of_error(failed[0]) if failed else ExitCode.DONE


def _gathered(
    places: tuple[str, ...],
) -> tuple[list[tuple[str, Document]], list[str], list[SharpError]]:
    """The results with their files' names, other JSON files of folders, and what failed."""
    found: list[tuple[str, Document]] = []
    skipped: list[str] = []
    failed: list[SharpError] = []
    for place in places:
        folder = Path(place) if place != "-" and Path(place).is_dir() else None
        names = [place] if folder is None else [str(path) for path in _files(folder)]
        here: list[tuple[str, Document]] = []
        for name in names:
            try:
                _, document = read_result(name)
            except SharpError as error:
                if folder is not None and _is_foreign(Path(name)):
                    skipped.append(name)
                else:
                    failed.append(error)
                continue
            here.append((name, document))
        if folder is not None:
            here.sort(key=lambda each: _rank(each[1]["kind"]))
        known = {name for name, _ in found}
        found += [each for each in here if each[0] not in known]
    return found, skipped, failed


def _files(folder: Path) -> list[Path]:
    """The JSON files of a folder, without the curves that a training leaves beside checkpoints."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _is_foreign(path: Path) -> bool:
    """Whether a file of a folder does not claim to be a result, such as a package.json."""
    try:
        return b'"sharpcli/' not in path.read_bytes()[:200]
    except OSError:
        return False


def _rank(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _title(places: tuple[str, ...], found: list[tuple[str, Document]]) -> str:
    """The folder's name, or the task's, or what the results are."""
    if len(places) == 1 and places[0] != "-" and Path(places[0]).is_dir():
        return f"Results in {Path(places[0]).resolve().name}"
    tasks = dict.fromkeys(
        str(name) for _, document in found if (name := (document.get("task") or {}).get("name"))
    )
    return f"Minima of {', '.join(tasks)}" if tasks else "Results of sharp"
