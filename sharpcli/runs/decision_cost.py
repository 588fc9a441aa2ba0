"""What deciding an order took, and what all data would have taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sharpcli.documents.decision import Full
from sharpcli.documents.results import CheckpointResult

__all__ = ["Cost", "cost_of", "full_cost"]


@dataclass(frozen=True)
class Cost:
    """What the checkpoints of one look took: `measuring` is the part of the measure itself."""

    examples: int
    checkpoints: int
    seconds: float
    measuring: float
    products: int


def cost_of(examples: int, results: Sequence[CheckpointResult], key: str, seconds: float) -> Cost:
    """The cost of the results of one look, which took `seconds` in all."""
    numbers = [result.measures.get(key) for result in results]
    known = [each for each in numbers if isinstance(each, Mapping)]
    measuring = sum(float(each.get("seconds") or 0.0) for each in known)
    products = sum(int(each.get("products") or 0) for each in known)
    return Cost(examples, len(results), seconds, measuring or seconds, products)


def full_cost(costs: Sequence[Cost], total: int) -> Full:
    """What all data would have taken.

    The time of the measure is a line in the number of examples through the first and the last
    sample, or through zero and the only one; all else, such as reading the data, is as at first.
    """
    first, last = costs[0], costs[-1]
    before, after = first.measuring / first.checkpoints, last.measuring / last.checkpoints
    longer = last.examples - first.examples
    slope = max(0.0, (after - before) / longer if longer else after / last.examples)
    each = after + slope * (total - last.examples)
    return Full(
        total,
        first.seconds - first.measuring + first.checkpoints * each,
        round(first.checkpoints * last.products / last.checkpoints) or None,
    )
