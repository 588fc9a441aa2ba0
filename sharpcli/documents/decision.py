"""Decide the order of checkpoints on a growing sample, without spending the error twice.

All intervals of all looks hold together with probability 0.95: the error of 5 % is divided over the
looks, whose largest number is known beforehand, and over the pairs (Bonferroni). So it does not
matter when the growth ends, and every verdict of the way may be kept. Runs in plain Python.

Source: spending of the error over looks, Lan & DeMets 1983.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from sharpcli.documents.contrast import LEVEL, contrast_of
from sharpcli.documents.fields import Number, absent
from sharpcli.documents.pairing import Measured, Pair, Verdict, pair_of
from sharpcli.documents.uncertainty import NOTHING_EXACT
from sharpcli.settings.fields import Keywords

__all__ = ["Decider", "Decision", "Full", "Look", "level_of", "looks_to"]

_COUNT = Keywords(minimum=0)
_SOME = Keywords(minimum=1)
# Numbers that agree to this share are equal: float32 makes two orders of the same sums differ.
_ROUNDING = 1e-6
_WIDEST = 100.0  # half the width of an interval of log(a/b) that says nothing
_FIRST: Collection[Verdict] = ("sharper", "higher")


@dataclass(frozen=True)
class Look:
    """One sample of the growth, and what was seen of the pairs that were open before."""

    examples: Annotated[int, "Measured examples.", _SOME]
    level: Annotated[float, "Confidence of each interval of this look."]
    pairs: Annotated[Sequence[Pair], "The pairs that were open, compared at this level."]
    seconds: Annotated[float, "Wall time.", _COUNT]
    products: Annotated[int | None, "Matrix-vector products.", _COUNT] = absent()


@dataclass(frozen=True)
class Full:
    """What the same measurement of all data would have taken."""

    examples: Annotated[int, "All examples.", _SOME]
    seconds: Annotated[float, "Wall time, estimated from the samples.", _COUNT]
    products: Annotated[
        int | None, "Products on all examples, as many as on the last sample.", _COUNT
    ] = absent()


@dataclass(frozen=True)
class Decision:
    """The order of checkpoints by one number, decided on a growing sample."""

    measure: Annotated[str, "Flat key of the number."]
    level: Annotated[float, "Confidence that all verdicts are right, at whatever look it ended."]
    decided: Annotated[bool, "Whether all pairs are decided."]
    order: Annotated[
        Sequence[str] | None,
        "The checkpoints, sharpest first (largest first if the number is no sharpness); null if it "
        "is not decided, or if only pairs with a baseline were compared.",
    ]
    examples: Annotated[int, "Examples of the largest sample.", _SOME]
    examples_in_all: Annotated[int, "Number of examples in the split.", _SOME]
    looks: Annotated[Sequence[Look], "The samples, smallest first."]
    seconds: Annotated[float, "Wall time of all looks.", _COUNT]
    products: Annotated[int | None, "Matrix-vector products of all looks.", _COUNT] = absent()
    share: Annotated[
        Number | None,
        "Products times examples of all looks, as a share of those that all data would have taken.",
        _COUNT,
    ] = absent()
    full: Full | None = absent()
    interrupted: Annotated[bool | None, "The growth was interrupted."] = absent()


def looks_to(first: int, total: int) -> int:
    """How many samples there can be if the first one is doubled until it has all examples."""
    count, looks = first, 1
    while count < total:
        count, looks = 2 * count, looks + 1
    return looks


def level_of(look: int, looks: int, pairs: int, level: float = LEVEL) -> float:
    """The confidence of each interval at a look (from 1), so that all hold together with `level`.

    Later looks, which are larger and better known, get more of the error: in proportion to their
    number.
    """
    return 1 - (1 - level) * 2 * look / (looks * (looks + 1)) / pairs


class Decider:
    """Which checkpoint is the sharper one, for all pairs or for those with a baseline."""

    def __init__(
        self,
        key: str,
        count: int,
        *,
        larger_is_sharper: bool | None,
        baseline: int | None = None,
        exact: Mapping[str, bool] = NOTHING_EXACT,
    ) -> None:
        self.key, self._sharper, self._exact = key, larger_is_sharper, exact
        self._baseline, self._count = baseline, count
        self._known: set[tuple[int, int]] = set()  # (sharper, flatter)
        self._last: dict[tuple[int, int], Pair] = {}
        self._left: set[int] = set()

    @property
    def chosen(self) -> list[tuple[int, int]]:
        """The pairs that are compared, of checkpoints that could be measured."""
        every = [each for each in range(self._count) if each not in self._left]
        if self._baseline is None:
            return list(itertools.combinations(every, 2))
        if self._baseline not in every:
            return []
        return [(each, self._baseline) for each in every if each != self._baseline]

    @property
    def open(self) -> list[tuple[int, int]]:
        """The pairs without a verdict."""
        return [(a, b) for a, b in self.chosen if not {(a, b), (b, a)} & self._known]

    @property
    def needed(self) -> set[int]:
        """The checkpoints of open pairs."""
        return {each for pair in self.open for each in pair}

    @property
    def order(self) -> list[int] | None:
        """The checkpoints, sharpest first, if their order is decided."""
        if self.open or not self.chosen or (self._baseline is not None and len(self.chosen) > 1):
            return None
        above = {each: 0 for pair in self.chosen for each in pair}
        for _, flatter in self._known:
            above[flatter] += 1
        return sorted(above, key=lambda each: above[each])

    def leave_out(self, checkpoints: Collection[int]) -> None:
        """Compare without these, which could not be measured."""
        self._left |= {*checkpoints}
        self._known = {pair for pair in self._known if not {*pair} & self._left}

    def look(
        self, found: Mapping[int, Measured], look: int, looks: int
    ) -> tuple[float, list[Pair]]:
        """Compare the open pairs on one sample: the confidence of each interval, and the pairs."""
        pairs = []
        level = level_of(look, looks, max(1, len(self.chosen)))
        for a, b in self.open:
            one, other = found[a], found[b]
            pair = self._compared(one, other, level)
            self._last[a, b] = pair
            pairs.append(pair)
            if pair.verdict != "undecided":
                self._learn((a, b) if pair.verdict in _FIRST else (b, a))
        return level, pairs

    def _compared(self, one: Measured, other: Measured, level: float) -> Pair:
        """A pair with the interval of its ratio at a level, from that of log(a/b).

        Errors of positive numbers are about in proportion to them. So log(a/b) decides a large
        ratio on fewer examples than a − b, whose error grows with the larger number: at 10× on 256
        instead of 512 examples of the benchmark `decide`.
        """
        numbers = one.scalars[self.key], other.scalars[self.key]
        same = one.sample is not None and one.sample == other.sample
        pair = pair_of(
            *numbers,
            self.key,
            one.count,
            one.total,
            same_rows=same,
            larger_is_sharper=self._sharper,
            exact=self._exact,
            level=level,
        )
        pair = replace(pair, a=one.label, b=other.label)
        both = contrast_of(
            *numbers, self.key, one.count, one.total, same_rows=same, exact=self._exact, level=level
        )
        bounds = {"lower_bound", "upper_bound"} & {each.get("error_kind") for each in numbers}
        if pair.reason is not None or both is None or bounds:
            return pair
        a, b = both.values
        limits = (
            max(both.limit(1.0, 0.0), _ROUNDING * abs(a)),
            max(both.limit(0.0, 1.0), _ROUNDING * abs(b)),
        )
        if a <= limits[0] or b <= limits[1]:
            return pair
        half = math.exp(min(math.hypot(*both.parts(1.0, a / b)) / a, _WIDEST))
        low = (a - limits[0]) / (b + limits[1]) / half
        high = (a + limits[0]) / (b - limits[1]) * half
        found = replace(pair, ratio=replace(pair.ratio, interval=(low, high)))
        if low <= 1 <= high:
            return replace(found, verdict="undecided")
        larger = (low > 1) == (self._sharper is not False)
        return replace(found, verdict=self._verdict(larger), more_examples=None)

    @property
    def pairs(self) -> list[Pair]:
        """Each pair as it was last compared; a verdict may follow from those of other pairs."""
        return [
            replace(self._last[a, b], verdict=self._verdict((a, b) in self._known))
            if self._last[a, b].verdict == "undecided" and (a, b) not in self.open
            else self._last[a, b]
            for a, b in self.chosen
            if (a, b) in self._last
        ]

    def _verdict(self, first: bool) -> Verdict:
        if self._sharper is None:
            return "higher" if first else "lower"
        return "sharper" if first else "flatter"

    def _learn(self, pair: tuple[int, int]) -> None:
        """Add a verdict with all that follows from it, except against what is known."""
        if pair[::-1] in self._known:
            return
        before = {pair[0], *(a for a, b in self._known if b == pair[0])}
        after = {pair[1], *(b for a, b in self._known if a == pair[1])}
        self._known |= {*itertools.product(before, after)}
