"""What a `search` document looks like to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted
from sharpcli.render.numbers import format_number
from sharpcli.render.pages.context import task_name
from sharpcli.render.terminal.table import Column, Page, Row, Sheet

__all__ = ["ranked", "search_page"]

_SHOWN = 20  # trials; more are in CSV and JSON
_DIGITS = 4


def search_page(document: Mapping[str, Any]) -> Page:
    """One row a trial, the best first: its objective, what was chosen, how many steps it took."""
    results, asked = ranked(document), document["settings"]
    shown = results[:_SHOWN]
    kinds = [result["status"] for result in results]
    parts = [counted(len(results), "trial")]
    parts += [
        f"{kinds.count(kind)} {word}"
        for kind, word in ((Outcome.PRUNED, "pruned"), (Outcome.FAILED, "failed"))
        if kind in kinds
    ]
    best = "highest" if asked["direction"] == "maximize" else "lowest"
    about = f"{', '.join(parts)} for the {best} {asked['split']} {asked['objective']}"
    names = list(dict.fromkeys(name for result in results for name in result["chosen"]))
    columns = [
        Column(f"{asked['split']} {asked['objective']}", [_number(r, "objective") for r in shown]),
        *(_chosen(name, shown) for name in names),
        Column("steps", [_number(r, "steps") for r in shown]),
    ]
    sheets = [Sheet([*map(_row, shown)], columns, caption="trial")] if shown else []
    if importance := document.get("importance"):
        sizes = [format_number(each, 2) for each in importance.values()]
        sheets.append(
            Sheet([Row(name) for name in importance], [Column("importance", sizes)], caption="")
        )
    left = len(results) - len(shown)
    more = [f"{counted(left, 'more trial')} in the JSON"] if left > 0 else []
    return Page([" · ".join(filter(None, (task_name(document["task"]), about)))], sheets, more)


def ranked(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials, best first: those that finished, were pruned, failed, and have not ended."""
    order = (Outcome.OK, Outcome.PRUNED, Outcome.FAILED, Outcome.WAITING)
    sign = -1 if document["settings"]["direction"] == "maximize" else 1

    def place(result: Mapping[str, Any]) -> tuple[int, float]:
        value = result.get("objective")
        return order.index(Outcome(result["status"])), sign * value if value is not None else 0.0

    return sorted(document["results"], key=place)


def _row(result: Mapping[str, Any]) -> Row:
    if result["status"] == Outcome.OK:
        return Row(result["trial"])
    if result["status"] == Outcome.FAILED:
        diverged = result["error"].get("kind") == Outcome.DIVERGED
        said = " ".join(str(result["error"]["message"]).split())
        return Row(result["trial"], "diverged" if diverged else f"failed: {said}")
    return Row(f"{result['trial']} {result['status']}")


def _chosen(name: str, results: Sequence[Mapping[str, Any]]) -> Column:
    values = [result["chosen"].get(name) for result in results]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return Column(name.rpartition(".")[2], [_text(value) for value in values], numeric)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(result: Mapping[str, Any], name: str) -> str:
    value = result.get(name)
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else format_number(value, _DIGITS)
