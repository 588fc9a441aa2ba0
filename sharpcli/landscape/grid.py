"""Where on a line or a plane the loss is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["axis_values", "grid_points", "line_values"]


def axis_values(low: float, high: float, points: int) -> list[float]:
    """`points` values from `low` to `high`, evenly spaced; a single one is the middle."""
    if points == 1:
        return [(low + high) / 2]
    step = points - 1
    inner = [(low * (step - i) + high * i) / step for i in range(1, step)]
    return [low, *inner, high]


def line_values(low: float, high: float, points: int) -> list[float]:
    """As `axis_values`, with the ends 0 and 1 of a line among them wherever they are in range.

    The values nearest to them are moved there; a single value goes to 0 first.
    """
    values = axis_values(low, high, points)
    free = set(range(points))
    for end in (0.0, 1.0):
        if low <= end <= high and free:
            nearest = min(free, key=lambda i: abs(values[i] - end))
            values[nearest] = end
            free.discard(nearest)
    return sorted(values)


def grid_points(axes: Sequence[Sequence[float]]) -> Iterator[tuple[float, ...]]:
    """Every point of the grid, the first axis running fastest."""
    if len(axes) == 1:
        for alpha in axes[0]:
            yield (alpha,)
        return
    for beta in axes[1]:
        for alpha in axes[0]:
            yield (alpha, beta)
