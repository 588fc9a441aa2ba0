"""Which texts of a figure lie over each other or outside of it, by the renderer's boxes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from sharpcli.render.files import figure as files

_TOUCH = 0.5  # pixels that letters' boxes may share: they have room around the ink


def overlapping(draw: Callable[[], bytes]) -> list[tuple[str, str]]:
    """Pairs of texts, in the figure that `draw` writes, whose boxes share more than their rims."""
    found: list[tuple[str, str]] = []
    write = files.written

    def written(make: Callable[[], Figure], suffix: str, **more: Any) -> bytes:
        def looked_at() -> Figure:
            figure = make()
            FigureCanvasAgg(figure)
            figure.draw_without_rendering()
            found.extend(_overlaps(figure))
            return figure

        return write(looked_at, suffix, **more)

    with mock.patch.object(files, "written", written):
        draw()
    return found


def _overlaps(figure: Figure) -> list[tuple[str, str]]:
    outside = _ticks_outside(figure)
    texts = [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in outside
    ]
    found = []
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        up = min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > _TOUCH and up > _TOUCH:
            found.append((one, other))
    return found


def _ticks_outside(figure: Figure) -> set[int]:
    """The labels of ticks beyond the ends of their axis, which matplotlib keeps and never draws."""
    found = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            room = 1e-9 * (high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low - room <= tick.get_loc() <= high + room:
                    found |= {id(tick.label1), id(tick.label2)}
    return found
