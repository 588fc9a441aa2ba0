"""What `sharp measure --list` prints: a table of all measures, cards of named ones, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sharpcli.cli.option_names import as_option
from sharpcli.documents.results import SCHEMA, dumps
from sharpcli.measures import Measure, choose, known_measures
from sharpcli.render.console import console
from sharpcli.runtime.text import folded

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_measures"]

# Below this width a measure takes lines of its own in place of a row.
_WIDE = 110
_CARD = {
    "formula": "formula",
    "cost": "cost",
    "invariances": "invariant to",
    "source": "source",
    "warns": "warns of",
}


def print_measures(names: Sequence[str], *, as_json: bool) -> None:
    """Print the measures: all in a table, or those of `names` in full, or a JSON document.

    A `UsageError` says that a name is unknown.
    """
    chosen = choose(names) if names else list(known_measures().values())
    if as_json:
        found = [_document(measure) for measure in chosen]
        click.echo(dumps({"schema": SCHEMA, "kind": "measures", "measures": found}))
    elif names:
        width = console().width
        click.echo("\n\n".join(_card(measure, width) for measure in chosen))
    else:
        _print_table(chosen, console())


def _document(measure: Measure) -> dict[str, Any]:
    texts = {"meaning": measure.meaning, **{name: getattr(measure, name) for name in _CARD}}
    return {
        "name": measure.name,
        "key": measure.key,
        "default": measure.default,
        **texts,
        "options": [
            {"name": option.name, "default": option.default, "help": option.help}
            for option in measure.options
        ],
    }


def _card(measure: Measure, width: int) -> str:
    """Everything that a measure says of itself, in lines of at most `width` characters."""
    default = "" if measure.default else " (on request)"
    lines = [f"{measure.name}{default}: {measure.meaning}", f"    JSON key: {measure.key}"]
    lines += [f"    {label}: {getattr(measure, name)}" for name, label in _CARD.items()]
    lines += [
        f"    {as_option(option.name, option.default)}: {option.help}" for option in measure.options
    ]
    return folded("\n".join(lines), width)


def _print_table(measures: Sequence[Measure], out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    wide = out.width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    longest = max(len(measure.name) for measure in measures) + 2
    table.add_column("measure", width=longest, no_wrap=True)
    columns = ["meaning", "cost", "invariant to"]
    for title in columns if wide else [columns[0] + ", cost, invariant to"]:
        table.add_column(title, overflow="fold")
    for measure in measures:
        name = Text(f"{measure.name}{' *' if measure.default else ''}")
        texts = [measure.meaning, measure.cost, measure.invariances]
        if wide:
            table.add_row(name, *map(Text, texts))
        else:
            labels = ["", "cost: ", "invariant to: "]
            said = [f"{label}{text}" for label, text in zip(labels, texts, strict=True)]
            table.add_row(name, Text("\n".join(said)))
        table.add_row()
    out.print(table, soft_wrap=False)
    out.print("* in a run that names none. The JSON key is the name with underscores.")
    out.print(f"Formula, source and warnings: sharp measure --list -m {measures[-1].name}")
