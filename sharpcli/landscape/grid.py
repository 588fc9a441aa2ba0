"""The grid of points on a line or a plane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sharpcli.errors import UsageError, setting

__all__ = ["axis_values", "check_line", "fewest_points", "grid_points", "line_values"]

_ENDS = (0.0, 1.0)  # A and B


def axis_values(low: float, high: float, points: int) -> list[float]:
    """`points` evenly spaced values from `low` to `high`; a single value is the middle."""
    if points == 1:
        return [(low + high) / 2]
    step = points - 1
    inner = [(low * (step - i) + high * i) / step for i in range(1, step)]
    return [low, *inner, high]


def line_values(low: float, high: float, points: int) -> list[float]:
    """Like `axis_values`, with the line's ends 0 and 1 among the values if they are in range.

    The values nearest to 0 and 1 move there, except `low` and `high` if there are points for all
    (`fewest_points`). A single value moves to 0 first.
    """
    values = axis_values(low, high, points)
    free, ends = set(range(points)), _inside(low, high)
    if points >= fewest_points(low, high):
        free -= {0, points - 1}
        ends = tuple(end for end in ends if end not in (low, high))
    for end in ends[: len(free)]:
        nearest = min(free, key=lambda i: abs(values[i] - end))
        values[nearest] = end
        free.discard(nearest)
    return sorted(values)


def fewest_points(low: float, high: float) -> int:
    """The points needed for both ends of a range and the 0 and 1 in it; 1 without 0 and 1."""
    inside = _inside(low, high)
    return len({low, high, *inside}) if inside else 1


def check_line(low: float, high: float, points: int) -> None:
    """Raise `UsageError` if the points are too few for the range; it names the fewest."""
    fewest = fewest_points(low, high)
    if points < fewest:
        held = " and ".join(f"{end:g}" for end in _inside(low, high))
        raise UsageError(
            f"{setting('points', points)}: a range of {low:g}:{high:g} that holds {held} takes "
            f"{fewest} points at least",
            f"ask for {fewest} or more, or for a {setting('ranges')} with an end at 0 or 1, such "
            "as 0:1",
        )


def _inside(low: float, high: float) -> tuple[float, ...]:
    return tuple(end for end in _ENDS if low <= end <= high)


def grid_points(axes: Sequence[Sequence[float]]) -> Iterator[tuple[float, ...]]:
    """Every point of the grid, the first axis running fastest."""
    if len(axes) == 1:
        for alpha in axes[0]:
            yield (alpha,)
        return
    for beta in axes[1]:
        for alpha in axes[0]:
            yield (alpha, beta)
