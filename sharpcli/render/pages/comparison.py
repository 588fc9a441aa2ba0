"""The page of a `compare` document."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sharpcli.documents.labels import clean
from sharpcli.documents.statuses import SOUND
from sharpcli.render.numbers import (
    bound_rounding,
    bound_sign,
    format_number,
    format_scalar,
    format_signed,
    format_uncertain,
)
from sharpcli.render.pages.context import task_name
from sharpcli.render.pages.measurements import column_titles, legend
from sharpcli.render.pages.pairs import pair_notes, pair_sheets
from sharpcli.render.terminal.table import Column, Page, Row, Sheet

__all__ = ["compare_page"]

_BOUNDS = {None: "", "lower_bound": "≥", "upper_bound": "≤", "two_bounds": "≷"}


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
        Column(title, [_mean(result["measures"].get(key), result["n"]) for result in results])
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
    compared = document.get("pairs", ())
    sheets += pair_sheets(compared, titles, {})
    correlations = {c["measure"]: c for c in document.get("correlations", ())}
    shown = [key for key in titles if key in correlations]
    if shown:
        sheets.append(_correlation_sheet([correlations[key] for key in shown], titles))
    return Page(
        context=[name] if (name := task_name(document["task"])) else [],
        sheets=sheets,
        legend=[*_legend(document, numbers, sheets, titles), *pair_notes(compared, titles)],
    )


def _mean(summary: Mapping[str, Any] | None, members: int) -> str:
    """One member's number with its own error, or several members' mean ± standard deviation.

    A group's measurement error is in parentheses if it is not small compared with the deviation.
    `n=4` follows if not all members have the number.
    """
    if summary is None:
        return "–"
    fewer = f" n={summary['n']}" if summary["n"] < members and members > 1 else ""
    if summary["n"] <= 1 or summary["mean"] is None:
        return format_scalar({**summary, "value": summary["mean"]}) + fewer
    sign, deviation = bound_sign(summary), summary["standard_deviation"]
    text = format_uncertain(summary["mean"], _measurement(summary), deviation, bound_rounding(sign))
    return sign + text + _mark(summary) + fewer


def _measurement(summary: Mapping[str, Any]) -> float | None:
    """A mean's complete measurement error; None if some of it is unknown."""
    own, sampling = summary["error"], summary.get("sampling_error")
    known = [float(error) for error in {own, sampling} if error is not None]
    random = summary["error_kind"] == "standard_error"
    return (math.hypot(*known) if random else sum(known)) if known else None


def _mark(summary: Mapping[str, Any]) -> str:
    unreliable = "?" if summary.get("sampling_status") else ""
    return unreliable + ("" if summary["status"] in SOUND else "!")


def _difference(summary: Mapping[str, Any] | None) -> str:
    """The difference with its errors and marks, then the ratio with its own errors."""
    difference = (summary or {}).get("difference")
    if difference is None:
        return "–"
    error, spread = _error_and_spread(difference)
    sign = _BOUNDS[difference["bound"]]
    if difference["value"] == 0 and not error and not spread:
        return sign + "0" + _mark(difference)
    text = format_signed(difference["value"], error, spread, bound_rounding(sign))
    return f"{sign}{text}{_mark(difference)}{_ratio(difference)}"


def _error_and_spread(difference: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The numbers in parentheses and after ±; both None if the error is unknown.

    Between single checkpoints these are the computation's error and, for sampled data, the complete
    error; between groups, the measurement error and Welch's standard error.
    """
    error, sampling = difference["error"], difference.get("sampling_error")
    if difference["error_kind"] == "standard_error":
        return difference["measurement_error"], error
    return (None, error) if sampling else (error, None)


def _ratio(difference: Mapping[str, Any]) -> str:
    ratio, error = difference["ratio"], difference["ratio_error"]
    if ratio is None:
        return ""
    if error is None and difference["error"] is not None:
        return " ×?"  # the baseline may be 0
    statistical = difference["error_kind"] == "standard_error" or difference.get("sampling_error")
    sign = _BOUNDS[difference["ratio_bound"]]
    rounding = bound_rounding(sign)
    text = format_number(ratio, 3, rounding)
    if error:
        own, spread = (None, error) if statistical else (error, None)
        text = format_uncertain(ratio, own, spread, rounding)
    return f" ×{sign}{text}"


def _correlation_sheet(
    correlations: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> Sheet:
    columns = [
        Column("τ", [_three(c["tau"], sign=True) + _mark(c) for c in correlations]),
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
    document: Mapping[str, Any],
    numbers: Sequence[Column],
    sheets: Sequence[Sheet],
    keys: Iterable[str],
) -> list[str]:
    shown = [column for sheet in sheets for column in sheet.columns]
    cells = [cell for column in shown for cell in column.cells]
    lines = legend(shown, keys)
    if any(result["n"] > 1 for result in document["results"]):
        about = {
            "15.2±0.7": "12.3±0.4: mean ± standard deviation over the group; in differences, ± is "
            "Welch's standard error",
            "15.2±0.7?": "?: includes an unreliable sampling error",
            "12.31(4)": "12.31(4): 12.31 ± 0.04, the error of the measurement",
        }
        lines = [about.get(line.split(":")[0], line) for line in lines]
    elif any("±" in cell for sheet in sheets[1:] for c in sheet.columns for cell in c.cells):
        lines.append("in differences and ratios, ± is the complete error: sampling and computation")
    if any("!" in cell for cell in cells):
        lines.insert(0, "!: includes a number that did not converge")
    if any("≷" in cell for cell in cells):
        lines.append("≷: from two bounds, so the true value may be higher or lower")
    if any("×?" in cell for cell in cells):
        lines.append("×?: within its error the baseline may be 0, so there is no ratio")
    if any(" n=" in cell for column in numbers for cell in column.cells):
        lines.append("n=4: only 4 of the row's n checkpoints have the number")
    if document.get("correlations"):
        lines.append("τ, p: Kendall's tau-b over the checkpoints and its two-sided p-value")
    return lines
