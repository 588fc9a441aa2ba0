"""Sheets of a comparison: correlations with the gap, how measures agree, means over two factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sharpcli.documents.labels import clean, natural_order
from sharpcli.documents.statuses import SOUND
from sharpcli.render.numbers import format_number
from sharpcli.render.terminal.table import Column, Row, Sheet

__all__ = ["agreement_sheet", "correlation_legend", "correlation_sheet", "heat_sheet", "levels_of"]

_WIDTH = 80  # columns of text that the matrix of measures fits


def correlation_sheet(
    correlations: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> Sheet:
    """τ, r and Ψ of each measure with the gap, with intervals."""
    columns = [
        Column("τ", [_with_interval(c, "tau") for c in correlations]),
        Column("p", [_two_digits(c["p_value"]) for c in correlations]),
        Column("n", [str(c["n"]) for c in correlations]),
    ]
    if any(c.get("pearson") is not None for c in correlations):
        columns.append(Column("r", [_with_interval(c, "pearson") for c in correlations]))
    if any("granulated" in c for c in correlations):
        columns.append(Column("Ψ", [_psi(c) for c in correlations]))
    rows = [Row(titles[c["measure"]]) for c in correlations]
    return Sheet(
        rows, columns, "Pearson's and rank correlation with the generalization gap", "measure"
    )


def agreement_sheet(agreement: Mapping[str, Any] | None, titles: Mapping[str, str]) -> Sheet | None:
    """Kendall's τ between the first measures of the table, as many as fit 80 columns."""
    if agreement is None:
        return None
    place = {key: index for index, key in enumerate(agreement["measures"])}
    keys = [key for key in titles if key in place]
    names = [titles[key] for key in keys]
    first, used, count = max(map(len, names), default=0), 0, 0
    for name in names[:-1]:
        used += max(len(name), len("+0.00")) + 2
        if first + used > _WIDTH:
            break
        count += 1
    keys = keys[: count + 1]
    if len(keys) < 2:
        return None
    tau = agreement["tau"]
    columns = [
        Column(
            titles[across],
            [
                _signed(tau[place[down]][place[across]]) if row > column else ""
                for row, down in enumerate(keys[1:], start=1)
            ],
        )
        for column, across in enumerate(keys[:-1])
    ]
    rows = [Row(titles[key]) for key in keys[1:]]
    return Sheet(rows, columns, "agreement of measures (Kendall's τ over the checkpoints)", "τ")


def heat_sheet(
    document: Mapping[str, Any],
    titles: Mapping[str, str],
    cell: Callable[[Mapping[str, Any] | None, int], str],
) -> Sheet:
    """The means of one measure, with one key of `by` downwards and the other across."""
    key, (down, across) = document["settings"]["heat"], document["settings"]["by"]
    groups = {tuple(r["group"].get(k) for k in (down, across)): r for r in document["results"]}
    rows, columns = (levels_of(document, name) for name in (down, across))
    cells = [
        Column(
            f"{clean(across)}={clean(b)}",
            [
                cell(r["measures"].get(key), r["n"]) if (r := groups.get((a, b))) else "–"
                for a in rows
            ],
        )
        for b in columns
    ]
    return Sheet(
        [Row(clean(a)) for a in rows], cells, titles.get(key, clean(key)), caption=clean(down)
    )


def levels_of(document: Mapping[str, Any], key: str) -> list[Any]:
    """The values of a key of `by`, in order."""
    values = {result["group"].get(key) for result in document["results"]}
    return sorted(values, key=natural_order)


def correlation_legend(document: Mapping[str, Any]) -> list[str]:
    """What τ, p, r, Ψ and the brackets are."""
    correlations = document.get("correlations") or ()
    if not correlations:
        return []
    lines = ["τ, p: Kendall's tau-b over the checkpoints and its two-sided p-value"]
    if any(c.get("pearson") is not None for c in correlations):
        lines[0] += "; r: Pearson's"
    granulated = next((c["granulated"] for c in correlations if "granulated" in c), None)
    if granulated:
        lines.append(
            "Ψ: granulated Kendall, the mean of τ over runs that differ in one of "
            f"{', '.join(map(clean, granulated['factors']))}"
        )
    drawn = next((c["resampled"] for c in correlations if c.get("tau_interval")), None)
    if drawn:
        of = "checkpoints" if drawn == "runs" else "settings with all their checkpoints"
        both = " (Ψ: checkpoints)" if granulated and drawn != "runs" else ""
        lines.append(f"[.1,.5]: 95 % by bootstrap, resampling {of}{both}")
    return lines


def _psi(correlation: Mapping[str, Any]) -> str:
    found = correlation.get("granulated")
    return _signed(found["value"]) + _interval(found["interval"]) if found else "–"


def _with_interval(correlation: Mapping[str, Any], name: str) -> str:
    mark = "" if correlation["status"] in SOUND or name != "tau" else "!"
    interval = _interval(correlation.get(f"{name}_interval"))
    return _signed(correlation.get(name)) + mark + interval


def _interval(interval: Sequence[float] | None) -> str:
    """` [-.12,.45]`, without the zeros before the points; a degenerate one is left out."""
    if interval is None or interval[0] == interval[1]:
        return ""
    return f" [{','.join(_short(end) for end in interval)}]"


def _short(value: float) -> str:
    text = f"{value:.2f}".replace("0.", ".")
    return {"-.00": ".00", "1.00": "1", "-1.00": "-1"}.get(text, text)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _two_digits(value: float | None) -> str:
    return "–" if value is None else format_number(value, 2)
