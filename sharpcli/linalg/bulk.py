"""Where a spectrum's bulk ends, which eigenvalues are outliers, and whether that is resolved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.linalg.quadrature import Quadrature

__all__ = ["Bulk", "bulk"]

# The gap below the i-th eigenvalue ends the outliers if it is 5 + ln i times the mean distance
# between the ten eigenvalues below it. At the soft edge of a random matrix this ratio is about 2.
# Even for eigenvalues that do not repel each other a gap has a chance of only (1 + ratio/9)⁻⁹, and
# the logarithm keeps the sum of all chances small. At most a tenth of all eigenvalues are outliers.
_GAP, _BELOW, _MOST_SHARE = 5.0, 10, 0.1
# The gap must also be visible: a twentieth of the width below it and a hundredth of the full width.
# Every bulk has narrower gaps, and only a complete solve could exclude them.
_OF_THE_REST, _OF_ALL = 0.05, 0.01
# An edge is known if its error is less than this share of the spectrum's width, or of the largest
# eigenvalue if all are close together.
_EDGE = 0.05
# Allowance for the random error of an eigenvalue count, in standard errors.
_DEVIATIONS = 3.0
# Places between two eigenvalues to test for a third: closer to either it would look like a copy.
_INSIDE = (0.01, 0.1, 0.5, 0.9, 0.99)
# Step of the search for gaps, as a share of the narrowest gap that counts.
_STRIDE = 0.25


@dataclass(frozen=True)
class Bulk:
    """The edge of the bulk and the eigenvalues above it.

    `outliers` (k,) are descending, with their `errors`. `edge` is the largest eigenvalue of the
    bulk, within `error`. If not `resolved`, the probes cannot establish that the bulk ends there;
    `copies` if the reason is an eigenvalue with as many copies as there are probes.
    """

    edge: float
    error: float
    outliers: Tensor
    errors: Tensor
    resolved: bool
    copies: bool


@dataclass(frozen=True)
class _Ladder:
    """All values that the quadrature shows, descending, with errors and numbers of eigenvalues.

    `random` is the part of each of the `counts` that is estimated, not known.
    """

    values: Tensor
    errors: Tensor
    counts: Tensor
    random: Tensor
    probes: int

    def below(self, index: int, deviations: float = 0.0) -> float:
        """The mean distance between the ten largest eigenvalues from the `index`-th value on.

        With `deviations`, a lower (< 0) or upper (> 0) bound given the errors of the counts.
        Infinite if there are fewer than ten, so that no gap above them is wide.
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
    """Separate the outliers above the deepest wide gap of the spectrum from the bulk below it.

    The gap below the i-th eigenvalue is wide if it is at least 5 + ln i times the mean distance
    between the ten eigenvalues below it, 5 % of the width below it and 1 % of the full width.
    Without such a gap there are no outliers. The gap is resolved if the eigenvalues above it are
    known one by one with their copies, no eigenvalue can be in the gap, and the Lanczos runs leave
    no room for a wide gap further down.
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
    """Whether no eigenvalue was missed between the known outliers."""
    gaps = outliers[:-1] - outliers[1:]
    wide = gaps > found.rounding
    fractions = torch.tensor(_INSIDE, dtype=torch.float64)
    places = (outliers[1:][wide][:, None] + gaps[wide][:, None] * fractions).ravel()
    return bool(found.runs.excluded(places).all())


def _room(found: Quadrature, tested: int, low: float, width: float) -> bool:
    """Whether the Lanczos runs leave room for a wide gap below the known eigenvalues of the top."""
    if tested < len(found.top):
        return False  # a tenth of all eigenvalues are known one by one and have been tested
    start = max(float(probe.values.max()) for probe in found.rest)
    known = float(found.top[-1]) if len(found.top) else math.inf
    start = min(start + found.runs.above(start, known), known)
    narrowest = max(_OF_ALL * width, found.rounding)
    if start - narrowest <= low:
        return False
    stride = _STRIDE * narrowest
    # Middles of possible gaps, and the least width of a gap there.
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
