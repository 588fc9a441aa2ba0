"""What a `sweep` document looks like to a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharpcli.documents.scalars import flat_scalars
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import counted
from sharpcli.render.numbers import format_cells, format_number
from sharpcli.render.pages.context import task_name
from sharpcli.render.terminal.table import Column, Page, Row, Sheet

__all__ = ["sweep_page"]


def sweep_page(document: Mapping[str, Any]) -> Page:
    """One row a run: how long it took and where it arrived, or why it is not trained."""
    results = document["results"]
    scalars = [flat_scalars({"loss": result.get("loss", {})}) for result in results]
    columns = [
        *(
            Column(name, [_plain(result.get(name)) for result in results])
            for name in ("epochs", "steps", "seconds")
        ),
        Column("loss train", format_cells(scalars, "loss.train")),
    ]
    trained = sum(result["status"] == Outcome.OK for result in results)
    about = f"{counted(len(results), 'run')}, {trained} trained"
    return Page(
        [" · ".join(each for each in (task_name(document["task"]), about) if each)],
        [Sheet([*map(_row, results)], columns, caption="run")],
    )


def _row(result: Mapping[str, Any]) -> Row:
    if result["status"] == Outcome.OK:
        return Row(result["run"])
    if result["status"] != Outcome.FAILED:
        return Row(result["run"], result["status"])
    error = result["error"]
    kind = "diverged" if error.get("kind") == Outcome.DIVERGED else "failed"
    return Row(result["run"], f"{kind}: {' '.join(str(error['message']).split())}")


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else format_number(value, 3)
