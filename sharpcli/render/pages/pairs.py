"""The sheets that compare checkpoints two by two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sharpcli.documents.labels import clean, named
from sharpcli.measures.columns import leading_names, sharper_if_larger
from sharpcli.render.numbers import format_number
from sharpcli.render.terminal.table import Column, Row, Sheet

__all__ = ["pair_notes", "pair_sheets"]

_MOST_ROWS = 8  # measures of one pair
_MOST_SHEETS = 3  # pairs with a sheet each; more share one


def pair_sheets(
    pairs: Sequence[Mapping[str, Any]], titles: Mapping[str, str], labels: Mapping[str, str]
) -> Iterator[Sheet]:
    """A sheet for each pair of checkpoints, or one with a row for each if there are many.

    `titles` are the column titles of the measures by flat key; `labels` those of the checkpoints.
    """
    chosen = _chosen([pair["measure"] for pair in pairs], titles)
    by_names: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for pair in pairs:
        names = labels.get(pair["a"], pair["a"]), labels.get(pair["b"], pair["b"])
        if pair["measure"] in chosen:
            by_names.setdefault(names, {})[pair["measure"]] = pair
    if len(by_names) > _MOST_SHEETS:
        yield Sheet(
            [Row(f"{clean(a)} : {clean(b)}") for a, b in by_names],
            [
                Column(titles[key], [_short(found.get(key)) for found in by_names.values()])
                for key in chosen
            ],
            "ratios",
            "pair",
        )
        return
    for (a, b), found in by_names.items():
        shown = [found[key] for key in chosen if key in found]
        columns = [
            Column("ratio", [_ratio(pair) for pair in shown]),
            Column("interval", [_interval(pair) for pair in shown]),
            Column("verdict", [pair["verdict"] for pair in shown], numeric=False),
        ]
        if any("more_examples" in pair for pair in shown):
            columns.append(Column("needs", [_more(pair) for pair in shown], numeric=False))
        rows = [Row(titles[pair["measure"]]) for pair in shown]
        yield Sheet(rows, columns, f"{clean(a)} against {clean(b)}", "measure")


def pair_notes(
    pairs: Sequence[Mapping[str, Any]], titles: Mapping[str, str], *, decided: str | None = None
) -> list[str]:
    """What the sheets' columns mean, and why some measures can have no verdict.

    `decided` is the flat key of the number whose order was decided on a growing sample.
    """
    chosen = _chosen([pair["measure"] for pair in pairs], titles)
    if not chosen:
        return []
    same = "; measured on the same examples, most of their sampling errors cancel"
    shared = any(pair.get("paired") for pair in pairs)
    about = "ratio: of the first checkpoint to the second, with its 95 % interval"
    notes = [about + (same if shared else "")]
    if decided in chosen:
        notes.append(
            f"{titles[decided]}: an interval is of the sample on which the pair was decided, and "
            "wider, so that all verdicts together hold at 95 %"
        )
    reasons: dict[str, list[str]] = {}
    for pair in pairs:
        if pair["measure"] in chosen and pair.get("reason"):
            reasons.setdefault(pair["reason"], []).append(titles[pair["measure"]])
    notes += [
        f"no verdict by {named(list(dict.fromkeys(which)))}: {why}"
        for why, which in reasons.items()
    ]
    return notes


def _chosen(keys: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    """The measures to show, in the order of the table: sharpness and leading ones first."""
    present = set(keys)
    shown = [key for key in titles if key in present]
    sharpness, leading = sharper_if_larger(shown), leading_names(shown)
    shown.sort(key=lambda key: (sharpness[key] is None, key not in leading))
    first = set(shown[:_MOST_ROWS])
    return [key for key in titles if key in first]


def _ratio(pair: Mapping[str, Any]) -> str:
    value = pair["ratio"]["value"]
    return "–" if value is None else format_number(value, 3)


def _interval(pair: Mapping[str, Any]) -> str:
    ends = pair["ratio"].get("interval")
    if ends is None:
        return "–"
    mark = "?" if pair.get("sampling_status") else ""
    return f"{format_number(ends[0], 3)} to {format_number(ends[1], 3)}{mark}"


def _more(pair: Mapping[str, Any]) -> str:
    more = pair.get("more_examples")
    return f"about {float(f'{more:.2g}'):,.0f} more examples" if more else ""


def _short(pair: Mapping[str, Any] | None) -> str:
    return "–" if pair is None else f"{_ratio(pair)} {pair['verdict']}"
