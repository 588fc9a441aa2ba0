"""The numbers of a checkpoint before and after its hidden units were rescaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.documents.scalars import flat_scalars
from sharpcli.errors import counted
from sharpcli.measures.columns import column_titles
from sharpcli.render.numbers import format_number
from sharpcli.render.terminal.table import Column, Row, Sheet

__all__ = ["change", "rescaling_sheets"]

_DIGITS = 4
_SEEN = 5e-4  # smaller changes are not worth a number


def rescaling_sheets(results: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[Sheet]:
    """A sheet for each result that was measured again with rescaled units."""
    return [
        _sheet(result, label)
        for result, label in zip(results, labels, strict=True)
        if result.get("rescaled")
    ]


def change(number: Mapping[str, Any]) -> str:
    """`moved ×8.7`, `unchanged (0.3 %)`, `within its errors (4.1 %)`."""
    before, after, share = (number[name] for name in ("before", "after", "relative_change"))
    size = (
        "" if share is None or abs(share) < _SEEN else f" ({format_number(100 * abs(share), 2)} %)"
    )
    if number["verdict"] != "moved":
        return f"{'unchanged' if number['verdict'] == 'unchanged' else 'within its errors'}{size}"
    if before is None or after is None or before * after <= 0:
        return "moved"
    ratio = after / before
    if 0.5 < ratio < 2:
        return f"moved{size}"
    return f"moved {'×' if ratio >= 1 else '÷'}{format_number(max(ratio, 1 / ratio), 2)}"


def _sheet(result: Mapping[str, Any], label: str) -> Sheet:
    numbers, facts = result["rescaled"], result["rescaling"]
    titles = column_titles(flat_scalars(result["measures"]))
    each = "each by its own factor" if facts["by"] == "unit" else "layer by layer"
    title = (
        f"{label}, rescaled: the same function with {counted(facts['units'], 'unit')} rescaled "
        f"{each} between 1/{facts['factor']:g} and {facts['factor']:g}"
    )
    columns = [
        Column("before", [_shown(number["before"]) for number in numbers]),
        Column("after", [_shown(number["after"]) for number in numbers]),
        Column("change", [change(number) for number in numbers], numeric=False),
    ]
    rows = [Row(titles.get(number["measure"], number["measure"])) for number in numbers]
    return Sheet(rows, columns, title, "measure")


def _shown(value: float | None) -> str:
    return "–" if value is None else format_number(value, _DIGITS)
