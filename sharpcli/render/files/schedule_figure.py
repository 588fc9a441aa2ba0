"""Schedules for a paper and for other programs: rate, batch size and noise scale in panels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from sharpcli.render.pages.schedules import QUANTITIES, Drawn
from sharpcli.render.scene import Array, drawable, on_scale
from sharpcli.runtime.text import figure_text
from sharpcli.settings.output import FigureSettings

__all__ = ["schedule_figure", "schedule_file"]

_WIDTH, _PANEL = 4.6, 0.36  # inches; the height of a panel as a share of it
_DECADES = 100.0  # from the lowest to the highest value, beyond which auto takes a log scale


def schedule_file(drawn: Sequence[Drawn], suffix: str, settings: FigureSettings) -> bytes:
    """The bytes of a ".png", ".svg", ".pdf" or ".npz" file of schedules."""
    if suffix == ".npz":
        return _arrays(drawn)
    from sharpcli.render.files.figure import written

    return written(lambda: schedule_figure(drawn, settings), suffix, inline=settings.inline)


def schedule_figure(drawn: Sequence[Drawn], settings: FigureSettings) -> Any:
    """A panel for each quantity, one above the other over one axis."""
    from matplotlib.figure import Figure

    from sharpcli.render.files.figure import COLORS

    known = [key for key in QUANTITIES if any(key in each.values for each in drawn)]
    width = settings.width or _WIDTH
    figure = Figure((width, width * (0.16 + _PANEL * len(known))), layout="constrained")
    panels = figure.subplots(len(known), sharex=True, squeeze=False)[:, 0]
    for panel, key in zip(panels, known, strict=True):
        values = []
        for index, each in enumerate(drawn):
            if key in each.values:
                values.append(drawable(np.array(each.values[key], dtype=np.float64)))
                panel.plot(
                    drawable(np.array(each.x, dtype=np.float64)),
                    values[-1],
                    color=COLORS[index % len(COLORS)],
                    linestyle="-" if index == 0 else (0, (3.5, 1.5)),
                    linewidth=0.9,
                    drawstyle="steps-post",  # a rate stays until the next update
                    label=figure_text(each.name),
                )
        log = settings.scale == "log" or (settings.scale == "auto" and _spans_decades(values))
        if log:
            panel.set_yscale("log", nonpositive="clip")
        panel.set_ylabel(on_scale(QUANTITIES[key], logarithmic=log))
    if len(drawn) > 1:
        panels[0].legend(loc="best")
    panels[-1].set_xlabel(drawn[0].places)
    return figure


def _spans_decades(values: Sequence[Array]) -> bool:
    low, high = min(each.min() for each in values), max(each.max() for each in values)
    return bool(low > 0 and high > _DECADES * low)


def _arrays(drawn: Sequence[Drawn]) -> bytes:
    """Each schedule's lists, under `0_lr`, `0_batch_size`, `0_noise_scale`, and `0_step` or so."""
    arrays: dict[str, Any] = {"names": np.array([each.name for each in drawn], dtype=np.str_)}
    for index, each in enumerate(drawn):
        arrays[f"{index}_{each.places}"] = np.array(each.x, dtype=np.float64)
        for key, values in each.values.items():
            arrays[f"{index}_{key}"] = np.array(values, dtype=np.float64)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
