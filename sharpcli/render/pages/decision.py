"""What a page says of an order that was decided on a growing sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.documents.labels import short_labels
from sharpcli.errors import counted
from sharpcli.measures.columns import leading_names
from sharpcli.runtime.progress import readable_time

__all__ = ["decided_by", "decision_lines"]

_FIRST = ("sharper", "higher")


def decided_by(document: Mapping[str, Any]) -> str | None:
    """The flat key of the number that the order goes by; None without a decision."""
    decision = document.get("decision")
    return None if decision is None else str(decision["measure"])


def decision_lines(document: Mapping[str, Any]) -> list[str]:
    """The order in one sentence, and what it took; empty without a decision."""
    decision = document.get("decision")
    if decision is None:
        return []
    paths = list(dict.fromkeys(str(each["checkpoint"]["path"]) for each in document["results"]))
    names = dict(zip(paths, short_labels(paths), strict=True))
    key = decision["measure"]
    title = leading_names([key]).get(key, key)
    pairs = [pair for pair in document.get("pairs", ()) if pair["measure"] == key]
    return [_order(decision, pairs, names, title), _cost(decision)]


def _order(
    decision: Mapping[str, Any],
    pairs: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    title: str,
) -> str:
    """`a is sharper than b by λ1: decided on 256 of 10,000 examples, at 95 %`."""
    count, total = decision["examples"], decision["examples_in_all"]
    on = f"all {counted(total, 'example')}"
    on = on if count >= total else f"{count:,} of {counted(total, 'example')}"
    sharpness = all(pair["verdict"] not in ("higher", "lower") for pair in pairs)
    more = "sharper" if sharpness else "higher"
    decided = [_put(pair) for pair in pairs if pair["verdict"] != "undecided"]
    open_pairs = [pair for pair in pairs if pair["verdict"] == "undecided"]
    left = [(pair["a"], pair["b"]) for pair in open_pairs]
    if decision["order"] is not None and len(decision["order"]) > 2:
        first = "sharpest" if sharpness else "highest"
        said = f"by {title}, {first} first: {', '.join(names[each] for each in decision['order'])}"
    else:
        above: dict[str, list[str]] = {}
        for first, second in decided:
            above.setdefault(first, []).append(second)
        said = "; ".join(
            f"{names[first]} is {more} than {_listed(names[each] for each in others)}"
            for first, others in above.items()
        )
        said = f"{said} by {title}" if said else ""
    if not left:
        return f"{said}: decided on {on}, at {100 * decision['level']:g} %"
    open_ = _listed((f"{names[a]} and {names[b]}" for a, b in left), "; ")
    reasons = [
        pair["reason"] for pair in pairs if pair["verdict"] == "undecided" and "reason" in pair
    ]
    why = "interrupted" if count < total else _listed(reasons, "; ") or "they may be equal"
    undecided = f"undecided by {title} on {on} ({why}): {open_}"
    return f"{said}; {undecided}" if said else undecided


def _cost(decision: Mapping[str, Any]) -> str:
    """`this took 2 s, 0.03× the work of all data: all 10,000 examples would have taken 40 s`."""
    took = f"this took {readable_time(decision['seconds'])}"
    full = decision.get("full")
    if full is None or decision["examples"] >= decision["examples_in_all"]:
        alone = f", of which the last sample {readable_time(decision['looks'][-1]['seconds'])}"
        return took + (alone if len(decision["looks"]) > 1 else "")
    share = decision.get("share")
    work = "" if share is None else f", {share:.2g}× the work of all data"
    most = "up to" if len(decision["looks"]) == 1 else "about"
    return (
        f"{took}{work}: all {counted(full['examples'], 'example')} would have taken {most} "
        f"{readable_time(full['seconds'])}"
    )


def _put(pair: Mapping[str, Any]) -> tuple[str, str]:
    """The two checkpoints of a pair, the sharper one first."""
    found = pair["a"], pair["b"]
    return found if pair["verdict"] in _FIRST else found[::-1]


def _listed(names: Any, between: str = ", ") -> str:
    every = list(dict.fromkeys(names))
    return between.join(every[:5]) + (f" and {len(every) - 5} more" if len(every) > 5 else "")
