"""What a `compare` document looks like to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..labels import clean
from ..results import NOT_CONVERGED
from .context import task_name
from .measurements import column_titles, legend
from .numbers import bound_sign, format_number, format_scalar, format_signed, format_uncertain
from .table import Column, Page, Row, Sheet

__all__ = ["compare_page"]


def compare_page(document: Mapping[str, Any]) -> Page:
    """The rows or groups, their differences to the baseline, and the rank correlations."""
    results, by = document["results"], document["settings"]["by"]
    titles = column_titles(key for result in results for key in result["measures"])
    rows = [
        Row(", ".join(clean(v) for v in r["group"].values()) if by else r["label"]) for r in results
    ]
    caption = ", ".join(map(clean, by)) or "checkpoint"
    keys = list(dict.fromkeys(key for result in results for key in result["group"]))
    beside = (
        [Column("n", [str(result["n"]) for result in results])]
        if by
        else [
            Column(clean(key), [clean(result["group"].get(key)) for result in results], numeric)
            for key in keys
            for numeric in [
                all(isinstance(r["group"].get(key), int | float | None) for r in results)
            ]
        ]
    )
    numbers = [
        Column(title, [_mean(result["measures"].get(key)) for result in results])
        for key, title in titles.items()
    ]
    sheets = [Sheet(rows, [*beside, *numbers], caption=caption)]
    baseline = document["settings"]["baseline"]
    if baseline is not None:
        others = [index for index, result in enumerate(results) if result["label"] != baseline]
        differences = [
            Column(title, [_difference(results[index]["measures"].get(key)) for index in others])
            for key, title in titles.items()
        ]
        title = f"difference to {baseline} (and ratio)"
        sheets.append(Sheet([rows[index] for index in others], differences, title, caption))
    correlations = {c["measure"]: c for c in document.get("correlations", ())}
    shown = [key for key in titles if key in correlations]
    if shown:
        sheets.append(_correlation_sheet([correlations[key] for key in shown], titles))
    return Page(
        context=[name] if (name := task_name(document["task"])) else [],
        sheets=sheets,
        legend=_legend(document, numbers, sheets),
    )


def _mean(summary: Mapping[str, Any] | None) -> str:
    """One member's number with its own error, several members' mean ± standard deviation."""
    if summary is None:
        return "–"
    if summary["n"] <= 1 or summary["mean"] is None:
        return format_scalar({**summary, "value": summary["mean"]})
    text = format_uncertain(summary["mean"], spread=summary["standard_deviation"])
    return bound_sign(summary) + text + ("!" if summary["status"] in NOT_CONVERGED else "")


def _difference(summary: Mapping[str, Any] | None) -> str:
    difference = (summary or {}).get("difference")
    if difference is None:
        return "–"
    if difference["value"] == 0 and not difference["error"]:
        return "0"
    statistical = difference["error_kind"] == "standard_error"
    text = format_signed(
        difference["value"],
        None if statistical else difference["error"],
        difference["error"] if statistical else None,
    )
    ratio = difference["ratio"]
    return text if ratio is None else f"{text} ×{format_number(ratio, 3)}"


def _correlation_sheet(
    correlations: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> Sheet:
    columns = [
        Column("τ", [_three(c["tau"], sign=True) for c in correlations]),
        Column("p", [_three(c["p_value"]) for c in correlations]),
        Column("n", [str(c["n"]) for c in correlations]),
    ]
    rows = [Row(titles[c["measure"]]) for c in correlations]
    return Sheet(rows, columns, "rank correlation with the generalization gap", "measure")


def _three(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "–"
    if sign:
        return f"{value:+.2f}"
    return format_number(value, 2)


def _legend(
    document: Mapping[str, Any], numbers: Sequence[Column], sheets: Sequence[Sheet]
) -> list[str]:
    lines = legend([column for sheet in sheets for column in sheet.columns])
    several = any(result["n"] > 1 for result in document["results"])
    about = {
        "15.2±0.7": "12.3±0.4: mean ± standard deviation over the group; in differences, ± is "
        "Welch's standard error"
    }
    if several:
        lines = [about.get(line.split(":")[0], line) for line in lines]
    if any("!" in cell for column in numbers for cell in column.cells):
        lines.insert(0, "!: takes in a number that did not converge")
    if document.get("correlations"):
        lines.append("τ, p: Kendall's tau-b over the checkpoints and its two-sided p-value")
    return lines
