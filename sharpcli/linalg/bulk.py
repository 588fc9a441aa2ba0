"""Where a spectrum's bulk ends, which eigenvalues lie above, and whether that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.linalg.quadrature import Quadrature

__all__ = ["Bulk", "bulk"]

# The gap below the i-th eigenvalue ends the outliers where it is 5 + ln i times the mean distance
# between the ten eigenvalues below it. At the soft edge of a random matrix that ratio is about 2.
# Even where eigenvalues lie without repelling each other, a gap's chance is (1 + ratio/9)⁻⁹ only,
# and the logarithm keeps that of all of them together small. Outliers are a tenth of all at most.
_GAP, _BELOW, _MOST_SHARE = 5.0, 10, 0.1
# And it is wide enough to be seen: a twentieth of all that lies below it, a hundredth of the whole.
# Some narrower gap is in every bulk, and no number of steps short of all would rule one out.
_OF_THE_REST, _OF_ALL = 0.05, 0.01
# An edge is known where it may be off by less than this share of the spectrum's width, or of the
# largest eigenvalue where all are near each other.
_EDGE = 0.05
# Standard errors that a count of eigenvalues by random starts may be off.
_DEVIATIONS = 3.0
# Where between two eigenvalues another is looked for: nearer to one it would pass for a copy of it.
_INSIDE = (0.01, 0.1, 0.5, 0.9, 0.99)
# Steps in which gaps are looked for, as a share of the narrowest that counts.
_STRIDE = 0.25


@dataclass(frozen=True)
class Bulk:
    """Where the bulk ends and what lies above: `outliers` (k,) descending, with their `errors`.

    `edge` is the largest eigenvalue of the bulk, off by no more than `error`; not `resolved`, the
    probes do not tell that the bulk ends there (with `copies`, since they see as many copies of an
    eigenvalue as there are probes).
    """

    edge: float
    error: float
    outliers: Tensor
    errors: Tensor
    resolved: bool
    copies: bool


@dataclass(frozen=True)
class _Ladder:
    """All values that are seen, descending, with their errors and the eigenvalues they stand for.

    `random` are those counts as far as they are not known but estimated.
    """

    values: Tensor
    errors: Tensor
    counts: Tensor
    random: Tensor
    probes: int

    def below(self, index: int, deviations: float = 0.0) -> float:
        """The mean distance between the ten largest eigenvalues from the `index`-th value on.

        With deviations, what it is at least (< 0) or at most (> 0) for what counts are off.
        Infinite where there are fewer: a gap is then wide beside nothing.
        """
        values = self.values[index:]
        counts, random = self.counts[index:], self.random[index:]
        # Half of a node's eigenvalues lie above it.
        passed = counts.cumsum(0) - counts / 2
        exact = not deviations or not bool((random > 0).any())
        if not exact:
            half = random / 2 * (1 if deviations > 0 else -1)
            inside = random.cumsum(0)
            passed = passed - half - deviations * (2 * inside / max(self.probes, 1)).sqrt()
            passed = passed.cummax(0).values
        wanted = (min(float(passed[0]), 0.5) if exact else 0.5) + _BELOW - 1
        last = int(torch.searchsorted(passed, wanted))
        if last == len(values):
            return math.inf
        if last == 0:
            return 0.0
        share = (wanted - float(passed[last - 1])) / float(passed[last] - passed[last - 1])
        if not exact:
            share = 1.0 if deviations > 0 else 0.0
        place = float(values[last - 1]) + share * float(values[last] - values[last - 1])
        return (float(values[0]) - place) / (_BELOW - 1)


def bulk(found: Quadrature) -> Bulk:
    """The eigenvalues above the deepest wide gap of the spectrum, and the bulk below it.

    The gap below the i-th eigenvalue is wide at 5 + ln i times the mean distance between the ten
    eigenvalues below it, at 5 % of the width of all below it and at 1 % of the whole. Without such
    a gap all is bulk. It is resolved where the eigenvalues above are known one by one with their
    copies, where nothing can be in the gap, and where the runs leave no room for a wide gap below.
    """
    ladder = _ladder(found)
    values, size = ladder.values, found.size
    (high, high_error), (low, low_error) = found.ends()
    width = high - low
    most = min(len(found.top), int(_MOST_SHARE * size), len(values) - 1)
    number, doubtful, errors = 0, 0, {0: high_error}
    for index in range(1, most + 1):
        gap = float(values[index - 1] - values[index])
        slack = float(ladder.errors[index - 1] + ladder.errors[index]) + found.rounding
        wide = _GAP + math.log(index)
        seen = max(_OF_THE_REST * float(values[index] - low), _OF_ALL * width)
        if gap + slack < seen:
            continue
        apart = gap > 2 * (float(ladder.errors[index - 1]) + found.rounding)
        if apart and gap >= seen and gap >= wide * ladder.below(index):
            number = index
            above = 0.0
            if found.rest:
                above = found.runs.above(float(values[index]), float(values[index - 1]))
            errors[index] = max(float(ladder.errors[index]), found.rounding, above)
            seen = max(
                _OF_THE_REST * (float(values[index]) + above - low + low_error),
                _OF_ALL * (width + high_error + low_error),
            )
            certain = found.sure >= index and math.isfinite(above)
            certain &= gap - slack - above >= max(seen, wide * ladder.below(index, _DEVIATIONS))
            doubtful = 0 if certain else index
        elif gap + slack >= wide * ladder.below(index, -_DEVIATIONS):
            doubtful = index
    edge, error = float(values[number]), errors[number]
    clear = not doubtful and error <= _EDGE * max(width, abs(high), abs(low))
    if clear and found.rest:
        clear = _nothing_among(found, values[:number]) and not _room(found, most, low, width)
    return Bulk(edge, error, values[:number], ladder.errors[:number], clear, found.crowded)


def _ladder(found: Quadrature) -> _Ladder:
    ones = [torch.ones_like(found.top), torch.ones_like(found.bottom)]
    probes = len(found.rest)
    rests = [probe.weights * found.size / probes for probe in found.rest]
    values = torch.cat([found.top, *(probe.values for probe in found.rest), found.bottom])
    errors = torch.cat(
        [found.top_errors, *(probe.residuals for probe in found.rest), found.bottom_errors]
    )
    counts = torch.cat([ones[0], *rests, ones[1]])
    random = torch.cat([0 * ones[0], *rests, 0 * ones[1]])
    order = values.argsort(descending=True, stable=True)
    return _Ladder(values[order], errors[order], counts[order], random[order], probes)


def _nothing_among(found: Quadrature, outliers: Tensor) -> bool:
    """Whether no eigenvalue was missed between those that are known."""
    gaps = outliers[:-1] - outliers[1:]
    wide = gaps > found.rounding
    fractions = torch.tensor(_INSIDE, dtype=torch.float64)
    places = (outliers[1:][wide][:, None] + gaps[wide][:, None] * fractions).ravel()
    return bool(found.runs.excluded(places).all())


def _room(found: Quadrature, tested: int, low: float, width: float) -> bool:
    """Whether the runs leave room for a wide gap below the known eigenvalues of the top."""
    if tested < len(found.top):
        return False  # a tenth of all eigenvalues are known one by one, and were tested
    start = max(float(probe.values.max()) for probe in found.rest)
    known = float(found.top[-1]) if len(found.top) else math.inf
    start = min(start + found.runs.above(start, known), known)
    narrowest = max(_OF_ALL * width, found.rounding)
    if start - narrowest <= low:
        return False
    stride = _STRIDE * narrowest
    # Middles of gaps, and the least width of one there.
    places = torch.arange(start - narrowest / 2, low, -stride, dtype=torch.float64)
    least = _OF_THE_REST / (1 + _OF_THE_REST / 2) * (places - low)
    least = least.clamp(min=narrowest)
    possible = places + least / 2 <= start
    counted = torch.zeros_like(places)
    for nodes in found.rest:
        rising, order = nodes.values.sort()
        above = nodes.weights[order].flip(0).cumsum(0).flip(0)
        above = torch.cat([above, torch.zeros_like(above[:1])])
        counted += above[torch.searchsorted(rising, places + least / 2)]
    counted *= found.size / len(found.rest)
    sure = counted - _DEVIATIONS * (2 * counted / len(found.rest)).sqrt() + len(found.top)
    possible &= sure <= _MOST_SHARE * found.size
    places, least = places[possible], least[possible]
    for run in found.runs.runs:
        room = 2 * (run.nearest(places) + found.rounding) + stride >= least
        places, least = places[room], least[room]
    return len(places) > 0
